//! What the hits of probes cost: their number times what one costs on this machine, and the time that
//! the programs have measured themselves.

use std::time::Duration;

use crate::{
    kernel::Counters,
    plan::{BreakpointCosts, Costs, PlannedProbe, ProbeId},
};

/// Assumed where nobody has measured: more than any hit costs, so that nothing is hurt.
const UNKNOWN: BreakpointCosts = BreakpointCosts { entry_ns: 10_000, return_ns: 2_000 };

/// The meter of a plan's probes.
#[derive(Debug)]
pub struct Meter {
    /// Of a hit, by probe.
    costs: Vec<BreakpointCosts>,
    /// Nanoseconds spent at the last reading, by probe.
    before_ns: Vec<u64>,
    /// Nanoseconds spent between the last two.
    since_ns: Vec<u64>,
}

impl Meter {
    /// Of these probes.
    pub fn new(probes: &[PlannedProbe], costs: Option<&Costs>) -> Self {
        let cost = |probe| costs.map_or(UNKNOWN, |costs| costs.of_breakpoints(probe));
        Self {
            costs: probes.iter().map(cost).collect(),
            before_ns: vec![0; probes.len()],
            since_ns: vec![0; probes.len()],
        }
    }

    /// Reads the counters; what hits have cost since the last time.
    pub fn read(&mut self, counters: &Counters) -> Duration {
        let now_ns = counters.estimated_costs_ns(&self.costs);
        let all = self.before_ns.iter_mut().zip(&mut self.since_ns);
        for (now_ns, (before_ns, since_ns)) in now_ns.into_iter().zip(all) {
            *since_ns = now_ns.saturating_sub(*before_ns);
            *before_ns = now_ns;
        }
        Duration::from_nanos(self.since_ns.iter().sum())
    }

    /// The same by probe, of those that were hit.
    pub fn costs(&self) -> Vec<(ProbeId, Duration)> {
        let spent = self.since_ns.iter().enumerate().filter(|(_, ns)| **ns != 0);
        spent.map(|(index, ns)| (ProbeId(index as u32), Duration::from_nanos(*ns))).collect()
    }
}
