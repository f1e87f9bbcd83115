//! The engine's thread: handles commands, keeps the budget, and maintains what is attached.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use faultline_plan::ProbeId;
use faultline_resolve::Pid;

use super::{
    Attached, Change, Changed, Command, Options, Settings, Stopped, TracerError, Vitals,
    children::Freeing,
    correct::{Adjustment, Correcting},
    probed::{Probed, into_links},
    work::Job,
};
use crate::{
    collect::catalog::Retired,
    death::{Circumstances, DeathReport},
    discovery::{Looker, ProcessWatch, Unanswered},
    kernel::{Features, HeldLinks, Progress},
    limiter::Limiter,
    links::LinkStore,
    notice::{Notice, Slow},
    release::{Release, Released},
    request::{Request, Selection},
    set::{ProbeSet, SetId},
};

/// How often the thread checks its sets when there are no commands.
const TICK: Duration = Duration::from_millis(100);
/// How often to look for open calls of ended tasks.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// The same where goroutines have calls: nothing else says that one has ended.
const FORGET_GOROUTINES_EVERY: Duration = Duration::from_secs(2);
/// How often to look for lost events.
const FULL_EVERY: Duration = Duration::from_millis(500);
/// The longest that a release takes unless a task holds it up.
const HELD_UP_AFTER: Duration = Duration::from_secs(2);

/// Unique numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Arc<AtomicU64>);

impl Numbers {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// What is being released.
pub(super) struct Leaving {
    id: u64,
    since: Instant,
    /// Sets that end with it: hits inside their handlers still count.
    pub(super) sets: Vec<Arc<ProbeSet>>,
    /// The correction of the budget that waits for it.
    pub(super) correction: Option<Correcting>,
}

impl Leaving {
    /// Whether it takes far longer than a grace period, because a task is stuck inside a handler.
    pub(super) fn is_held_up(&self) -> bool {
        self.since.elapsed() > HELD_UP_AFTER
    }
}

/// A change that waits for its turn or for its job.
pub(super) enum Pending {
    Change {
        change: Change,
        reply: oneshot::Sender<Result<Changed, TracerError>>,
    },
    Attach {
        prepared: Box<crate::discovery::Prepared>,
        progress: Arc<Progress>,
        reply: oneshot::Sender<Result<Attached, TracerError>>,
    },
}

/// The state of the thread.
pub(super) struct Engine {
    pub(super) options: Options,
    pub(super) features: Features,
    pub(super) numbers: Numbers,
    pub(super) requests: BTreeMap<Arc<str>, Probed>,
    pub(super) sets: BTreeMap<SetId, Arc<ProbeSet>>,
    pub(super) leaving: Vec<Leaving>,
    /// The counts of sets that are gone.
    pub(super) retired: Retired,
    pub(super) store: Arc<LinkStore>,
    pub(super) limiter: Option<Limiter>,
    /// The correction that is being carried out.
    pub(super) correcting: bool,
    pub(super) freeing: Freeing,
    /// Probes that were being attached when the budget decided to detach them.
    pub(super) late: HashSet<(SetId, ProbeId)>,
    /// Probes that a caller wants detached or attached again.
    pub(super) adjustments: VecDeque<Adjustment>,
    pub(super) looker: Option<Looker>,
    /// Targets whose file systems do not answer.
    pub(super) unanswered: Unanswered,
    pub(super) job: Option<Job>,
    pub(super) queue: VecDeque<Pending>,
    /// Targets whose file system did not answer, with the process whose view it was.
    pub(super) avoided: HashSet<(Arc<str>, Option<u32>)>,
    watch: ProcessWatch,
    /// New processes to look at.
    begun: HashSet<Pid>,
    tell: mpsc::Sender<Command>,
    next_scan: Instant,
    next_tick: Instant,
    next_forget: Instant,
    next_goroutines: Instant,
    next_full: Instant,
    /// How often each drain had looked at the last check.
    looks: BTreeMap<SetId, u64>,
    /// Why the last scan could not attach what it found.
    pub(super) told_failure: String,
    /// Why the last correction failed, and when that was reported.
    pub(super) told_correction: Option<(String, Instant)>,
    /// When to retry attaching what a former limit has detached.
    pub(super) attach_missing_at: Option<Instant>,
}

impl Engine {
    pub(super) fn new(options: Options, tell: mpsc::Sender<Command>) -> Result<Self, TracerError> {
        let features = options.host.features()?;
        let now = Instant::now();
        let watch = if options.changes { ProcessWatch::start() } else { ProcessWatch::default() };
        Ok(Self {
            features,
            numbers: Numbers::default(),
            requests: BTreeMap::new(),
            sets: BTreeMap::new(),
            leaving: Vec::new(),
            retired: Retired::default(),
            store: Arc::new(LinkStore::new(options.holding, options.helper)),
            limiter: None,
            correcting: false,
            freeing: Freeing::default(),
            late: HashSet::new(),
            adjustments: VecDeque::new(),
            looker: None,
            unanswered: Unanswered::default(),
            job: None,
            queue: VecDeque::new(),
            avoided: HashSet::new(),
            watch,
            begun: HashSet::new(),
            tell,
            next_scan: now + options.settings.rescan_every,
            next_tick: now,
            next_forget: now + FORGET_EVERY,
            next_goroutines: now + FORGET_GOROUTINES_EVERY,
            next_full: now,
            looks: BTreeMap::new(),
            told_failure: String::new(),
            told_correction: None,
            attach_missing_at: None,
            options,
        })
    }

