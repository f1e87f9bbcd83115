//! One look at this machine: where requests still have to be attached, and where attached ones have lost
//! their target.
//!
//! Takes requests and what is attached for them; gives a `Discovery`. It reads files and `/proc`, and
//! attaches nothing. A file system may block it for ever, so it records its current step in a `StepMarker`
//! and runs on a thread that can be given up.

mod guard;
mod locate;
mod processes;
mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use faultline_plan::{self as plan, AttachPlan, Pass, PlannedProbe, ProbeId};
use faultline_resolve::{self as resolve, ObjectFile, Pid, View};

pub(crate) use self::{
    guard::{Unanswered, look_if_asked},
    locate::{Locator, has_same_content, is_same_file},
    processes::{Containers, all as all_processes, all_parents},
    watch::ProcessWatch,
};
use crate::{
    host::Host,
    kernel::{Features, Piece, links_needed},
    links::{PlaceId, Process},
    notice::Step,
    request::{Placement, Request, Selection},
};

/// Where to probe: a file, and the process unless it is for all of them.
pub(crate) type At = (Arc<ObjectFile>, Option<Process>);

/// Identifies a part of a request: its functions in files with the same content. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartId(pub(crate) u64);

/// A request, and what is attached for it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) request: Arc<Request>,
    pub(crate) parts: Vec<KnownPart>,
    /// Children of its processes are traced at this moment: its places stay although their processes have
    /// ended.
    pub(crate) follows_someone: bool,
}

/// A part that is already planned.
#[derive(Debug, Clone)]
pub(crate) struct KnownPart {
    pub(crate) id: PartId,
    /// The file in which its functions were found.
    pub(crate) file: Arc<ObjectFile>,
    /// Functions in it.
    pub(crate) functions: usize,
    pub(crate) places: Vec<KnownPlace>,
}

/// A place that is attached.
#[derive(Debug, Clone)]
pub(crate) struct KnownPlace {
    pub(crate) id: PlaceId,
    pub(crate) at: At,
}

/// Functions of a request that are not planned yet, in files with the same content.
#[derive(Debug)]
pub(crate) struct NewPart {
    pub(crate) request: Arc<Request>,
    pub(crate) plan: AttachPlan,
    pub(crate) file: Arc<ObjectFile>,
    pub(crate) at: Vec<At>,
}

/// Functions that are already planned, in one more place.
#[derive(Debug)]
pub(crate) struct NewPlace {
    pub(crate) name: Arc<str>,
    pub(crate) part: PartId,
    pub(crate) at: At,
}

/// What to attach and detach.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    pub(crate) parts: Vec<NewPart>,
    pub(crate) places: Vec<NewPlace>,
    /// Places whose target is gone.
    pub(crate) gone: Vec<(Arc<str>, PlaceId)>,
    /// Why some of the requests found nothing in some view.
    pub(crate) problems: HashMap<Arc<str>, Arc<str>>,
    /// Requests whose target was found in some view.
    pub(crate) found: HashSet<Arc<str>>,
    /// How often a file had none of a request's functions.
    without_function: usize,
}

/// Explaining why a function is missing is expensive, and thousands of requests may have the same mistake.
/// A few misses are normal: one container's file may lack a function that another's has.
const ENOUGH_WITHOUT: usize = 32;

/// What to look at.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// Everything.
    Whole,
    /// Everything, for callers that want all or nothing: a few missing functions end the look.
    WholeOrNothing,
    /// Only new processes: these, and any that were not there at the last look.
    Begun(Vec<Pid>),
}

/// The current step of a look, for the thread that waits for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepMarker(Arc<Mutex<Option<(Step, Instant)>>>);

