//! What the hits of probes cost: as `estimated_ns` of a summary, what their breakpoints cost on this
//! machine and what the programs took.

use std::time::Duration;

use tracer_common::counter::Counter;

use crate::{
    kernel::Counters,
    plan::{BreakpointCosts, ProbeId},
};

/// Assumed where nobody has measured: more than any hit costs, so that nothing is hurt.
const UNKNOWN: BreakpointCosts = BreakpointCosts { entry_ns: 10_000, return_ns: 10_000 };

/// The meter of a plan's probes.
#[derive(Debug)]
pub struct Meter {
    /// Of a hit, by probe.
    costs: Vec<BreakpointCosts>,
    /// What all hits had cost at the last reading.
    before_ns: Vec<u64>,
    /// What those between the last two have cost.
    since_ns: Vec<u64>,
}

impl Meter {
    /// Of so many probes with these costs; where there are none, nobody has measured them.
    pub fn new(mut costs: Vec<BreakpointCosts>, probes: usize) -> Self {
        costs.resize(probes, UNKNOWN);
        Self { costs, before_ns: vec![0; probes], since_ns: vec![0; probes] }
    }

    /// Reads the counters; what hits have cost since the last time.
    pub fn read(&mut self, counters: &Counters) -> Duration {
        let entries = counters.sums(&[Counter::PlainHits, Counter::CallsOpened]);
        let returns = counters.sums(&[Counter::CallsReturned, Counter::NoEntry]);
        let handlers_ns = counters.sums(&[Counter::HandlerNs]);
        let hits = entries.into_iter().zip(returns).zip(handlers_ns);
        let all = self.before_ns.iter_mut().zip(&mut self.since_ns).zip(&self.costs);
        let mut spent_ns = 0;
        for (((entries, returns), handler_ns), ((before, since), costs)) in hits.zip(all) {
            let now = costs.of_hits(entries, returns).saturating_add(handler_ns);
            *since = now.saturating_sub(*before);
            *before = now;
            spent_ns += *since;
        }
        Duration::from_nanos(spent_ns)
    }

    /// The same by probe, of those that were hit.
    pub fn costs(&self) -> Vec<(ProbeId, Duration)> {
        let hit = self.since_ns.iter().enumerate().filter(|(_, ns)| **ns != 0);
        hit.map(|(index, ns)| (ProbeId(index as u32), Duration::from_nanos(*ns))).collect()
    }
}
