//! What the hits of probes cost: their number times what one costs on this machine.

use std::time::Duration;

use tracer_common::Action;

use crate::{
    kernel::Counters,
    plan::{Class, Costs, Place, PlannedProbe, ProbeId},
};

/// Assumed where nobody has measured: more than any hit costs, so that nothing is hurt.
const UNKNOWN_NS: u64 = 10_000;

/// What writing an event takes on top of what [`Costs`] know of.
const EVENT_NS: u64 = 150;

/// The meter of a plan's probes.
#[derive(Debug)]
pub struct Meter {
    /// Of a call, by probe.
    costs_ns: Vec<u64>,
    /// Calls at the last reading.
    before: Vec<u64>,
    /// Calls between the last two.
    since: Vec<u64>,
}

impl Meter {
    /// Of these probes, by what becomes of their hits.
    pub fn new(probes: &[PlannedProbe], costs: Option<&Costs>, action: Action) -> Self {
        let extra_ns = match action {
            Action::Events => EVENT_NS,
            Action::Count | Action::Latency => 0,
        };
        let cost = |probe: &PlannedProbe| {
            let ns = costs.and_then(|costs| of_call(costs, probe));
            ns.unwrap_or(UNKNOWN_NS) + extra_ns
        };
        Self {
            costs_ns: probes.iter().map(cost).collect(),
            before: vec![0; probes.len()],
            since: vec![0; probes.len()],
        }
    }

    /// Reads the counters; what hits have cost since the last time.
    pub fn read(&mut self, counters: &Counters) -> Duration {
        let calls = counters.calls();
        let mut spent_ns = 0;
        let all = self.before.iter_mut().zip(&mut self.since).zip(&self.costs_ns);
        for (now, ((before, since), cost_ns)) in calls.into_iter().zip(all) {
            *since = now.saturating_sub(*before);
            *before = now;
            spent_ns += *since * cost_ns;
        }
        Duration::from_nanos(spent_ns)
    }

    /// The same by probe, of those that were hit.
    pub fn costs(&self) -> Vec<(ProbeId, Duration)> {
        let all = self.since.iter().zip(&self.costs_ns).enumerate();
        all.filter(|(_, (calls, _))| **calls != 0)
            .map(|(index, (calls, cost_ns))| {
                (ProbeId(index as u32), Duration::from_nanos(calls * cost_ns))
            })
            .collect()
    }
}

/// What a call costs; where its class is not known, it is taken for the dearest.
fn of_call(costs: &Costs, probe: &PlannedProbe) -> Option<u64> {
    costs.of_call(probe).or_else(|| {
        let class = Class::SingleStepped;
        let place = Place { moved_bytes: 0, stack_bias: 0, class, entry_class: class };
        costs.of_call(&PlannedProbe { place: Some(place), ..probe.clone() })
    })
}