impl StepMarker {
    pub(crate) fn begin(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, Instant::now()));
    }

    pub(crate) fn get(&self) -> Option<(Step, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The state that looks share, kept from one to the next.
#[derive(Debug)]
pub(crate) struct Looker {
    locator: Locator,
    containers: Containers,
    /// Processes that were there at the last look for all requests.
    seen: HashSet<Pid>,
    pub(crate) marker: StepMarker,
}

impl Looker {
    /// With `guard`, a child is sent ahead where a file system may not answer.
    pub(crate) fn new(host: Host, guard: Option<Unanswered>) -> Self {
        Self {
            locator: Locator::new(host, guard),
            containers: Containers::default(),
            seen: HashSet::new(),
            marker: StepMarker::default(),
        }
    }

    /// Avoids these from now on: their file system did not answer.
    pub(crate) fn avoid(&mut self, avoided: impl IntoIterator<Item = (Arc<str>, Option<u32>)>) {
        self.locator.avoid(avoided);
    }

    /// Looks. `containers` says whether requests for all processes include copies of files in other mount
    /// namespaces. `of_all` says whether these are all requests: then a process that is looked at is no
    /// longer new to any of them.
    pub(crate) fn look(
        &mut self,
        known: &[Known],
        scope: &Scope,
        containers: bool,
        of_all: bool,
    ) -> Discovery {
        let mut discovery = Discovery::default();
        let mut seen = HashSet::new();
        self.locator.refresh();
        if !matches!(scope, Scope::Begun(_)) {
            self.containers = Containers::default();
        }
        let marker = self.marker.clone();
        self.sightings(known, scope, (containers, of_all), |locator, known, view, process| {
            let request = &known.request;
            if matches!(scope, Scope::WholeOrNothing)
                && discovery.without_function >= ENOUGH_WITHOUT
            {
                return;
            }
            marker.begin(Step::Resolving {
                name: Arc::clone(&request.name),
                target: request.spec.target.as_str().into(),
                pid: match view {
                    View::Host => None,
                    View::Process(pid) => Some(pid.get()),
                },
            });
            let files = match locator.files(request, view) {
                Ok(files) => files,
                Err(problem) => {
                    discovery.problems.entry(Arc::clone(&request.name)).or_insert(problem);
                    return;
                }
            };
            discovery.found.insert(Arc::clone(&request.name));
            for file in files {
                match attached_at(known, &file, process) {
                    Some(place) => drop(seen.insert(place)),
                    None => discovery.add(locator, known, view, (file, process)),
                }
            }
        });
        marker.begin(Step::Attaching);
        discovery.share_between_processes();
        if matches!(scope, Scope::Whole) {
            discovery.gone = gone(known, &seen);
        }
        discovery
    }

    /// Calls `see` for each place where a request may apply.
    fn sightings(
        &mut self,
        known: &[Known],
        scope: &Scope,
        (containers, of_all): (bool, bool),
        mut see: impl FnMut(&mut Locator, &Known, View, Option<Process>),
    ) {
        let mut by_selection: BTreeMap<&Selection, Vec<&Known>> = BTreeMap::new();
        for known in known {
            by_selection.entry(&known.request.selection).or_default().push(known);
        }
        let for_all = by_selection.remove(&Selection::All).unwrap_or_default();
        let for_command = by_selection.remove(&Selection::Command).unwrap_or_default();
        if !matches!(scope, Scope::Begun(_)) {
            for known in for_all.iter().chain(&for_command) {
                see(&mut self.locator, known, View::Host, None);
            }
        }
        let containers = containers && !for_all.is_empty();
        let named: Option<Vec<Pid>> = by_selection.keys().try_fold(Vec::new(), |mut all, of| {
            all.extend(of.pids()?);
            Some(all)
        });
        let mut pids = match (named, scope) {
            (Some(named), _) if !containers => named,
            (_, Scope::Begun(begun)) => {
                let all = processes::all();
                let fresh = all.iter().copied().filter(|pid| !self.seen.contains(pid));
                let look_at = fresh.chain(begun.iter().copied()).collect();
                self.seen = all.into_iter().collect();
                look_at
            }
            _ => {
                let all = processes::all();
                if of_all {
                    self.seen = all.iter().copied().collect();
                }
                all
            }
        };
        // Pids are reused, so this sorts by age: the oldest process comes first, and shared files are found
        // through it.
        pids.sort_unstable();
        pids.dedup();
        for pid in pids {
            for (selection, known) in &by_selection {
                if !processes::is_selected(pid, selection) {
                    continue;
                }
                let Ok(process) = Process::of(pid) else { continue };
                if process.has_ended() {
                    continue;
                }
                for known in known {
                    see(&mut self.locator, known, View::Process(pid), Some(process));
                }
            }
            if containers && self.containers.is_new(pid) {
                for known in &for_all {
                    see(&mut self.locator, known, View::Process(pid), None);
                }
            }
        }
    }
}

/// The place where it is already attached.
fn attached_at(known: &Known, file: &ObjectFile, process: Option<Process>) -> Option<PlaceId> {
    let places = known.parts.iter().flat_map(|part| &part.places);
    let here = |place: &&KnownPlace| place.at.1 == process && is_same_file(&place.at.0, file);
    places.into_iter().find(here).map(|place| place.id)
}

/// Whether links can be limited to a process with all its threads. Single-breakpoint links always can.
pub(crate) fn filters_by_process(features: Features) -> bool {
    features.pid_filter || !features.batches()
}

fn is_here(at: &At, other: &At) -> bool {
    at.1 == other.1 && is_same_file(&at.0, &other.0)
}

impl Discovery {
    fn add(&mut self, locator: &mut Locator, known: &Known, view: View, at: At) {
        let name = &known.request.name;
        if let Some(part) = known.parts.iter().find(|part| has_same_content(&part.file, &at.0)) {
            let here = |place: &NewPlace| place.name == *name && is_here(&place.at, &at);
            if !self.places.iter().any(here) {
                self.places.push(NewPlace { name: Arc::clone(name), part: part.id, at });
            }
            return;
        }
        let same = self
            .parts
            .iter_mut()
            .rev()
            .find(|part| part.request.name == *name && has_same_content(&part.file, &at.0));
        if let Some(part) = same {
            if !part.at.iter().any(|known| is_here(known, &at)) {
                part.at.push(at);
            }
            return;
        }
        match locator.plan(&known.request, view, &at.0) {
            Ok(plan) => self.parts.push(NewPart {
                request: Arc::clone(&known.request),
                plan,
                file: Arc::clone(&at.0),
                at: vec![at],
            }),
            Err(problem) => {
                self.without_function += 1;
                // This reason is more useful than that the file is missing elsewhere.
                self.problems.insert(Arc::clone(name), problem);
            }
        }
    }

    /// A request may name several processes, of which one has not yet mapped a library that another has. It
    /// is then attached to the file as the other one sees it.
    fn share_between_processes(&mut self) {
        let mut placed: HashMap<Arc<str>, HashSet<Process>> = HashMap::new();
        for part in &self.parts {
            let processes = part.at.iter().filter_map(|(_, process)| *process);
            placed.entry(Arc::clone(&part.request.name)).or_default().extend(processes);
        }
        for part in &mut self.parts {
            let Selection::Pids(pids) = &part.request.selection else { continue };
            let placed = &placed[&part.request.name];
            for pid in pids {
                let Ok(process) = Process::of(*pid) else { continue };
                if !placed.contains(&process) && !process.has_ended() {
                    part.at.push((Arc::clone(&part.file), Some(process)));
                }
            }
        }
    }

    /// Drops functions that an earlier part already has with the same arguments: a function that is named
    /// twice in a run is traced once.
    pub(crate) fn drop_repeats(&mut self) {
        let mut seen: HashMap<_, Vec<&PlannedProbe>> = HashMap::new();
        let mut kept = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            let id = part.file.id();
            let others = self.parts.iter().enumerate().filter(|(other, _)| *other != index);
            if !others.map(|(_, other)| other.file.id()).any(|other| other == id) {
                kept.push(None);
                continue;
            }
            let is_new = |probe: &&'_ PlannedProbe| {
                let alike = |other: &&PlannedProbe| {
                    (&other.args, &other.ret, &other.program)
                        == (&probe.args, &probe.ret, &probe.program)
                };
                !seen.get(&(id, probe.offset)).is_some_and(|here| here.iter().any(alike))
            };
            let new: Vec<bool> = part.plan.probes.iter().map(|probe| is_new(&probe)).collect();
            for (probe, _) in part.plan.probes.iter().zip(&new).filter(|(_, new)| **new) {
                seen.entry((id, probe.offset)).or_default().push(probe);
            }
            kept.push(Some(new));
        }
        for (part, kept) in self.parts.iter_mut().zip(kept) {
            if let Some(kept) = kept {
                let mut kept = kept.into_iter();
                part.plan.retain(|_| kept.next().unwrap_or(true));
            }
        }
    }
}