    pub(super) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            match commands.recv_timeout(self.patience()) {
                Ok(Command::Stop { within, progress, reply }) => {
                    let mut waiting = vec![reply];
                    let stopped = self.stop(commands, within, &progress, &mut waiting);
                    // The requester may have gone.
                    waiting.into_iter().for_each(|reply| drop(reply.send(stopped.clone())));
                    return;
                }
                Ok(command) => self.handle(command),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.adjust();
            self.keep_budget();
            self.tick();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Change(change, reply) => self.enqueue(Pending::Change { change, reply }),
            Command::Attach(prepared, progress, reply) => {
                self.enqueue(Pending::Attach { prepared, progress, reply });
            }
            Command::Watch(set) => {
                set.restart_presence();
                self.limiter =
                    self.options.settings.limit.map(|limit| Limiter::new(limit, &self.sets));
            }
            Command::Explain(reply) => self.explain(reply),
            Command::Adjust(adjustment) => self.adjustments.push_back(adjustment),
            Command::Worked(worked) => self.worked(*worked),
            Command::Corrected(corrected) => self.corrected(*corrected),
            Command::FreedChildren(freed) => self.freed_children(freed),
            Command::Released(id, released) => self.released(id, &released),
            // The receiving loop handles this one itself, because it ends with it.
            Command::Stop { reply, .. } => drop(reply),
        }
    }

    /// How long the thread may wait for a command.
    fn patience(&self) -> Duration {
        self.limiter.as_ref().map_or(TICK, |limiter| limiter.wait().min(TICK))
    }

    pub(super) fn teller(&self) -> mpsc::Sender<Command> {
        self.tell.clone()
    }

    pub(super) fn notice(&self, notice: Notice) {
        self.options.observer.notice(notice);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        // The budget may need attention more often than this.
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK / 2;
        self.watch_faults();
        self.settle_held_up();
        self.free_children();
        if now >= self.next_goroutines {
            self.next_goroutines = now + FORGET_GOROUTINES_EVERY;
            let all = now >= self.next_forget;
            if all {
                self.next_forget = now + FORGET_EVERY;
            }
            let due = self.sets.values().filter(|set| all || set.has_goroutines());
            due.for_each(|set| set.forget_ended());
        }
        if now >= self.next_full {
            self.next_full = now + FULL_EVERY;
            if self.sets.values().any(|set| set.newly_full()) {
                self.notice(Notice::BufferFull);
            }
            // A run reports them in its summary.
            if self.options.changes {
                self.report_deaths();
            }
        }
        let mut slow = self.watch_job();
        slow.extend(self.unanswered.slow());
        self.report_vitals(slow);
        if self.options.changes {
            self.look_for_targets(now);
        }
    }

