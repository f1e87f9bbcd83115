//! Looking, loading and attaching. These may block on a file system or a kernel lock, and so run on a
//! thread that can be given up.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use faultline_plan::{AttachPlan, ProbeId};
use faultline_resolve::{Pid, Skipped};

use super::{
    Command, TracerError,
    engine::{Engine, Numbers, Pending},
    probed::{Part, into_links},
};
use crate::{
    discovery::{
        At, Combined, Discovery, Known, Looker, NewPart, NewPlace, PartId, PlannedPart, Scope,
        StepMarker, combine, is_same_file,
    },
    kernel::{AttachReport, Progress},
    links::{self, LinkStore, Place, PlaceId, PlaceLinks, Wanted},
    notice::{Notice, Slow, Step},
    set::{GroupKey, LoadContext, ProbeSet, SetId},
};

/// After how long a step is unusually slow, and how often to report that.
const SLOW_AFTER: Duration = Duration::from_secs(5);
const TELL_SLOW_EVERY: Duration = Duration::from_secs(10);

/// The job in progress.
pub(super) struct Job {
    /// Distinguishes it from jobs that were given up.
    number: u64,
    marker: StepMarker,
    /// Nothing is to be attached any more.
    cancelled: Arc<AtomicBool>,
    /// The change that waits for it; nothing waits for a scan.
    pub(super) pending: Option<Pending>,
    /// When its slowness was last reported.
    told: Option<Instant>,
}

impl Job {
    /// What it has not begun to attach, it does not attach. What it [is attaching](Self::is_attaching)
    /// already is to be waited for: ask after this.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether it may be attaching: from then on it is never given up.
    pub(super) fn is_attaching(&self) -> bool {
        self.marker.get().is_some_and(|(step, _)| step == Step::Attaching)
    }
}

/// What to look for.
pub(super) enum Input {
    /// Where these requests apply.
    Look {
        known: Vec<Known>,
        scope: Scope,
        /// Functions of requests that stay in addition to these; `None` if these are all requests.
        staying: Option<usize>,
    },
    /// Nothing: everything is already prepared.
    Prepared { combined: Box<Combined>, progress: Arc<Progress> },
}

/// The state of the worker thread.
struct Worker {
    number: u64,
    cancelled: Arc<AtomicBool>,
    looker: Looker,
    context: LoadContext,
    numbers: Numbers,
    store: Arc<LinkStore>,
    /// Sets that parts are in, and their functions.
    sets: HashMap<PartId, (SetId, Arc<ProbeSet>, Vec<ProbeId>)>,
    /// Where parts are attached by now.
    there: HashMap<PartId, Vec<At>>,
    /// Probes that the budget has detached.
    away: HashSet<(SetId, ProbeId)>,
    containers: bool,
    max_functions: usize,
}

/// The result of a job.
pub(crate) struct Worked {
    pub(super) number: u64,
    pub(super) looker: Looker,
    pub(super) started: Instant,
    pub(super) problems: HashMap<Arc<str>, Arc<str>>,
    pub(super) found: HashSet<Arc<str>>,
    pub(super) skipped: Vec<(Arc<str>, Skipped)>,
    pub(super) gone: Vec<(Arc<str>, PlaceId)>,
    pub(super) whole: bool,
    pub(super) result: Result<Attachments, TracerError>,
}

/// The attachments that a job made.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    pub(super) sets: Vec<(SetId, Arc<ProbeSet>)>,
    pub(super) parts: Vec<(Arc<str>, Part)>,
    pub(super) places: Vec<(Arc<str>, PartId, Place)>,
    pub(super) report: AttachReport,
    /// Why places of existing sets could not be attached.
    pub(super) failures: Vec<String>,
}

