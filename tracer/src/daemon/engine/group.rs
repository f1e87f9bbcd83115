//! A group of probes: those that came together and want the same done in the same processes. One
//! load of the eBPF programs with maps of its own, and links for each probe, file and process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;

use super::{
    look::{At, Fresh, Traced},
    named::{Attachment, HeldSets, Part},
};
use crate::daemon::{
    config::{Action, ProbeConfig, Selection},
    event_log::EventLog,
    events::EventReader,
    find,
};
use faultline_engine::{
    drain::Drain,
    guard::StuckWatch,
    kernel::{
        self, Calls, Features, Holders, KernelError, Links, LoadOptions, Programs, Progress, Scope,
    },
};
use faultline_output::{Tally, prometheus::Source};
use faultline_plan::{self as plan, AttachPlan, PlannedFile, ProbeId};
use faultline_resolve::{self as resolve, ObjectFile, Pid, Skipped};
use faultline_spec::{Rate, Sample};

/// Processes that a group which is not for all may be for at once.
const MAX_PROCESSES: u32 = 16 * 1024;

/// What the probes of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alike {
    action: Action,
    selection: Selection,
    sample: Option<Sample>,
    rate: Option<Rate>,
    force: bool,
}

impl Alike {
    pub(super) fn of(probe: &ProbeConfig) -> Self {
        Self {
            action: probe.action,
            selection: probe.selection.clone(),
            sample: probe.sample,
            rate: probe.rate,
            force: probe.force,
        }
    }
}

/// Which group; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::daemon) struct GroupId(pub(super) u64);

/// The programs of a group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) plan: Arc<AttachPlan>,
    pub(super) programs: Programs,
    pub(super) source: Arc<Source>,
    pub(super) drain: Option<Drain>,
    pub(super) watch: Option<StuckWatch>,
    calls: Calls,
    /// How many parts of named probes are in it.
    pub(super) members: usize,
    /// Those that the kernel has refused: they are not offered to it again.
    refused: HashSet<ProbeId>,
}

/// A group that is loaded and attached, and does not count yet.
#[derive(Debug)]
pub(super) struct NewGroup {
    pub(super) group: Group,
    /// By probe.
    pub(super) parts: Vec<(Arc<str>, Part)>,
    /// Functions that the kernel refused.
    pub(super) refused: Vec<Skipped>,
}

