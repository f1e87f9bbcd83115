//! Calls a probe.

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
    /// Calls that were wanted.
    pub hits: u64,
    /// Calls that were not wanted by the user's condition.
    pub filtered: u64,
    /// What the probe has cost the traced programs, in nanoseconds: an estimate, its calls times
    /// what a call costs on this machine.
    pub cost_ns: Option<u64>,
    /// If the probe was not attached all the time.
    pub seen: Option<Seen>,
}

/// The calls of every probe, most first; of those with equally many, by name. What they cost is
/// known where `costs` is.
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
