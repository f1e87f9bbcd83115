//! Frees children of traced processes of the breakpoints that they inherit. See
//! [`kernel`](crate::kernel) for how.
//!
//! It takes a link on every place and its release, which costs the kernel some milliseconds for a thousand
//! breakpoints: so it is done at most once a second, and on a thread of its own.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use faultline_plan::ProbeId;
use faultline_resolve::{FileOffset, ObjectFile, Pid, process};

use super::{Command, engine::Engine, work::chain};
use crate::{
    children::{Attempt, used_by_children},
    discovery::is_same_file,
    kernel::KernelError,
    links::{LinkStore, Place},
    notice::Notice,
    set::{ProbeSet, SetId},
};

/// How often, at most.
const EVERY: Duration = Duration::from_secs(1);
/// How long to wait for more children: servers start several at once.
const SETTLE: Duration = Duration::from_millis(200);
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
    processes: Vec<Pid>,
    probes: Vec<ProbeId>,
    /// A process has no main thread any more, and is left alone. As the kernel sees it, its links want no
    /// breakpoint in it: they would be removed from it, too.
    fragile: bool,
}

/// How an attempt to free children went.
pub(crate) struct FreedChildren {
    result: Result<Vec<Freed>, KernelError>,
}

/// A set of which children were freed.
struct Freed {
    set: Arc<ProbeSet>,
    attempt: Attempt,
    /// The CPU time that they had used; `None` if not all could be freed.
    used: Option<Duration>,
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
            let children = &set.source.children;
            let mut freed = children.freed();
            let Some(attempt) = freed.due(children.forked()) else { continue };
            if freed.newly_forked() {
                told.push(Notice::ChildrenForked);
            }
            if !is_early && attempt.pending() >= SETTLE {
                due.push((*id, Arc::clone(set), attempt));
            }
        }
        told.into_iter().for_each(|notice| self.notice(notice));
        if due.is_empty() {
            return;
        }
        self.freeing.last = Some(Instant::now());
        let work: Vec<_> =
            due.into_iter().map(|(id, set, attempt)| (set, attempt, self.shared(id))).collect();
        let (tell, store) = (self.teller(), Arc::clone(&self.store));
        let free = move || {
            let freed = work.into_iter().map(|(set, attempt, shared)| {
                let used = free(&set, attempt, &shared, &store)?;
                Ok(Freed { set, attempt, used })
            });
            let result = freed.collect();
            let _ = tell.send(Command::FreedChildren(FreedChildren { result }));
        };
        match std::thread::Builder::new().name("free children".to_owned()).spawn(free) {
            Ok(_) => self.freeing.busy = true,
            Err(source) => self.freeing_failed(&KernelError::Thread { source }),
        }
    }

    /// Records how it went.
    pub(super) fn freed_children(&mut self, freed: FreedChildren) {
        self.freeing.busy = false;
        match freed.result {
            Ok(freed) => {
                self.freeing.failed = None;
                for Freed { set, attempt, used } in freed {
                    set.source.children.freed().done(attempt, used);
                }
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
                all.extend(Shared::by(&same));
                places = other;
            }
        }
        all
    }
}

impl Shared {
    /// The breakpoints that these places of one file have, if there are any.
    fn by(places: &[&Place]) -> Option<Self> {
        let processes = places.iter().filter_map(|place| place.process);
        let alive = processes.filter(|process| !process.has_ended());
        let mut processes: Vec<Pid> = alive.map(|process| process.pid).collect();
        processes.sort_unstable();
        processes.dedup();
        let probes = places.iter().flat_map(|place| place.links.probes());
        let mut probes: Vec<ProbeId> = probes.collect();
        probes.sort_unstable();
        probes.dedup();
        let fragile = processes.iter().any(|pid| process::main_thread_has_ended(*pid));
        let file = Arc::clone(&places.first()?.file);
        (!probes.is_empty()).then_some(Self { file, processes, probes, fragile })
    }
}

/// Frees the children of a set's processes; returns the CPU time that they have used. `None` if some could
/// not be freed.
fn free(
    set: &ProbeSet,
    attempt: Attempt,
    shared: &[Shared],
    store: &LinkStore,
) -> Result<Option<Duration>, KernelError> {
    let mut of_all = HashSet::new();
    let mut all_free = true;
    for Shared { file, processes, probes, fragile } in shared {
        of_all.extend(processes.iter().copied());
        // If none is alive, the run or the look for targets releases everything anyway.
        let Some(process) = processes.first().filter(|_| !fragile) else {
            all_free = false;
            continue;
        };
        let probes = probes.iter().filter_map(|id| set.plan.probes.get(id.0 as usize));
        let mut offsets: Vec<FileOffset> = probes
            .flat_map(|probe| {
                let exits = probe.exits().iter().map(|exit| exit.offset);
                std::iter::once(probe.offset).chain(exits)
            })
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        let links = set.programs().free_children(file, *process, &offsets)?;
        store.let_go(links);
    }
    Ok(all_free.then(|| used_by_children(&of_all, attempt.clean_at)))
}