impl NewGroup {
    /// Loads and attaches.
    pub(super) fn load(
        id: GroupId,
        alike: &Alike,
        mut fresh: Vec<Fresh>,
        buffer_bytes: u32,
        features: Features,
        holders: &mut Holders,
        log: &Arc<EventLog>,
    ) -> anyhow::Result<Self> {
        let action = alike.action;
        let mut plan = AttachPlan::default();
        let mut names = Vec::new();
        let ids: Vec<Vec<ProbeId>> = fresh
            .iter_mut()
            .map(|fresh| {
                let ids = plan.append(std::mem::take(&mut fresh.plan));
                names.resize(ids.end as usize, Arc::clone(&fresh.name));
                ids.map(ProbeId).collect()
            })
            .collect();
        plan::place(&mut plan, &resolve::code_pieces, &kernel::classes());
        let traced = fresh.iter().flat_map(|fresh| &fresh.places).filter_map(|(_, pid)| *pid);
        let mut pids: Vec<Pid> = traced.map(|traced| traced.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let options = LoadOptions {
            action: find::action(action),
            buffer_bytes,
            pids,
            more_pids: if alike.selection == Selection::All { 0 } else { MAX_PROCESSES },
            begin_at_exec: false,
            exchanges: true,
            diagnostics: false,
            features,
            force: alike.force,
            sample: alike.sample,
            rate: alike.rate,
        };
        let mut programs = Programs::load(&plan, &options)?;
        let files = std::mem::take(&mut plan.files);
        let wanted: Vec<_> = fresh
            .iter()
            .zip(&ids)
            .map(|(fresh, ids)| (ids.as_slice(), fresh.places.as_slice()))
            .collect();
        let attached = attach(&programs, &mut plan, &wanted, holders);
        if let Some(error) = attached.failed {
            return Err(error.into());
        }
        plan.files = files;
        let mut parts = Vec::with_capacity(fresh.len());
        for ((fresh, ids), attachments) in fresh.into_iter().zip(ids).zip(attached.attachments) {
            let Some((file, _)) = fresh.places.into_iter().next() else { continue };
            parts.push((fresh.name, Part { group: id, ids, file, attachments }));
        }
        let counters = programs.counters(plan.probes.len())?;
        let tally = (action == Action::Events)
            .then(|| Arc::new(Tally::new(plan.probes.len(), counters.cpus())));
        let latencies = match action {
            Action::Latency => Some(Mutex::new(programs.take_latencies()?)),
            Action::Count | Action::Events => None,
        };
        let reads_memory = plan.probes.iter().any(|probe| probe.program.reads_memory());
        let watch = match action {
            Action::Events if reads_memory => Some(StuckWatch::new(programs.take_faults()?)),
            _ => None,
        };
        let plan = Arc::new(plan);
        let drain = match &tally {
            Some(tally) => {
                let (plan, tally, log) = (Arc::clone(&plan), Arc::clone(tally), Arc::clone(log));
                let reader = EventReader::new(plan, names, tally, log);
                let records = programs.take_records()?;
                Some(Drain::start(records, Box::new(reader)).context("failed to start a thread")?)
            }
            None => None,
        };
        let costs = kernel::costs();
        let costs = costs
            .iter()
            .flat_map(|costs| plan.probes.iter().map(|probe| costs.of_breakpoints(probe)));
        let source = Arc::new(Source { counters, costs: costs.collect(), tally, latencies });
        let members = parts.len();
        let refused = attached.refused_ids.iter().copied().collect();
        let calls = programs.take_calls()?;
        let group = Group { plan, programs, source, drain, watch, calls, members, refused };
        Ok(Self { group, parts, refused: attached.refused })
    }
}

/// Places that are attached to before their links are held: so many links go one after another if we
/// are killed meanwhile, and for as long as they take nobody can be started in our place.
const PLACES_AT_ONCE: usize = 32;

/// Probes, and where they are to be attached.
pub(super) type Wanted<'a> = (&'a [ProbeId], &'a [At]);

/// A process, and a number: how many files of a probe came before.
type Round = (Option<Pid>, usize);

/// What was attached.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// By what was wanted. What is gone meanwhile is not among them.
    pub(super) attachments: Vec<Vec<Attachment>>,
    refused: Vec<Skipped>,
    refused_ids: Vec<ProbeId>,
    /// Why something else is not either.
    pub(super) failed: Option<KernelError>,
}

