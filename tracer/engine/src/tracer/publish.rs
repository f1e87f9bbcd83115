//! Publishes what is attached, for display.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use faultline_plan::{ActionNeeds, ProbeId};
use faultline_resolve::Skipped;

pub use super::probed::Origin;
use super::{
    engine::Engine,
    probed::{Part, Probed},
};
use crate::{
    collect::catalog::{Catalog, Durations, Figures, Kind, Retired, Series},
    request::Request,
    set::ProbeSet,
};

/// A request and its state.
#[derive(Debug, Clone)]
pub struct RequestStatus {
    /// The request itself.
    pub request: Arc<Request>,
    /// Where it comes from.
    pub origin: Origin,
    /// Why it is waiting for its target, if it is.
    pub problem: Option<Arc<str>>,
    /// Functions that are probed now; a function in several different files counts once.
    pub functions: usize,
    /// Of these, functions that the overhead budget has detached at the moment.
    pub away: usize,
    /// Links.
    pub links: usize,
    /// Probed files, under the names that their processes use.
    pub files: Vec<String>,
    /// Probed processes, unless all are.
    pub processes: Vec<u32>,
    /// Functions that cannot be probed, by label.
    pub skipped: Vec<Skipped>,
}

impl Engine {
    /// Publishes what is attached now.
    pub(super) fn publish(&self) {
        let observer = &self.options.observer;
        if observer.wants_catalog() {
            let statuses = self.requests.values().map(|probed| self.status(probed)).collect();
            observer.published(self.catalog(), statuses);
        }
    }

    /// Adds the counts of sets that are gone to the permanent sums.
    pub(super) fn retire(&mut self, sets: &[Arc<ProbeSet>]) {
        let last = Catalog {
            sources: sets.iter().map(|set| Arc::clone(&set.source)).collect(),
            retired: std::mem::take(&mut self.retired),
            ..Catalog::default()
        };
        self.retired = Retired { cpus: last.read().cpus, children: last.children() };
    }

    fn catalog(&self) -> Catalog {
        let index: BTreeMap<_, _> =
            self.sets.keys().enumerate().map(|(index, id)| (*id, index)).collect();
        let mut series = Vec::new();
        let mut catalog = Catalog::default();
        for probed in self.requests.values() {
            let mut by_label: BTreeMap<Arc<str>, Vec<(usize, ProbeId)>> = BTreeMap::new();
            let mut reads = false;
            for part in &probed.parts {
                let Some(set) = self.sets.get(&part.set) else { continue };
                for id in &part.ids {
                    let Some(probe) = set.plan.probes.get(id.0 as usize) else { continue };
                    reads |= probe.program.reads_memory();
                    let label = Arc::clone(&probe.label);
                    by_label.entry(label).or_default().push((index[&part.set], *id));
                }
            }
            for label in probed.retired.keys() {
                by_label.entry(Arc::clone(label)).or_default();
            }
            let request = &probed.request;
            let withholds =
                request.condition.is_some() || request.sample.is_some() || request.rate.is_some();
            let kind = match ActionNeeds::of(request.action) {
                needs if needs.records => Kind::Events { reads },
                needs if needs.histograms => Kind::Latency,
                _ => Kind::Count,
            };
            series.extend(by_label.into_iter().map(|(probe, parts)| Series {
                name: Arc::clone(&request.name),
                kind,
                withholds,
                parts,
                retired: probed.retired.get(&probe).cloned(),
                probe,
            }));
            if probed.problem.is_none() {
                catalog.probes_attached += 1;
            } else {
                catalog.probes_waiting += 1;
            }
            catalog.functions += self.functions(probed);
            catalog.links += probed.places().map(|place| place.links.len()).sum::<usize>();
            catalog.skipped += probed.skipped.len();
        }
        let leaving = self.leaving.iter().flat_map(|leaving| &leaving.sets);
        catalog.sources =
            self.sets.values().chain(leaving).map(|set| Arc::clone(&set.source)).collect();
        catalog.series = series;
        catalog.retired = self.retired.clone();
        catalog
    }

    /// Functions of a request that are probed now.
    fn functions(&self, probed: &Probed) -> usize {
        let mut live = probed.live_parts();
        let (Some(first), Some(second)) = (live.next(), live.next()) else {
            return probed.live_parts().map(|part| part.ids.len()).sum();
        };
        let labels = [first, second].into_iter().chain(live).filter_map(|part| {
            let probes = &self.sets.get(&part.set)?.plan.probes;
            Some(part.ids.iter().filter_map(|id| Some(&probes.get(id.0 as usize)?.label)))
        });
        labels.flatten().collect::<HashSet<_>>().len()
    }

    fn status(&self, probed: &Probed) -> RequestStatus {
        let is_away = |part: &Part, id: &ProbeId| {
            self.limiter.as_ref().is_some_and(|limiter| limiter.is_away(part.set, *id))
        };
        let away = |part: &Part| part.ids.iter().filter(|id| is_away(part, id)).count();
        let mut files: Vec<_> =
            probed.places().map(|place| place.file.path().display().to_string()).collect();
        files.sort_unstable();
        files.dedup();
        let mut processes: Vec<_> =
            probed.places().filter_map(|place| Some(place.process?.pid.get())).collect();
        processes.sort_unstable();
        processes.dedup();
        let mut skipped: Vec<_> = probed.skipped.values().cloned().collect();
        skipped.sort_by(|one, other| one.label.cmp(&other.label));
        RequestStatus {
            request: Arc::clone(&probed.request),
            origin: probed.origin,
            problem: probed.problem.clone(),
            functions: self.functions(probed),
            away: probed.live_parts().map(away).sum(),
            links: probed.places().map(|place| place.links.len()).sum(),
            files,
            processes,
            skipped,
        }
    }
}

/// The counts of a part's functions, by label.
pub(super) fn figures_of(set: &ProbeSet, part: &Part) -> Vec<(Arc<str>, Figures)> {
    let mut of_ids: BTreeMap<_, Durations> = BTreeMap::new();
    set.source.each_durations(|id, durations| of_ids.entry(id).or_default().add(durations));
    part.ids
        .iter()
        .filter_map(|id| {
            let probe = set.plan.probes.get(id.0 as usize)?;
            let mut figures = Figures::read(&set.source, *id);
            if let Some(durations) = of_ids.get(id) {
                figures.add_durations(durations);
            }
            Some((Arc::clone(&probe.label), figures))
        })
        .collect()
}
