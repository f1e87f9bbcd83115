//! Frees children of traced processes of the breakpoints that they inherit. See
//! [`kernel`](crate::kernel) for how.
//!
//! It takes a link on every place and its release, which costs the kernel some milliseconds for a thousand
//! breakpoints: so it is done at most once a second, and on a thread of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use faultline_plan::ProbeId;
use faultline_resolve::{FileOffset, ObjectFile, Pid, process};

use super::{Command, engine::Engine, work::chain};
use crate::{
    children::Attempt,
    discovery::is_same_file,
    kernel::{KernelError, Links},
    links::{LinkStore, Place},
    notice::Notice,
    set::{ProbeSet, SetId},
};

/// How often, at most.
const EVERY: Duration = Duration::from_secs(1);
/// How often to report a failure that stays the same.
const TELL_FAILURE_EVERY: Duration = Duration::from_secs(60);

/// When children were last freed.
#[derive(Debug, Default)]
pub(super) struct Freeing {
    /// It is being done now.
    pub(super) busy: bool,
    last: Option<Instant>,
    failed: Option<Instant>,
}

/// Breakpoints of one file, in the processes of a set.
#[derive(Debug)]
struct Shared {
    file: Arc<ObjectFile>,
    process: Pid,
    probes: Vec<ProbeId>,
}

/// The sets of which children are freed, and how that went.
pub(crate) struct FreedChildren {
    sets: Vec<(Arc<ProbeSet>, Attempt)>,
    result: Result<(), KernelError>,
}

impl Engine {
    /// Frees children that were forked since the last time, if it is time.
    pub(super) fn free_children(&mut self) {
        // What is being exchanged or attached is at no place at the moment, and would be left out.
        if self.freeing.busy || self.correcting || self.job.is_some() {
            return;
        }
        let is_early = self.freeing.last.is_some_and(|last| last.elapsed() < EVERY);
        let mut due = Vec::new();
        let mut told = Vec::new();
        for (id, set) in &self.sets {
            let mut freed = set.freed();
            let Some(attempt) = freed.due(set.programs().forked()) else { continue };
            if freed.newly_forked() {
                told.push(Notice::ChildrenForked);
            }
            if !is_early {
                due.push((*id, Arc::clone(set), attempt));
            }
        }
        told.into_iter().for_each(|notice| self.notice(notice));
        if due.is_empty() {
            return;
        }
        self.freeing.last = Some(Instant::now());
        let work: Vec<_> =
            due.iter().map(|(id, set, _)| (Arc::clone(set), self.shared(*id))).collect();
        let sets = due.into_iter().map(|(_, set, attempt)| (set, attempt)).collect();
        let (tell, store) = (self.teller(), Arc::clone(&self.store));
        let free = move || {
            let result = work.iter().try_for_each(|(set, shared)| free(set, shared, &store));
            let _ = tell.send(Command::FreedChildren(FreedChildren { sets, result }));
        };
        match std::thread::Builder::new().name("free children".to_owned()).spawn(free) {
            Ok(_) => self.freeing.busy = true,
            Err(source) => self.freeing_failed(&KernelError::Thread { source }),
        }
    }

    /// Records how it went.
    pub(super) fn freed_children(&mut self, freed: FreedChildren) {
        self.freeing.busy = false;
        let FreedChildren { sets, result } = freed;
        match result {
            Ok(()) => {
                self.freeing.failed = None;
                sets.iter().for_each(|(set, attempt)| set.freed().done(*attempt));
            }
            // It is tried again.
            Err(error) => self.freeing_failed(&error),
        }
    }

    fn freeing_failed(&mut self, error: &KernelError) {
        if self.freeing.failed.is_none_or(|told| told.elapsed() > TELL_FAILURE_EVERY) {
            self.freeing.failed = Some(Instant::now());
            self.notice(Notice::ChildrenNotFreed(chain(error)));
        }
    }

    /// Where children of a set's processes may have inherited breakpoints, by file.
    fn shared(&self, set: SetId) -> Vec<Shared> {
        let parts = self.requests.values().flat_map(|probed| &probed.parts);
        let places = parts.filter(|part| part.set == set).flat_map(|part| &part.places);
        let mut by_file: BTreeMap<_, Vec<&Place>> = BTreeMap::new();
        for place in places {
            let files = by_file.entry(place.file.id().inode()).or_default();
            files.push(place);
        }
        let mut all = Vec::new();
        for mut places in by_file.into_values() {
            while let Some(first) = places.first().copied() {
                let is_same = |place: &&Place| is_same_file(&place.file, &first.file);
                let (same, other): (Vec<_>, Vec<_>) = places.into_iter().partition(is_same);
                all.extend(shared_by(&same));
                places = other;
            }
        }
        all
    }
}

/// The breakpoints that these places of one file have; none if they cannot be touched.
///
/// Where a process has no main thread any more, its links want no breakpoint in it, as the kernel sees it:
/// they would be removed from it, too.
fn shared_by(places: &[&Place]) -> Option<Shared> {
    let mut alive = Vec::new();
    for process in places.iter().filter_map(|place| place.process) {
        if process.has_ended() {
            continue;
        }
        if process::main_thread_has_ended(process.pid) {
            return None;
        }
        alive.push(process.pid);
    }
    let mut probes: Vec<ProbeId> = places.iter().flat_map(|place| place.links.probes()).collect();
    probes.sort_unstable();
    probes.dedup();
    let (file, process) = (Arc::clone(&places.first()?.file), *alive.first()?);
    (!probes.is_empty()).then_some(Shared { file, process, probes })
}

fn free(set: &ProbeSet, shared: &[Shared], store: &LinkStore) -> Result<(), KernelError> {
    for Shared { file, process, probes } in shared {
        let mut offsets: Vec<FileOffset> = probes
            .iter()
            .filter_map(|id| Some(set.plan.probes.get(id.0 as usize)?.offset))
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        let links: Links = set.programs().free_children(file, *process, &offsets)?;
        store.let_go(links);
    }
    Ok(())
}