/// Attaches probes in each of their places: in rounds, of which each is one process (or all) and at
/// most one file a probe.
fn attach(
    programs: &Programs,
    plan: &mut AttachPlan,
    wanted: &[Wanted<'_>],
    holders: &mut Holders,
) -> Attached {
    let mut rounds: BTreeMap<Round, Vec<(usize, usize)>> = BTreeMap::new();
    for (index, (_, places)) in wanted.iter().enumerate() {
        let mut of_scope: HashMap<Option<Pid>, usize> = HashMap::new();
        for (place, (_, traced)) in places.iter().enumerate() {
            let pid = traced.map(|traced| traced.pid);
            let count = of_scope.entry(pid).or_default();
            rounds.entry((pid, *count)).or_default().push((index, place));
            *count += 1;
        }
    }
    let attachments = wanted.iter().map(|_| Vec::new()).collect();
    let mut attached = Attached { attachments, ..Attached::default() };
    let mut left = VecDeque::new();
    for ((pid, _), round) in rounds {
        left.extend(round.chunks(PLACES_AT_ONCE).map(|places| (pid, places.to_vec())));
    }
    while let Some((pid, round)) = left.pop_front() {
        plan.files = round
            .iter()
            .map(|(index, place)| {
                let (ids, places) = wanted[*index];
                PlannedFile { file: Arc::clone(&places[*place].0), probes: ids.to_vec() }
            })
            .collect();
        let batches = programs.features().batches();
        let of_place = |(index, place): &(usize, usize)| {
            let at = (*index, *place);
            sets(wanted[*index].0, batches).map(move |set| (at, set))
        };
        let sets: Vec<((usize, usize), &[ProbeId])> = round.iter().flat_map(of_place).collect();
        let groups: Vec<&[ProbeId]> = sets.iter().map(|(_, set)| *set).collect();
        let scope = pid.map_or(Scope::AllProcesses, |pid| Scope::Processes(vec![pid]));
        match Links::attach_groups(programs, plan, &groups, &scope, &Progress::default()) {
            Ok((links, report)) => {
                // A place of which nothing is attached now is a place all the same.
                let mut held: BTreeMap<(usize, usize), HeldSets> =
                    round.into_iter().map(|at| (at, HeldSets::default())).collect();
                for ((at, set), links) in sets.into_iter().zip(holders.hold(links)) {
                    held.entry(at).or_default().add(HeldSets::new([(set.to_vec(), links)]));
                }
                for ((index, place), links) in held {
                    let (file, traced) = &wanted[index].1[place];
                    let file = Arc::clone(file);
                    let attachment = Attachment { file, traced: *traced, links };
                    attached.attachments[index].push(attachment);
                }
                attached.refused.extend(report.refused);
                attached.refused_ids.extend(report.refused_ids);
            }
            // Those that are still there are found one by one.
            Err(error) if is_gone(&error) && round.len() > 1 => {
                left.extend(round.into_iter().map(|at| (pid, vec![at])));
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => attached.failed = Some(error),
        }
    }
    attached
}

/// What of these probes can go alone: each one where it has a link of its own.
fn sets(ids: &[ProbeId], batches: bool) -> impl Iterator<Item = &[ProbeId]> {
    ids.chunks(if batches { ids.len().max(1) } else { 1 })
}

/// Whether the process ended before it could be attached to.
pub(super) fn is_gone(error: &KernelError) -> bool {
    let KernelError::Attach { source, .. } = error else { return false };
    source.raw_os_error() == Some(libc::ESRCH) || source.kind() == io::ErrorKind::NotFound
}

impl Group {
    /// Counts the open calls of tasks that have ended as lost.
    pub(super) fn forget_ended(&mut self) {
        self.calls.forget_ended(&self.source.counters);
    }

    /// Whether the kernel has refused a probe.
    pub(super) fn is_refused(&self, probe: ProbeId) -> bool {
        self.refused.contains(&probe)
    }

    /// Attaches probes of the group in more places.
    pub(super) fn attach_copies(
        &mut self,
        wanted: &[Wanted<'_>],
        holders: &mut Holders,
    ) -> Attached {
        let traced: BTreeSet<_> = wanted
            .iter()
            .flat_map(|(_, places)| *places)
            .filter_map(|(_, traced)| Some(traced.as_ref()?.pid))
            .collect();
        for pid in traced {
            if let Err(error) = self.programs.trace_process(pid) {
                return Attached { failed: Some(error), ..Attached::default() };
            }
        }
        let mut plan = AttachPlan { probes: self.plan.probes.clone(), ..AttachPlan::default() };
        attach(&self.programs, &mut plan, wanted, holders)
    }

    /// Attaches probes of the group in a place that it knows.
    pub(super) fn attach_at(
        &mut self,
        ids: &[ProbeId],
        file: &Arc<ObjectFile>,
        traced: Option<Traced>,
        holders: &mut Holders,
    ) -> Result<HeldSets, KernelError> {
        let scope =
            traced.map_or(Scope::AllProcesses, |Traced { pid, .. }| Scope::Processes(vec![pid]));
        let ids: Vec<_> = ids.iter().copied().filter(|id| !self.refused.contains(id)).collect();
        let plan = AttachPlan {
            probes: self.plan.probes.clone(),
            files: vec![PlannedFile { file: Arc::clone(file), probes: ids.clone() }],
            ..AttachPlan::default()
        };
        let sets: Vec<_> = sets(&ids, self.programs.features().batches()).collect();
        let (links, _) =
            Links::attach_groups(&self.programs, &plan, &sets, &scope, &Progress::default())?;
        let sets = sets.into_iter().map(<[ProbeId]>::to_vec);
        Ok(HeldSets::new(sets.zip(holders.hold(links))))
    }
}
