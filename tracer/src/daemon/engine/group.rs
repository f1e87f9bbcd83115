//! A group of probes: those that came together and want the same done in the same processes. One
//! load of the eBPF programs with maps of its own, and links for each probe, file and process.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;

use super::{
    look::{Fresh, Traced},
    named::{Attachment, HeldSets, Part},
};
use crate::{
    daemon::{
        config::{Action, ProbeConfig, Selection},
        event_log::EventLog,
        events::EventReader,
        find,
    },
    drain::Drain,
    guard::StuckWatch,
    kernel::{
        self, AttachReport, Features, Holders, KernelError, Links, LoadOptions, Programs, Progress,
        Scope,
    },
    metrics::Source,
    plan::{self, AttachPlan, PlannedFile, ProbeId},
    resolve::{self, ObjectFile, Pid},
    sink::Tally,
    spec::{Rate, Sample},
};

/// Processes that a group which is not for all may be for at once.
const MAX_PROCESSES: u32 = 16 * 1024;

/// What the probes of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alike {
    action: Action,
    selection: Selection,
    sample: Option<Sample>,
    rate: Option<Rate>,
}

impl Alike {
    pub(super) fn of(probe: &ProbeConfig) -> Self {
        Self {
            action: probe.action,
            selection: probe.selection.clone(),
            sample: probe.sample,
            rate: probe.rate,
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
    pub(super) report: AttachReport,
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
            sample: alike.sample,
            rate: alike.rate,
        };
        let mut programs = Programs::load(&plan, &options)?;
        let files = std::mem::take(&mut plan.files);
        let (attached, report) = attach(&programs, &mut plan, &fresh, &ids, holders)?;
        plan.files = files;
        let mut parts = Vec::with_capacity(fresh.len());
        for ((fresh, ids), attachments) in fresh.into_iter().zip(ids).zip(attached) {
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
        let refused = report.refused_ids.iter().copied().collect();
        let group = Group { plan, programs, source, drain, watch, members, refused };
        Ok(Self { group, parts, report })
    }
}

/// A process, and a number: how many files of a probe came before.
type Round = (Option<Pid>, usize);

/// Attaches every probe in each of its places: in rounds, of which each is one process (or all)
/// and at most one file a probe.
fn attach(
    programs: &Programs,
    plan: &mut AttachPlan,
    fresh: &[Fresh],
    ids: &[Vec<ProbeId>],
    holders: &mut Holders,
) -> anyhow::Result<(Vec<Vec<Attachment>>, AttachReport)> {
    let mut rounds: BTreeMap<Round, Vec<(usize, usize)>> = BTreeMap::new();
    for (index, fresh) in fresh.iter().enumerate() {
        let mut of_scope: HashMap<Option<Pid>, usize> = HashMap::new();
        for (place, (_, traced)) in fresh.places.iter().enumerate() {
            let pid = traced.map(|traced| traced.pid);
            let count = of_scope.entry(pid).or_default();
            rounds.entry((pid, *count)).or_default().push((index, place));
            *count += 1;
        }
    }
    let mut attached: Vec<Vec<Attachment>> = fresh.iter().map(|_| Vec::new()).collect();
    let mut total = AttachReport::default();
    for ((pid, _), round) in rounds {
        plan.files = round
            .iter()
            .map(|(index, place)| PlannedFile {
                file: Arc::clone(&fresh[*index].places[*place].0),
                probes: ids[*index].clone(),
            })
            .collect();
        let batches = programs.features().batches();
        let sets: Vec<(usize, usize, &[ProbeId])> = round
            .iter()
            .flat_map(|(index, place)| {
                sets(&ids[*index], batches).map(move |set| (*index, *place, set))
            })
            .collect();
        let groups: Vec<&[ProbeId]> = sets.iter().map(|(_, _, set)| *set).collect();
        let scope = pid.map_or(Scope::AllProcesses, |pid| Scope::Processes(vec![pid]));
        let (links, report) =
            match Links::attach_groups(programs, plan, &groups, &scope, &Progress::default()) {
                Ok(attached) => attached,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error.into()),
            };
        let mut held: BTreeMap<(usize, usize), HeldSets> = BTreeMap::new();
        for ((index, place, set), links) in sets.into_iter().zip(holders.hold(links)) {
            held.entry((index, place)).or_default().add(HeldSets::new([(set.to_vec(), links)]));
        }
        for ((index, place), links) in held {
            let (file, traced) = &fresh[index].places[place];
            let file = Arc::clone(file);
            attached[index].push(Attachment { file, traced: *traced, links });
        }
        total.probes += report.probes;
        total.links += report.links;
        total.refused.extend(report.refused);
        total.refused_ids.extend(report.refused_ids);
        total.took += report.took;
    }
    Ok((attached, total))
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
    /// Attaches probes of the group in one more place; `None` if the process is gone.
    pub(super) fn attach_copy(
        &mut self,
        ids: &[ProbeId],
        file: &Arc<ObjectFile>,
        traced: Option<Traced>,
        holders: &mut Holders,
    ) -> Result<Option<Attachment>, KernelError> {
        if let Some(Traced { pid, .. }) = traced {
            self.programs.trace_process(pid)?;
        }
        match self.attach_at(ids, file, traced, holders) {
            Ok(links) => Ok(Some(Attachment { file: Arc::clone(file), traced, links })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
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
