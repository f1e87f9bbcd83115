//! What the hits of probes cost. As in a summary's `estimated_ns`, this is the cost of the breakpoints on
//! this machine plus the time spent in the programs.

use std::time::Duration;

use tracer_common::counter::{Counter, ENTRIES, RETURNS};

use crate::kernel::Counters;
use faultline_plan::{BreakpointCosts, ProbeId};

/// Assumed if there are no measurements: more than any hit costs, to be on the safe side.
const UNKNOWN: BreakpointCosts = BreakpointCosts { entry_ns: 10_000, return_ns: 10_000 };

/// The extra cost of a hit when so many functions are hit in turn that their probes do not stay in the
/// CPU's caches, in nanoseconds per doubling of their number. Measured: 743 ns for one function, 796 for
/// 100, 820 for 1,000, 894 for 10,000.
const COLD_NS: f64 = 12.0;

/// The meter of a plan's probes.
#[derive(Debug)]
pub struct Meter {
    /// The cost of a hit, by probe.
    costs: Vec<BreakpointCosts>,
    /// Hits at the last reading, and their cost.
    before: Vec<(u64, u64)>,
    /// The cost of the hits between the last two readings.
    since_ns: Vec<u64>,
}

impl Meter {
    /// A meter for this many probes with these costs; if there are none, they were not measured.
    pub fn new(mut costs: Vec<BreakpointCosts>, probes: usize) -> Self {
        costs.resize(probes, UNKNOWN);
        Self { costs, before: vec![(0, 0); probes], since_ns: vec![0; probes] }
    }

    /// Reads the counters; returns what hits have cost since the last reading.
    pub fn read(&mut self, counters: &Counters) -> Duration {
        let entries = counters.sums(&ENTRIES);
        let ends = [&RETURNS[..], &[Counter::ExitsPassed]].concat();
        let returns = counters.sums(&ends);
        let handlers_ns = counters.sums(&[Counter::HandlerNs]);
        let counted = entries.into_iter().zip(returns).zip(handlers_ns);
        let mut hits_since = vec![0; self.since_ns.len()];
        let all = self.before.iter_mut().zip(&mut self.since_ns).zip(&mut hits_since);
        for ((((entries, returns), handler_ns), ((before, since_ns), hits_since)), costs) in
            counted.zip(all).zip(&self.costs)
        {
            let hits = entries + returns;
            let ns = costs.of_hits(entries, returns).saturating_add(handler_ns);
            *hits_since = hits.saturating_sub(before.0);
            *since_ns = ns.saturating_sub(before.1);
            *before = (hits, ns);
        }
        let functions = hits_since.iter().filter(|hits| **hits != 0).count();
        let cold_ns = (COLD_NS * (functions.max(1) as f64).log2()) as u64;
        for (since_ns, hits) in self.since_ns.iter_mut().zip(hits_since) {
            *since_ns += hits * cold_ns;
        }
        Duration::from_nanos(self.since_ns.iter().sum())
    }

    /// The same by probe, for the probes that were hit.
    pub fn costs(&self) -> Vec<(ProbeId, Duration)> {
        let hit = self.since_ns.iter().enumerate().filter(|(_, ns)| **ns != 0);
        hit.map(|(index, ns)| (ProbeId(index as u32), Duration::from_nanos(*ns))).collect()
    }
}
