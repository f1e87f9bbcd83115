//! The owner of the probes: a thread that attaches and releases, one change after another.
//!
//! Takes [`Command`]s; publishes what is attached (a metrics catalog, and the list for `ctl list`),
//! so that nobody who only wants to know has to wait for it. What blocks for long, releasing, is
//! done on threads of its own.

mod change;
mod group;
mod look;
mod named;
mod overhead;
mod places;
mod publish;
mod release;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub(super) use self::{change::Changed, publish::ProbeStatus};
use self::{
    group::{Group, GroupId},
    named::Named,
    overhead::Overseer,
    release::{Leaving, Released},
};
use super::{
    config::{Config, ProbeConfig},
    event_log::EventLog,
    find::Finder,
    processes::{self, Containers},
    watch::ProcessWatch,
};
use faultline_engine::kernel::{Features, Holders};
use faultline_output::prometheus::{CpuFigures, Metrics};
use faultline_resolve::Pid;

/// How often the engine looks after its groups when nobody wants anything.
const TICK: Duration = Duration::from_millis(100);
/// How often it looks for tasks that hang in a fault.
const GUARD_EVERY: Duration = Duration::from_millis(500);

/// A wish.
#[derive(Debug)]
pub(super) enum Command {
    /// Put this configuration in force.
    Reload(Box<Config>, oneshot::Sender<anyhow::Result<Changed>>),
    /// Attach these besides. Those that lead to nothing are refused, unless they may wait.
    Attach {
        probes: Vec<ProbeConfig>,
        may_wait: bool,
        reply: oneshot::Sender<anyhow::Result<Changed>>,
    },
    /// Detach these.
    Detach { names: Vec<String>, reply: oneshot::Sender<anyhow::Result<Changed>> },
    /// Probes are released.
    Released(Box<Released>),
    /// Probes that the overhead budget has detached are released.
    OverheadSettled,
    /// Release everything and end; tells whether all was released in time.
    Stop(oneshot::Sender<bool>),
}

/// What everybody may see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<EventLog>,
    /// The named probes.
    pub(super) probes: RwLock<Arc<Vec<ProbeStatus>>>,
    /// Sets of probes that are being released.
    pub(super) releasing: AtomicU64,
    /// The probes of the configuration are attached.
    pub(super) ready: AtomicBool,
    /// The configuration file.
    pub(super) config_path: PathBuf,
    /// How often the engine has seen everything that drains alive.
    pub(super) beats: AtomicU64,
    pub(super) started: Instant,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Engine {
    config: Config,
    named: BTreeMap<Arc<str>, Named>,
    groups: BTreeMap<GroupId, Group>,
    /// What is being released.
    leaving: Vec<Leaving>,
    retired: Vec<CpuFigures>,
    /// Groups and releases so far.
    numbered: u64,
    finder: Finder,
    containers: Containers,
    watch: ProcessWatch,
    features: Features,
    holders: Holders,
    /// If there is an overhead budget.
    overseer: Option<Overseer>,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    tell: mpsc::Sender<Command>,
    next_scan: Instant,
    next_guard: Instant,
    next_tick: Instant,
    /// Why the last look at everything could not attach what it found; empty if it could.
    told_failure: String,
    /// How often each drain had looked at the last beat.
    looks: BTreeMap<GroupId, u64>,
}

impl Engine {
    /// Starts the thread, with nothing attached.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(super) fn start(
        config: Config,
        watch: ProcessWatch,
        features: Features,
        shared: Arc<Shared>,
    ) -> std::io::Result<mpsc::Sender<Command>> {
        let (tell, commands) = mpsc::channel();
        let engine = Self {
            next_scan: Instant::now() + config.targets.rescan_every,
            config,
            named: BTreeMap::new(),
            groups: BTreeMap::new(),
            leaving: Vec::new(),
            retired: Vec::new(),
            numbered: 0,
            finder: Finder::new(),
            containers: Containers::default(),
            watch,
            features,
            holders: Holders::default(),
            overseer: None,
            shared,
            commands,
            tell: tell.clone(),
            next_guard: Instant::now(),
            next_tick: Instant::now(),
            told_failure: String::new(),
            looks: BTreeMap::new(),
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || engine.run())?;
        Ok(tell)
    }

    fn run(mut self) {
        loop {
            match self.commands.recv_timeout(self.patience(TICK)) {
                Ok(Command::Reload(config, reply)) => {
                    let _ = reply.send(self.reload(*config));
                }
                Ok(Command::Attach { probes, may_wait, reply }) => {
                    let _ = reply.send(self.attach(probes, may_wait));
                }
                Ok(Command::Detach { names, reply }) => {
                    let _ = reply.send(self.detach(&names));
                }
                Ok(Command::Released(released)) => self.released(&released),
                Ok(Command::OverheadSettled) => self.overhead_released(),
                Ok(Command::Stop(reply)) => {
                    let _ = reply.send(self.stop());
                    return;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.keep_budget();
            self.tick();
        }
    }

    /// A number that nothing else has.
    fn new_number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    fn tick(&mut self) {
        let now = Instant::now();
        // The budget may want to be looked after more often than drains have something to show.
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK / 2;
        self.beat();
        if now >= self.next_guard {
            self.next_guard = now + GUARD_EVERY;
            self.guard();
        }
        let begun = self.watch.begun(self.config.targets.settle);
        if now >= self.next_scan {
            self.next_scan = now + self.config.targets.rescan_every;
            self.groups.values_mut().for_each(Group::forget_ended);
            self.scan(None);
        } else if !begun.is_empty() {
            let begun = self.of_interest(&begun);
            if !begun.is_empty() {
                self.scan(Some(&begun));
            }
        }
    }

    /// Tells that everything that drains is alive: each has looked since the last beat.
    fn beat(&mut self) {
        let looks: BTreeMap<_, _> = self
            .groups
            .iter()
            .filter_map(|(id, group)| Some((*id, group.drain.as_ref()?.looks())))
            .collect();
        if looks.iter().all(|(id, looks)| self.looks.get(id) != Some(looks)) {
            self.looks = looks;
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks for tasks that hang in a fault that we caused.
    fn guard(&mut self) {
        let mut inside: usize = self.leaving.iter().map(Leaving::tasks_in_fault).sum();
        for group in self.groups.values_mut() {
            let Some(watch) = &mut group.watch else { continue };
            match watch.check() {
                Ok(reports) => {
                    for report in reports {
                        self.shared.metrics.own.tasks_stuck.inc();
                        tracing::warn!(
                            "{report}; its process is read without faulting from now on"
                        );
                    }
                }
                Err(error) => tracing::warn!("failed to look for stuck tasks: {error}"),
            }
            inside += watch.inside();
        }
        self.shared.metrics.own.tasks_in_fault.set(i64::try_from(inside).unwrap_or(i64::MAX));
    }

    /// Of processes that have begun something, those that a probe may be for, and their children.
    fn of_interest(&self, begun: &HashSet<Pid>) -> Vec<Pid> {
        let selects = self
            .named
            .values()
            .any(|named| named.config.selection != super::config::Selection::All);
        let containers = self.config.targets.containers && !self.named.is_empty();
        if !selects && !containers {
            return Vec::new();
        }
        let traced: HashSet<Pid> = self
            .named
            .values()
            .flat_map(Named::attachments)
            .filter_map(|place| Some(place.traced?.pid))
            .collect();
        let mut all = begun.clone();
        // A traced process that forks has children of its own name and cgroup.
        for parent in begun.intersection(&traced) {
            all.extend(processes::children(*parent));
        }
        all.into_iter().collect()
    }
}