    /// Looks for tasks that are stuck in a fault that we caused, and passes on the programs' messages.
    fn watch_faults(&self) {
        for set in self.sets.values().chain(self.leaving.iter().flat_map(|of| &of.sets)) {
            for report in set.newly_stuck() {
                self.notice(Notice::Stuck(report));
            }
            set.flush_diagnostics();
        }
    }

    /// Reports processes that died of a signal while they were probed. Where every process is probed, only
    /// those that cannot have died of anything else.
    fn report_deaths(&self) {
        for set in self.sets.values().chain(self.leaving.iter().flat_map(|of| &of.sets)) {
            for (pid, death) in set.take_deaths() {
                let (dead, known) = ((pid, death.signal as i32), Circumstances::default());
                let hits = set.all_hits();
                let report = DeathReport::new(dead, Some(&death), &set.plan, &hits, &known);
                if set.selects || report.is_conclusive() {
                    self.notice(Notice::Died(report));
                }
            }
        }
    }

    fn report_vitals(&mut self, slow: Vec<Slow>) {
        let looks: BTreeMap<_, _> =
            self.sets.iter().filter_map(|(id, set)| Some((*id, set.looks()?))).collect();
        let drains_alive = looks.iter().all(|(id, looks)| self.looks.get(id) != Some(looks));
        if drains_alive {
            self.looks = looks;
        }
        let all = self.sets.values().chain(self.leaving.iter().flat_map(|of| &of.sets));
        self.options.observer.vitals(&Vitals {
            drains_alive,
            tasks_in_fault: all.map(|set| set.tasks_in_fault()).sum(),
            releasing: self.leaving.len(),
            slow,
        });
    }

    /// Starts a look at everything, or at new processes, when it is due and no other work is in progress.
    fn look_for_targets(&mut self, now: Instant) {
        self.begun.extend(self.watch.begun(self.options.settings.settle));
        if self.job.is_some() || !self.queue.is_empty() {
            return;
        }
        if now >= self.next_scan {
            self.next_scan = now + self.options.settings.rescan_every;
            self.begun.clear();
            self.scan(None);
        } else if !self.begun.is_empty() {
            let begun: Vec<_> = self.begun.drain().collect();
            let selects =
                self.requests.values().any(|probed| probed.request.selection != Selection::All);
            let containers = self.options.settings.containers && !self.requests.is_empty();
            if selects || containers {
                self.scan(Some(begun));
            }
        }
    }

