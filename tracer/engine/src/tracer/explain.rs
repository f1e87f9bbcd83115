//! Finds out why probes have had no hits, on a thread of its own: it reads files and `/proc`.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::oneshot;

use faultline_plan::ProbeId;
use faultline_resolve::Caveat;

use super::{engine::Engine, probed::Probed};
use crate::{
    caveats::{self, Sightings},
    links::Process,
    set::ProbeSet,
};

/// Something to know about the hits of a request's probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The request.
    pub name: Arc<str>,
    /// What.
    pub caveat: Caveat,
    /// Its probes that it is about, by label.
    pub probes: Vec<Arc<str>>,
}

/// A set of probes, and the processes that it is for; none: all of them.
struct Work {
    set: Arc<ProbeSet>,
    /// Those that are attached somewhere.
    attached: HashSet<ProbeId>,
    processes: Vec<Process>,
}

impl Engine {
    /// Answers once it is known.
    pub(super) fn explain(&self, reply: oneshot::Sender<Vec<Explained>>) {
        let work = self.sets.iter().map(|(id, set)| {
            let parts = || {
                let parts = self.requests.values().flat_map(Probed::live_parts);
                parts.filter(move |part| part.set == *id)
            };
            let places = || parts().flat_map(|part| &part.places);
            let mut processes: Vec<_> = places().filter_map(|place| place.process).collect();
            if places().any(|place| place.process.is_none()) {
                processes.clear();
            }
            processes.sort_unstable_by_key(|process| process.pid);
            processes.dedup();
            let attached = parts().flat_map(|part| part.ids.iter().copied()).collect();
            Work { set: Arc::clone(set), attached, processes }
        });
        let work: Vec<_> = work.filter(|work| !work.attached.is_empty()).collect();
        let answer = move || {
            let explained = work.iter().flat_map(explained).collect();
            // The requester may have gone.
            let _ = reply.send(explained);
        };
        if let Err(error) = std::thread::Builder::new().name("explain".to_owned()).spawn(answer) {
            tracing::error!("failed to start a thread: {error}");
        }
    }
}

fn explained(Work { set, attached, processes }: &Work) -> Vec<Explained> {
    let hits = set.all_hits();
    let name = |id: ProbeId| set.names.get(id.0 as usize);
    let was_hit = |id: usize| hits.get(id).is_some_and(|hits| *hits != 0);
    let hit: HashSet<_> = (0..hits.len())
        .filter(|id| was_hit(*id))
        .filter_map(|id| name(ProbeId(id as u32)))
        .collect();
    let mut silent = set.silent();
    silent.retain(|id| attached.contains(id));
    let sightings = match &processes[..] {
        [] => Sightings::everyone(),
        processes => Sightings::running(processes),
    };
    let is_alone = |id| name(id).is_some_and(|name| !hit.contains(name));
    let mut remarks = caveats::from_symbols(&set.plan);
    remarks.extend(caveats::explain(&set.plan, &silent, &is_alone, &sightings));
    let mut all: Vec<Explained> = Vec::new();
    for remark in remarks {
        for id in remark.probes.into_iter().filter(|id| attached.contains(id)) {
            let probe = set.plan.probes.get(id.0 as usize);
            let (Some(name), Some(probe)) = (name(id), probe) else { continue };
            let label = Arc::clone(&probe.label);
            let same =
                |known: &&mut Explained| known.name == *name && known.caveat == remark.caveat;
            match all.iter_mut().find(same) {
                Some(known) => known.probes.push(label),
                None => all.push(Explained {
                    name: Arc::clone(name),
                    caveat: remark.caveat.clone(),
                    probes: vec![label],
                }),
            }
        }
    }
    all
}