/// What is attached but was not seen: the process has ended, or the file is gone and no process runs it.
fn gone(known: &[Known], seen: &HashSet<PlaceId>) -> Vec<(Arc<str>, PlaceId)> {
    let mut mapped = None;
    let mut gone = Vec::new();
    for Known { request, parts, follows_someone } in known {
        for place in parts.iter().flat_map(|part| &part.places) {
            let (file, process) = &place.at;
            let is_gone = !seen.contains(&place.id)
                && match process {
                    Some(_) if *follows_someone => false,
                    Some(process) => {
                        process.has_ended()
                            || !processes::is_selected(process.pid, &request.selection)
                    }
                    None => !mapped
                        .get_or_insert_with(processes::mapped_inodes)
                        .contains(&file.id().inode()),
                };
            if is_gone {
                gone.push((Arc::clone(&request.name), place.id));
            }
        }
    }
    gone
}

/// The combined plan of several parts, served by one load of the programs.
#[derive(Debug, Default)]
pub(crate) struct Combined {
    pub(crate) plan: AttachPlan,
    /// The request of each probe.
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) parts: Vec<PlannedPart>,
}

/// A part within a combined plan.
#[derive(Debug)]
pub(crate) struct PlannedPart {
    pub(crate) request: Arc<Request>,
    pub(crate) ids: Vec<ProbeId>,
    pub(crate) file: Arc<ObjectFile>,
    pub(crate) at: Vec<At>,
}