impl Engine {
    /// Starts a job. The looker is handed to it, and comes back when it is done.
    pub(super) fn start_job(&mut self, input: Input, pending: Option<Pending>) {
        let mut looker = self.looker.take().unwrap_or_else(|| {
            // There was none yet, or it is with a thread that was given up.
            let guard = self.options.helper.then(|| self.unanswered.clone());
            Looker::new(self.options.host, guard)
        });
        looker.avoid(self.avoided.iter().cloned());
        let number = self.numbers.next();
        let marker = looker.marker.clone();
        marker.begin(Step::Attaching);
        let of_part = |part: &Part| {
            let set = self.sets.get(&part.set)?;
            Some((part.id, (part.set, Arc::clone(set), part.ids.clone())))
        };
        let parts = self.requests.values().flat_map(|probed| &probed.parts);
        let sets: HashMap<_, _> = parts.filter_map(of_part).collect();
        let there = self.requests.values().flat_map(|probed| &probed.parts).map(|part| {
            let places = part.places.iter().filter(|place| !place.links.is_empty());
            (part.id, places.map(|place| (Arc::clone(&place.file), place.process)).collect())
        });
        let there = there.collect();
        let away = self.limiter.as_ref().map(|limiter| {
            let all = sets.values().flat_map(|(set, _, ids)| ids.iter().map(|id| (*set, *id)));
            all.filter(|(set, id)| limiter.is_away(*set, *id)).collect()
        });
        let settings = self.settings();
        let cancelled = Arc::<AtomicBool>::default();
        let worker = Worker {
            number,
            cancelled: Arc::clone(&cancelled),
            looker,
            context: LoadContext {
                host: self.options.host,
                features: self.features,
                buffer_bytes: settings.buffer_bytes,
                exchanges: self.options.changes || settings.limit.is_some(),
                helper: self.options.helper,
                diagnostics: self.options.diagnostics,
                limit: settings.limit,
                handlers: self.options.handlers.clone(),
                grows: self.options.changes,
            },
            numbers: self.numbers.clone(),
            store: Arc::clone(&self.store),
            sets,
            there,
            away: away.unwrap_or_default(),
            containers: settings.containers,
            max_functions: settings.max_functions,
        };
        self.job = Some(Job { number, marker, cancelled, pending, told: None });
        let tell = self.teller();
        let work = move || {
            let _ = tell.send(Command::Worked(Box::new(worker.work(input))));
        };
        if let Err(error) = std::thread::Builder::new().name("attach".to_owned()).spawn(work)
            && let Some(job) = self.job.take()
        {
            job.pending
                .into_iter()
                .for_each(|pending| pending.fail(TracerError::Thread(error.kind().into())));
        }
    }

    /// Whether results belong to the current job.
    pub(super) fn is_current(&self, worked: &Worked) -> bool {
        self.job.as_ref().is_some_and(|job| job.number == worked.number)
    }

    /// Checks whether the job is blocked, and gives it up if the others can continue without it. Returns
    /// what is slow at this moment.
    pub(super) fn watch_job(&mut self) -> Vec<Slow> {
        let Some(job) = &mut self.job else { return Vec::new() };
        let Some((step, since)) = job.marker.get() else { return Vec::new() };
        let since = since.elapsed();
        if since < SLOW_AFTER {
            return Vec::new();
        }
        let given_up = matches!(step, Step::Resolving { .. });
        let slow = Slow { step, since, given_up };
        if job.told.is_none_or(|told| told.elapsed() > TELL_SLOW_EVERY) {
            job.told = Some(Instant::now());
            self.options.observer.notice(Notice::Slow(slow.clone()));
        }
        if let Step::Resolving { target, pid, .. } = &slow.step {
            // The thread may come back some day; then its targets are looked at again.
            self.avoided.insert((Arc::clone(target), *pid));
            if let Some(job) = self.job.take() {
                job.cancel();
                self.requeue(job.pending);
            }
        }
        vec![slow]
    }
}

impl Worker {
    fn work(mut self, input: Input) -> Worked {
        let started = Instant::now();
        let (discovery, whole, staying, known, prepared) = match input {
            Input::Look { known, scope, staying } => {
                let discovery =
                    self.looker.look(&known, &scope, self.containers, staying.is_none());
                let all_or_nothing = matches!(scope, Scope::WholeOrNothing);
                let refused = all_or_nothing.then(|| refuse_waiting(&known, &discovery)).flatten();
                if let Some(refused) = refused {
                    return self.end(started, discovery, true, Err(refused));
                }
                (discovery, matches!(scope, Scope::Whole), Some(staying.unwrap_or(0)), known, None)
            }
            Input::Prepared { combined, progress } => {
                (Discovery::default(), true, None, Vec::new(), Some((combined, progress)))
            }
        };
        let mut discovery = discovery;
        if let Some(staying) = staying
            && let Err(error) = self.check_limit(&discovery, &known, staying)
        {
            return self.end(started, discovery, whole, Err(error));
        }
        let parts = std::mem::take(&mut discovery.parts);
        let places = std::mem::take(&mut discovery.places);
        let skipped = parts.iter().flat_map(|part| {
            let name = &part.request.name;
            part.plan.skipped.iter().map(|skipped| (Arc::clone(name), skipped.clone()))
        });
        let skipped = skipped.collect();
        // The marker says by now that we are attaching.
        if self.cancelled.load(Ordering::SeqCst) {
            return self.end(started, discovery, whole, Err(TracerError::Stopping));
        }
        let result = match prepared {
            Some((combined, progress)) => self.load(*combined, &progress),
            None => self.load_all(parts).map(|mut attachments| {
                self.attach_places(places, &mut attachments);
                attachments
            }),
        };
        Worked { skipped, ..self.end(started, discovery, whole, result) }
    }

