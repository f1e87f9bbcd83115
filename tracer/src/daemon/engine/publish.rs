//! What is attached, told to those who ask.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError},
};

use serde::Serialize;

use super::{
    Engine,
    group::Group,
    named::{Named, Origin, Part},
};
use crate::daemon::config::{Action, ProbeText};
use faultline_output::prometheus::{Catalog, Durations, Figures, Kind, Retired, Series};
use faultline_plan::ProbeId;

/// Reasons that are listed; the rest is only counted.
const SHOWN_SKIPPED: usize = 20;

/// A named probe, as `ctl list` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::daemon) struct ProbeStatus {
    /// As it was written.
    #[serde(flatten)]
    pub(in crate::daemon) text: ProbeText,
    /// `attached` or `waiting`.
    pub(in crate::daemon) state: &'static str,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::daemon) problem: Option<String>,
    /// `config` or `control`.
    pub(in crate::daemon) origin: &'static str,
    /// Functions that are probed now.
    pub(in crate::daemon) functions: usize,
    /// Of these, functions that the overhead budget has detached now.
    pub(in crate::daemon) detached: usize,
    /// Links.
    pub(in crate::daemon) links: usize,
    /// Files that are probed, as their processes name them.
    pub(in crate::daemon) files: Vec<String>,
    /// Processes that are probed, where not all are.
    pub(in crate::daemon) processes: Vec<u32>,
    /// Functions that cannot be probed.
    pub(in crate::daemon) skipped: usize,
    /// Some of them, with the reason.
    pub(in crate::daemon) reasons: Vec<Skipped>,
}

/// A function that cannot be probed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::daemon) struct Skipped {
    probe: String,
    reason: String,
}

impl Engine {
    /// Publishes what is attached now.
    pub(super) fn publish(&self) {
        self.shared.metrics.publish(self.catalog());
        let statuses = self.named.values().map(|named| self.status(named)).collect();
        *self.shared.probes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(statuses);
    }

    fn catalog(&self) -> Catalog {
        let index: BTreeMap<_, _> =
            self.groups.keys().enumerate().map(|(index, id)| (*id, index)).collect();
        let mut series = Vec::new();
        let mut catalog = Catalog::default();
        for named in self.named.values() {
            let mut by_label: BTreeMap<Arc<str>, Vec<(usize, ProbeId)>> = BTreeMap::new();
            let mut reads = false;
            for part in &named.parts {
                let Some(group) = self.groups.get(&part.group) else { continue };
                for id in &part.ids {
                    let Some(probe) = group.plan.probes.get(id.0 as usize) else { continue };
                    reads |= probe.program.reads_memory();
                    let label = Arc::clone(&probe.label);
                    by_label.entry(label).or_default().push((index[&part.group], *id));
                }
            }
            for label in named.retired.keys() {
                by_label.entry(Arc::clone(label)).or_default();
            }
            let config = &named.config;
            let withholds =
                config.condition.is_some() || config.sample.is_some() || config.rate.is_some();
            let kind = match named.config.action {
                Action::Count => Kind::Count,
                Action::Latency => Kind::Latency,
                Action::Events => Kind::Events { reads },
            };
            series.extend(by_label.into_iter().map(|(probe, parts)| Series {
                name: Arc::clone(&named.config.name),
                kind,
                withholds,
                parts,
                retired: named.retired.get(&probe).cloned(),
                probe,
            }));
            if named.problem.is_none() {
                catalog.probes_attached += 1;
            } else {
                catalog.probes_waiting += 1;
            }
            catalog.functions += self.functions(named);
            catalog.links += named.attachments().map(|place| place.links.len()).sum::<usize>();
            catalog.skipped += named.skipped.len();
        }
        catalog.sources = self
            .groups
            .values()
            .map(|group| Arc::clone(&group.source))
            .chain(self.leaving.iter().flat_map(|leaving| &leaving.sources).cloned())
            .collect();
        catalog.series = series;
        catalog.retired = Retired { cpus: self.retired.clone() };
        catalog
    }
}

/// What the functions of a part have counted, by label.
pub(super) fn figures_of(group: &Group, part: &Part) -> Vec<(Arc<str>, Figures)> {
    let mut of_ids: BTreeMap<_, Durations> = BTreeMap::new();
    group.source.each_durations(|id, durations| of_ids.entry(id).or_default().add(durations));
    part.ids
        .iter()
        .filter_map(|id| {
            let probe = group.plan.probes.get(id.0 as usize)?;
            let mut figures = Figures::read(&group.source, *id);
            if let Some(durations) = of_ids.get(id) {
                figures.add_durations(durations);
            }
            Some((Arc::clone(&probe.label), figures))
        })
        .collect()
}

impl Engine {
    /// Functions of a named probe that are probed now: one that is in files of several contents is one.
    fn functions(&self, named: &Named) -> usize {
        let mut live = named.live_parts();
        let (Some(first), Some(second)) = (live.next(), live.next()) else {
            return named.live_parts().map(|part| part.ids.len()).sum();
        };
        let labels = [first, second].into_iter().chain(live).filter_map(|part| {
            let probes = &self.groups.get(&part.group)?.plan.probes;
            Some(part.ids.iter().filter_map(|id| Some(&probes.get(id.0 as usize)?.label)))
        });
        labels.flatten().collect::<HashSet<_>>().len()
    }

    fn status(&self, named: &Named) -> ProbeStatus {
        let is_away = |part: &Part, id: &ProbeId| {
            self.overseer.as_ref().is_some_and(|overseer| overseer.is_away(part.group, *id))
        };
        let away = |part: &Part| part.ids.iter().filter(|id| is_away(part, id)).count();
        let mut files: Vec<_> =
            named.attachments().map(|place| place.file.path().display().to_string()).collect();
        files.sort_unstable();
        files.dedup();
        let mut processes: Vec<_> =
            named.attachments().filter_map(|place| Some(place.traced?.pid.get())).collect();
        processes.sort_unstable();
        processes.dedup();
        let mut reasons: Vec<_> = named
            .skipped
            .iter()
            .map(|(probe, reason)| Skipped { probe: probe.to_string(), reason: reason.clone() })
            .collect();
        reasons.sort_by(|one, other| one.probe.cmp(&other.probe));
        reasons.truncate(SHOWN_SKIPPED);
        ProbeStatus {
            text: named.config.text.clone(),
            state: if named.problem.is_none() { "attached" } else { "waiting" },
            problem: named.problem.as_deref().map(str::to_owned),
            origin: match named.origin {
                Origin::Config => "config",
                Origin::Control => "control",
            },
            functions: self.functions(named),
            detached: named.live_parts().map(away).sum(),
            links: named.attachments().map(|place| place.links.len()).sum(),
            files,
            processes,
            skipped: named.skipped.len(),
            reasons,
        }
    }
}