/// Combines parts, and moves each breakpoint to where it costs least.
pub(crate) fn combine(parts: Vec<NewPart>, host: &Host) -> Combined {
    let mut combined = Combined::default();
    // All parts of a run have the same.
    let placement = parts.first().map(|part| part.request.placement).unwrap_or_default();
    for NewPart { request, plan, file, at } in parts {
        let ids: Vec<_> = combined.plan.append(plan).map(ProbeId).collect();
        let end = combined.names.len() + ids.len();
        combined.names.resize(end, Arc::clone(&request.name));
        combined.parts.push(PlannedPart { request, ids, file, at });
    }
    let pass = match placement {
        Placement::Entry => Pass::Nothing,
        Placement::Auto => Pass::Safe,
        Placement::Fast => Pass::Reads,
    };
    plan::place(&mut combined.plan, &resolve::code_pieces, &host.classes(), pass);
    combined
}

/// What a run will trace, resolved and planned. Nothing is attached yet.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) combined: Combined,
    /// By request: why its target or its functions were not found somewhere.
    pub problems: Vec<(Arc<Request>, Arc<str>)>,
}

impl Prepared {
    /// Resolves and plans requests with the same action in the same processes. A function that is named
    /// twice is traced once.
    ///
    /// Reads files: it blocks if a file system does not answer.
    #[must_use]
    pub fn new(host: &Host, requests: Vec<Request>) -> Self {
        let requests: Vec<_> = requests.into_iter().map(Arc::new).collect();
        let known: Vec<_> = requests
            .iter()
            .map(|request| Known {
                request: Arc::clone(request),
                parts: Vec::new(),
                follows_someone: false,
            })
            .collect();
        let mut discovery = Looker::new(*host, None).look(&known, &Scope::Whole, false, false);
        discovery.drop_repeats();
        let problem = |request: &Arc<Request>| {
            Some((Arc::clone(request), discovery.problems.get(&request.name)?.clone()))
        };
        let problems = requests.iter().filter_map(problem).collect();
        Self { combined: combine(discovery.parts, host), problems }
    }

    /// What would be attached, and what cannot be attached.
    #[must_use]
    pub fn plan(&self) -> &AttachPlan {
        &self.combined.plan
    }

    /// The same in one process, which will execute the command: hits count from that moment.
    #[must_use]
    pub fn in_process(mut self, process: Process) -> Self {
        for (_, of) in self.combined.parts.iter_mut().flat_map(|part| &mut part.at) {
            *of = Some(process);
        }
        self
    }

    /// The same functions and places, but only counting every call.
    #[must_use]
    pub fn counting(&self) -> Self {
        let counted = |part: &PlannedPart| PlannedPart {
            request: Arc::new(part.request.counting()),
            ids: part.ids.clone(),
            file: Arc::clone(&part.file),
            at: part.at.clone(),
        };
        let Combined { plan, names, parts } = &self.combined;
        let parts = parts.iter().map(counted).collect();
        Self {
            combined: Combined { plan: plan.counting(), names: names.clone(), parts },
            problems: Vec::new(),
        }
    }

    /// How many links it takes on a kernel with these features.
    #[must_use]
    pub fn links(&self, features: Features) -> usize {
        let Combined { plan, parts, .. } = &self.combined;
        let pieces: Vec<_> = parts
            .iter()
            .flat_map(|part| {
                let alone = filters_by_process(features) && !part.request.follow;
                let shares = move |index: usize, file: &ObjectFile| {
                    let earlier = &part.at[..index];
                    !alone && earlier.iter().any(|(other, _)| is_same_file(other, file))
                };
                let places = part.at.iter().enumerate();
                places.filter(move |(index, (file, _))| !shares(*index, file)).map(
                    |(_, (file, process))| Piece {
                        file,
                        process: process.map(|process| process.pid),
                        probes: &part.ids,
                    },
                )
            })
            .collect();
        links_needed(&plan.probes, &pieces, features)
    }
}

/// The plan of one request in this machine's own files, for display only.
///
/// # Errors
///
/// Why there is nothing to plan.
pub fn plan_on_host(host: &Host, request: &Request) -> Result<AttachPlan, Arc<str>> {
    let mut locator = Locator::new(*host, None);
    let mut plan = AttachPlan::default();
    for file in locator.files(request, View::Host)? {
        plan.append(locator.plan(request, View::Host, &file)?);
    }
    Ok(plan)
}
