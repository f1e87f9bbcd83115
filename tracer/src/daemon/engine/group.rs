//! A group of probes: those that came together and want the same done in the same processes. One
//! load of the eBPF programs with maps of its own, and links for each probe, file and process.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;

use super::{
    look::{Fresh, Traced},
    named::{Attachment, Part},
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
        AttachReport, Features, Holders, KernelError, Links, LoadOptions, Programs, Progress, Scope,
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
    /// How many parts of named probes are in it.
    pub(super) members: usize,
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
        plan::place(&mut plan, &resolve::code_pieces);
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
            diagnostics: false,
            features,
            force: alike.force,
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
        let source = Arc::new(Source { counters, tally, latencies });
        let members = parts.len();
        let group = Group { plan, programs, source, drain, watch, members };
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
        let groups: Vec<&[ProbeId]> =
            round.iter().map(|(index, _)| ids[*index].as_slice()).collect();
        let scope = pid.map_or(Scope::AllProcesses, |pid| Scope::Processes(vec![pid]));
        let (links, report) =
            match Links::attach_groups(programs, plan, &groups, &scope, &Progress::default()) {
                Ok(attached) => attached,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error.into()),
            };
        for ((index, place), links) in round.into_iter().zip(holders.hold(links)) {
            let (file, traced) = &fresh[index].places[place];
            let file = Arc::clone(file);
            attached[index].push(Attachment { file, traced: *traced, links });
        }
        total.probes += report.probes;
        total.links += report.links;
        total.refused.extend(report.refused);
        total.took += report.took;
    }
    Ok((attached, total))
}

/// Whether the process ended before it could be attached to.
fn is_gone(error: &KernelError) -> bool {
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
        let scope = match traced {
            Some(Traced { pid, .. }) => {
                self.programs.trace_process(pid)?;
                Scope::Processes(vec![pid])
            }
            None => Scope::AllProcesses,
        };
        let plan = AttachPlan {
            probes: self.plan.probes.clone(),
            files: vec![PlannedFile { file: Arc::clone(file), probes: ids.to_vec() }],
            ..AttachPlan::default()
        };
        match Links::attach_groups(&self.programs, &plan, &[ids], &scope, &Progress::default()) {
            Ok((links, _)) => Ok(holders.hold(links).pop().map(|links| Attachment {
                file: Arc::clone(file),
                traced,
                links,
            })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
