//! Keeps breakpoints away from processes that run other code than the file says.
//!
//! A breakpoint on an instruction that a process has overwritten ends that process at its first hit. So
//! before probes are attached, their places are compared with the memory of the processes they are for. A
//! link for all processes is compared with those that map the file now, as far as there is time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use faultline_plan::{self as plan, PlannedFile, PlannedProbe, ProbeId};
use faultline_resolve::{
    FileId, FileOffset, ObjectFile, Pid, SkipReason, Skipped,
    process::{self, Mapping},
    running::{self, CodePlace, Difference},
};

use crate::{
    discovery::{all_processes, filters_by_process},
    kernel::AttachReport,
    links::{Process, Wanted},
    set::ProbeSet,
};

/// How long to look at processes that nobody has named.
const LOOK_FOR: Duration = Duration::from_millis(300);

/// The probes that are not attached somewhere, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Differing(BTreeMap<ProbeId, BTreeSet<(Difference, Pid)>>);

impl Differing {
    /// Takes those out of `wanted` that would harm a process, or could not be hit there.
    pub(crate) fn take_out(set: &ProbeSet, wanted: &mut [Wanted]) -> Self {
        let mut look = Look { set, maps: HashMap::new(), found: Self::default() };
        look.in_all_processes(wanted);
        for item in wanted {
            if let Some(process) = item.process {
                look.in_process(process.pid, item);
            }
        }
        look.found
    }

    /// Adds them to the report: to what is refused, if they are attached nowhere.
    pub(crate) fn report(
        self,
        attached: &HashSet<ProbeId>,
        set: &ProbeSet,
        report: &mut AttachReport,
    ) {
        for (id, all) in self.0 {
            let Some((how, pid)) = all.first().copied() else { continue };
            let label = set.plan.probes[id.0 as usize].label.clone();
            let skipped = Skipped { label, reason: SkipReason::Differs { pid, how } };
            if attached.contains(&id) {
                report.differing.push(skipped);
            } else if !report.refused_ids.contains(&id) {
                report.refused.push(skipped);
                report.refused_ids.push(id);
            }
        }
    }
}

struct Look<'a> {
    set: &'a ProbeSet,
    maps: HashMap<Pid, Vec<Mapping>>,
    found: Differing,
}

impl Look<'_> {
    /// Looks at a process that a link is for.
    fn in_process(&mut self, pid: Pid, item: &mut Wanted) {
        let set = self.set;
        // A process that cannot be looked at is attached to as before.
        let maps = self.maps.entry(pid).or_insert_with(|| process::maps(pid).unwrap_or_default());
        let differing = differing(&set.plan.probes, pid, maps, &item.file, &item.probes);
        let out: HashSet<_> =
            differing.iter().filter(|(_, how)| !self.is_forced(*how)).map(|(id, _)| *id).collect();
        item.probes.retain(|id| !out.contains(id));
        self.note(pid, differing);
    }

    /// Looks at every process where a link is for all of them. A probe that would harm one of them is not
    /// attached at all.
    fn in_all_processes(&mut self, wanted: &mut [Wanted]) {
        let alone = filters_by_process(self.set.features());
        let is_for_all =
            |item: &Wanted| (item.process.is_none() || !alone) && !item.probes.is_empty();
        let files = wanted.iter().filter(|item| is_for_all(item)).map(|item| item.file.id());
        let files: HashSet<_> = files.collect();
        let new: HashSet<_> = files.into_iter().filter(|file| self.set.compares(*file)).collect();
        let is_new = |item: &&mut Wanted| is_for_all(item) && new.contains(&item.file.id());
        let items: Vec<_> = wanted.iter_mut().filter(is_new).collect();
        if items.is_empty() {
            return;
        }
        let started = Instant::now();
        let mut harmed: Vec<ProbeId> = Vec::new();
        for pid in all_processes() {
            if started.elapsed() > LOOK_FOR {
                tracing::debug!("there are too many processes to compare the code of all");
                break;
            }
            let Ok(maps) = process::maps(pid) else { continue };
            for item in &items {
                let differing =
                    differing(&self.set.plan.probes, pid, &maps, &item.file, &item.probes);
                let harms = |(id, how): &(ProbeId, Difference)| {
                    (*how == Difference::Changed && !self.is_forced(*how)).then_some(*id)
                };
                harmed.extend(differing.iter().filter_map(harms));
                self.note(pid, differing);
            }
        }
        // Also when they are attached again later.
        self.set.refuse(&harmed);
        let harmed: HashSet<_> = harmed.into_iter().collect();
        for item in items {
            item.probes.retain(|id| !harmed.contains(id));
        }
    }

    /// Whether the user wants the probe all the same.
    fn is_forced(&self, how: Difference) -> bool {
        how == Difference::Changed && self.set.force
    }

    fn note(&mut self, pid: Pid, differing: Vec<(ProbeId, Difference)>) {
        for (id, how) in differing {
            if !self.is_forced(how) {
                self.found.0.entry(id).or_default().insert((how, pid));
            }
        }
    }
}

/// Which of the probes a process has other code for.
fn differing(
    probes: &[PlannedProbe],
    pid: Pid,
    maps: &[Mapping],
    file: &ObjectFile,
    ids: &[ProbeId],
) -> Vec<(ProbeId, Difference)> {
    let mut places = Vec::with_capacity(ids.len());
    for id in ids {
        let probe = &probes[id.0 as usize];
        let first = probe.offset.0.saturating_sub(probe.place.moved_bytes);
        places.push((CodePlace { first: FileOffset(first), at: probe.offset }, *id));
        let exits =
            probe.exits().iter().map(|exit| CodePlace { first: exit.offset, at: exit.offset });
        places.extend(exits.map(|exit| (exit, *id)));
    }
    places.sort_unstable_by_key(|(place, _)| place.at);
    let (places, ids): (Vec<_>, Vec<_>) = places.into_iter().unzip();
    let bytes = |code: &[u8]| plan::instruction_bytes(file.arch(), code);
    let differences = running::differences(pid, maps, file, &places, &bytes);
    differences.into_iter().map(|(index, how)| (ids[index], how)).collect()
}

/// The probes of a set whose code in these processes is not the file's any more: since it was changed, they
/// were not hit there.
#[must_use]
pub fn changed_meanwhile(set: &ProbeSet, processes: &[Process]) -> Vec<Skipped> {
    let mut changed = Vec::new();
    for process in processes {
        let Ok(maps) = process::maps(process.pid) else { continue };
        for PlannedFile { file, probes } in &set.plan.files {
            let of_process =
                differing(&set.plan.probes, process.pid, &maps, file, &set.acceptable(probes));
            // In memory that has become writable, breakpoints stay.
            let lost = of_process.into_iter().filter(|(_, how)| *how != Difference::Writable);
            changed.extend(lost.map(|(id, how)| Skipped {
                label: set.plan.probes[id.0 as usize].label.clone(),
                reason: SkipReason::Differs { pid: process.pid, how },
            }));
        }
    }
    changed
}

/// Files whose code was compared with that of all processes.
pub(crate) type Compared = HashSet<FileId>;
