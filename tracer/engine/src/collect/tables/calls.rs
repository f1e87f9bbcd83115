//! Calls per probe.

use std::sync::Arc;

use tracer_common::{Action, counter::Counter};

use super::Seen;
use crate::set::ProbeSet;
use faultline_plan::{Costs, ProbeId};

/// How often a probe's function was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The probe.
    pub id: ProbeId,
    /// Its label.
    pub label: Arc<str>,
    /// Calls that matched.
    pub hits: u64,
    /// Calls filtered out by the user's condition.
    pub filtered: u64,
    /// An estimate, in nanoseconds, of what the probe cost the traced programs: its calls times the cost of
    /// a call on this machine.
    pub cost_ns: Option<u64>,
    /// Set if the probe was not attached all the time.
    pub seen: Option<Seen>,
}

/// The calls of every probe, most first; equal numbers by name. Their cost is given if `costs` is.
pub fn calls(set: &ProbeSet, costs: Option<&Costs>) -> Vec<Calls> {
    let counters = &set.source.counters;
    let of_probe = |(index, probe): (usize, &faultline_plan::PlannedProbe)| {
        let id = ProbeId(index as u32);
        let hits = counters.sum(id, Counter::Aggregated);
        let filtered = counters.sum(id, Counter::Filtered);
        let call_ns = costs.map(|costs| costs.of_call(probe, Action::Count));
        let cost_ns = call_ns.map(|ns| ns.saturating_mul(hits + filtered));
        Calls {
            id,
            label: Arc::clone(&probe.label),
            hits,
            filtered,
            cost_ns,
            seen: set.seen(id, hits),
        }
    };
    let mut calls: Vec<_> = set.plan.probes.iter().enumerate().map(of_probe).collect();
    calls.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.label.cmp(&b.label)));
    calls
}