    fn end(
        self,
        started: Instant,
        discovery: Discovery,
        whole: bool,
        result: Result<Attachments, TracerError>,
    ) -> Worked {
        let Discovery { problems, found, gone, .. } = discovery;
        let Self { number, looker, .. } = self;
        let skipped = Vec::new();
        Worked { number, looker, started, problems, found, skipped, gone, whole, result }
    }

    /// Checks the limit on functions for the time when new targets are attached and lost ones detached.
    fn check_limit(
        &self,
        discovery: &Discovery,
        known: &[Known],
        staying: usize,
    ) -> Result<(), TracerError> {
        let comes: HashSet<_> = discovery.places.iter().map(|place| place.part).collect();
        let gone: HashSet<_> = discovery.gone.iter().map(|(_, place)| *place).collect();
        let parts = known.iter().flat_map(|known| &known.parts);
        let stay = parts.filter(|part| {
            comes.contains(&part.id) || part.places.iter().any(|place| !gone.contains(&place.id))
        });
        let known: usize = stay.map(|part| part.functions).sum();
        let new: usize = discovery.parts.iter().map(|part| part.plan.probes.len()).sum();
        let (all, most) = (staying + known + new, self.max_functions);
        if all > most { Err(TracerError::TooManyFunctions { all, most }) } else { Ok(()) }
    }