    /// Whether a request of this name is known with the same content.
    pub(super) fn is_known(&self, request: &Request) -> bool {
        self.requests.get(&request.name).is_some_and(|known| *known.request == *request)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// Releases links and unused sets, on a separate thread.
    pub(super) fn release(&mut self, links: Vec<HeldLinks>, correction: Option<Correcting>) {
        let used: HashSet<SetId> =
            self.requests.values().flat_map(|of| &of.parts).map(|part| part.set).collect();
        let unused: Vec<SetId> =
            self.sets.keys().filter(|id| !used.contains(id)).copied().collect();
        let ending: Vec<_> = unused.iter().filter_map(|id| self.sets.remove(id)).collect();
        self.release_ending(links, ending, correction, Arc::default());
    }

    pub(super) fn release_ending(
        &mut self,
        links: Vec<HeldLinks>,
        ending: Vec<Arc<ProbeSet>>,
        correction: Option<Correcting>,
        progress: Arc<Progress>,
    ) {
        if links.is_empty() && ending.is_empty() && correction.is_none() {
            return;
        }
        ending.iter().for_each(|set| set.end());
        let id = self.numbers.next();
        let since = Instant::now();
        self.leaving.push(Leaving { id, since, sets: ending.clone(), correction });
        if !ending.is_empty() {
            self.publish();
        }
        let release = Release { links, ending, progress };
        let (tell, store) = (self.teller(), Arc::clone(&self.store));
        let observer = Arc::clone(&self.options.observer);
        let work = move || {
            let released = release.run(&store, &|notice| observer.notice(notice));
            let _ = tell.send(Command::Released(id, released));
        };
        if let Err(error) = std::thread::Builder::new().name("release".to_owned()).spawn(work) {
            // The links have been dropped with the thread's closure, which releases them as well.
            tracing::error!("failed to start a thread: {error}");
            self.released(id, &Released::default());
        }
    }

    /// Records that a release is done.
    fn released(&mut self, id: u64, released: &Released) {
        let Some(place) = self.leaving.iter().position(|leaving| leaving.id == id) else { return };
        let Leaving { sets, correction, .. } = self.leaving.swap_remove(place);
        match correction {
            Some(correction) => self.settled(correction),
            None if released.links == 0 => {}
            None => self.notice(Notice::Released {
                links: released.links,
                took: released.report.took,
                grace: released.report.grace,
            }),
        }
        if !sets.is_empty() {
            self.retire(&sets);
            self.publish();
        }
    }

    /// Stops counting and releases everything; returns the result.
    fn stop(
        &mut self,
        commands: &mpsc::Receiver<Command>,
        within: Option<Duration>,
        progress: &Arc<Progress>,
        waiting: &mut Vec<oneshot::Sender<Stopped>>,
    ) -> Stopped {
        // The limit does not change any more.
        self.options.changes = false;
        let overhead = self.limiter.as_mut().map(|limiter| limiter.last_look(&self.sets));
        self.sets.values().for_each(|set| set.end());
        let queued = std::mem::take(&mut self.queue);
        queued.into_iter().for_each(|pending| pending.fail(TracerError::Stopping));
        // What a job has not begun to attach by now, it does not attach any more.
        if let Some(job) = &self.job {
            job.cancel();
        }
        let requests = std::mem::take(&mut self.requests).into_values();
        let links = into_links(requests.flat_map(|probed| probed.parts));
        let ending = std::mem::take(&mut self.sets).into_values().collect();
        self.release_ending(links, ending, None, Arc::clone(progress));
        let deadline = within.map(|within| Instant::now() + within);
        let mut stopped = self.wait_released(commands, deadline, waiting);
        // The probes of these are detached, although the kernel has yet to release the links.
        let corrections = self.leaving.iter_mut().filter_map(|leaving| leaving.correction.take());
        for correction in corrections.collect::<Vec<_>>() {
            self.settled(correction);
        }
        stopped.overhead = overhead.map(|overhead| match &self.limiter {
            // What was still being carried out at the last look has been done since, or has failed.
            Some(limiter) => limiter.status_since(overhead),
            None => overhead,
        });
        stopped
    }

    /// Waits until everything is released; returns what is known then, or at the deadline.
    fn wait_released(
        &mut self,
        commands: &mpsc::Receiver<Command>,
        mut deadline: Option<Instant>,
        waiting: &mut Vec<oneshot::Sender<Stopped>>,
    ) -> Stopped {
        let last = self.leaving.last().map(|leaving| leaving.id);
        let mut stopped = Stopped { complete: true, ..Stopped::default() };
        let is_busy = |engine: &Self| {
            !engine.leaving.is_empty()
                || engine.correcting
                || engine.freeing.busy
                || engine.job.as_ref().is_some_and(Job::is_attaching)
        };
        while is_busy(self) {
            let left = deadline.map_or(TICK, |deadline| {
                deadline.saturating_duration_since(Instant::now()).min(TICK)
            });
            match commands.recv_timeout(left) {
                Ok(Command::Released(id, released)) => {
                    if Some(id) == last {
                        stopped.released = released;
                    }
                    self.released(id, &released);
                }
                Ok(Command::Worked(worked)) => self.cancelled(*worked),
                Ok(Command::Corrected(corrected)) => self.corrected(*corrected),
                Ok(Command::FreedChildren(freed)) => self.freed_children(freed),
                // Another caller has less patience.
                Ok(Command::Stop { within, reply, .. }) => {
                    waiting.push(reply);
                    let sooner = within.map(|within| Instant::now() + within);
                    deadline = deadline.into_iter().chain(sooner).min();
                }
                // It is too late for any other command: its caller sees that no answer comes.
                Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return stopped,
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) && is_busy(self) {
                stopped.complete = false;
                return stopped;
            }
            self.watch_faults();
        }
        stopped
    }
}