    /// Loads and attaches a set for each group of parts with the same action. If one fails, none is
    /// attached.
    fn load_all(&self, parts: Vec<NewPart>) -> Result<Attachments, TracerError> {
        let mut groups: Vec<(GroupKey, Vec<NewPart>)> = Vec::new();
        for part in parts.into_iter().filter(|part| !part.plan.probes.is_empty()) {
            let key = GroupKey::of(&part.request);
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, group)) => group.push(part),
                None => groups.push((key, vec![part])),
            }
        }
        let mut all = Attachments::default();
        for (_, group) in groups {
            match self.load(combine(group, &self.context.host), &Progress::default()) {
                Ok(Attachments { sets, parts, report, .. }) => {
                    all.sets.extend(sets);
                    all.parts.extend(parts);
                    all.report.add(report);
                }
                Err(error) => {
                    self.store.undo(into_links(all.parts.into_iter().map(|(_, part)| part)));
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// Loads the programs of a plan and attaches all of it.
    fn load(&self, combined: Combined, progress: &Progress) -> Result<Attachments, TracerError> {
        let Combined { plan, names, parts } = combined;
        let Some(first) = parts.first() else { return Err(TracerError::NoneAttached) };
        let key = GroupKey::of(&first.request);
        let processes = parts.iter().flat_map(|part| &part.at).filter_map(|(_, process)| *process);
        let mut pids: Vec<Pid> = processes.map(|process| process.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let id = SetId(self.numbers.next());
        let set = Arc::new(ProbeSet::load(id, plan, names, &key, pids, &self.context)?);
        self.store.know(&set);
        let mut wanted = Vec::new();
        for PlannedPart { ids, at, .. } in &parts {
            wanted.extend(wanted_at(&set, ids, at, &[]));
        }
        let (attached, report) = links::attach(&set, &wanted, &self.store, progress)?;
        let mut attached = attached.into_iter();
        let placed = parts.into_iter().map(|PlannedPart { request, ids, file, at }| {
            let places = at.into_iter().zip(attached.by_ref());
            let places = places.filter_map(|((file, process), links)| {
                Some(Place { id: PlaceId(self.numbers.next()), file, process, links: links? })
            });
            let places = places.collect();
            let part = Part { id: PartId(self.numbers.next()), set: id, ids, file, places };
            (Arc::clone(&request.name), part)
        });
        let parts = placed.collect();
        Ok(Attachments { sets: vec![(id, set)], parts, report, ..Attachments::default() })
    }

    /// Attaches planned functions in more places. Failures are reported, and retried at the next look.
    fn attach_places(&self, places: Vec<NewPlace>, attachments: &mut Attachments) {
        let mut by_set: BTreeMap<SetId, Vec<NewPlace>> = BTreeMap::new();
        for place in places {
            if let Some((set, ..)) = self.sets.get(&place.part) {
                by_set.entry(*set).or_default().push(place);
            }
        }
        for (id, mut places) in by_set {
            let Some((_, set, _)) = self.sets.get(&places[0].part) else { continue };
            // A process that the programs cannot recognise must not keep the others from being traced.
            places.retain(|place| {
                let process = place.at.1.as_ref();
                match process.map_or(Ok(()), |process| set.programs().check_process(process.pid)) {
                    Ok(()) => true,
                    Err(error) => {
                        attachments.failures.push(chain(&error));
                        false
                    }
                }
            });
            let pids: Vec<_> = places.iter().filter_map(|place| Some(place.at.1?.pid)).collect();
            let mut wanted = Vec::new();
            for (index, place) in places.iter().enumerate() {
                let ids = self.sets.get(&place.part).map_or(&[][..], |(_, _, ids)| ids);
                let is_here = |probe: &ProbeId| !self.away.contains(&(id, *probe));
                let ids: Vec<_> = ids.iter().copied().filter(is_here).collect();
                let before = places[..index].iter().filter(|other| other.part == place.part);
                let before = before.map(|other| &other.at);
                let there = self.there.get(&place.part).into_iter().flatten().chain(before);
                let there: Vec<_> = there.cloned().collect();
                wanted.extend(wanted_at(set, &ids, std::slice::from_ref(&place.at), &there));
            }
            let attached = set
                .trace_processes(&pids)
                .and_then(|()| links::attach(set, &wanted, &self.store, &Progress::default()));
            match attached {
                Ok((links, report)) => {
                    self.forget_ended(set, &places, &links);
                    let with_links = places.into_iter().zip(links);
                    let attached = with_links.filter_map(|(NewPlace { name, part, at }, links)| {
                        let (file, process) = at;
                        let id = PlaceId(self.numbers.next());
                        Some((name, part, Place { id, file, process, links: links? }))
                    });
                    attachments.places.extend(attached);
                    attachments.report.add(report);
                }
                Err(error) => attachments.failures.push(chain(&error)),
            }
        }
    }

    /// Removes processes from a set that ended while being attached: it has room for only a few thousand.
    fn forget_ended(&self, set: &ProbeSet, places: &[NewPlace], links: &[Option<PlaceLinks>]) {
        for (place, links) in places.iter().zip(links) {
            if links.is_none()
                && let Some(process) = place.at.1
                && process.has_ended()
                && let Err(error) = set.programs().forget_process(process.pid)
            {
                tracing::debug!("{error}");
            }
        }
    }
}

/// What to attach at these places of a part. If links are not limited to a process, one link serves all
/// places of a file.
fn wanted_at(set: &ProbeSet, ids: &[ProbeId], at: &[At], there: &[At]) -> Vec<Wanted> {
    let alone = set.programs().filters_by_process();
    let wanted = at.iter().enumerate().map(|(index, (file, process))| {
        let shares =
            !alone && there.iter().chain(&at[..index]).any(|(other, _)| is_same_file(other, file));
        let probes = if shares { Vec::new() } else { ids.to_vec() };
        Wanted { probes, file: Arc::clone(file), process: *process }
    });
    wanted.collect()
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Fails with the reason if one of the requests finds nothing to probe.
fn refuse_waiting(known: &[Known], discovery: &Discovery) -> Option<TracerError> {
    let is_planned = |plan: &AttachPlan| !plan.probes.is_empty();
    let found: HashSet<_> = discovery
        .parts
        .iter()
        .filter(|part| is_planned(&part.plan))
        .map(|part| &part.request.name)
        .collect();
    // Requests with a problem first: because of them, the others were not looked for.
    let missing =
        known.iter().map(|known| &known.request.name).filter(|name| !found.contains(name));
    let name = missing.max_by_key(|name| discovery.problems.contains_key(*name))?;
    let of_name = |part: &&NewPart| part.request.name == *name;
    let skipped = discovery.parts.iter().find(of_name).and_then(|part| {
        let Skipped { label, reason } = part.plan.skipped.first()?;
        Some(format!("cannot probe `{label}`: {reason}"))
    });
    let problem = || discovery.problems.get(name).map(ToString::to_string);
    let why = skipped.or_else(problem).unwrap_or_else(|| "no process is selected".to_owned());
    Some(TracerError::NothingToProbe { name: Arc::clone(name), why })
}
