//! One run: load, attach, wait until it is to end, detach. What every tracing command shares.

use std::{
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use tracer_common::{Action, counter::Counter};

use super::{
    Failure,
    command::{HeldCommand, RunningCommand},
    governor::{Governed, Governor, Presences},
    progress::ProgressLine,
    report,
    selection::{Selected, tell_skipped},
    tell::tell,
};
use faultline_engine::{
    guard::StuckWatch,
    kernel::{
        AttachReport, Calls, Counters, DetachReport, Diagnostics, Features, Latencies, LinkSets,
        Links, LoadOptions, Programs, Records, Scope, costs, missing_privilege,
    },
};
use faultline_output::{
    WriterEnd,
    summary::{Overhead, SkippedProbe},
};
use faultline_plan::{AttachPlan, ProbeId};
use faultline_resolve::{
    Pid,
    process::{self, StartTime},
};

/// How often stuck faults and the end of traced processes are looked for.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// How often calls of tasks that have ended are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// Longer than any handler takes that does not wait for a page.
const HANDLER_TIME: Duration = Duration::from_millis(2);
/// Links that are released one after another and are worth waiting for.
const FEW_LINKS: usize = 8;
/// How often the user is told whom a detach waits for.
const TELL_WAITING_EVERY: Duration = Duration::from_secs(2);
/// How long a command that is still running at the end has to react to SIGTERM.
const COMMAND_PATIENCE: Duration = Duration::from_secs(2);

/// What is told where the kernel takes long.
const SLOW_DETACH: &str = "\
    the probes are off; this kernel removes their breakpoints one after another (Ctrl-C: do not wait, \
    it goes on by itself)";

/// The plan's programs in the kernel, with everything attached.
pub(super) struct Session {
    pub(super) plan: Arc<AttachPlan>,
    pub(super) counters: Counters,
    pub(super) attached: AttachReport,
    /// How long probes were attached, where they may come and go.
    pub(super) presences: Option<Presences>,
    programs: Arc<Programs>,
    links: LinkSets,
    governed: Option<Governed>,
    records: Option<Records>,
    latencies: Option<Latencies>,
    calls: Calls,
    watch: StuckWatch,
    diagnostics: Option<Diagnostics>,
    processes: Vec<(Pid, StartTime)>,
    held: Option<HeldCommand>,
    skipped: Vec<SkippedProbe>,
    notes: Vec<String>,
    interrupts: Interrupts,
    /// The user knows that the ring buffer is too small.
    told_full: bool,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// Ctrl-C or SIGTERM.
    Signal(&'static str),
    /// The command of `-c` ended.
    CommandEnded,
    /// Every process of `-p` ended.
    ProcessesEnded,
    /// The time of `--duration` is over.
    Duration,
    /// The events of `--max-events` are written.
    Limit,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The output cannot be written.
    OutputFailed(String),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(name) => f.write_str(name),
            Self::CommandEnded => f.write_str("the command ended"),
            Self::ProcessesEnded => f.write_str("the traced process ended"),
            Self::Duration => f.write_str("--duration is over"),
            Self::Limit => f.write_str("--max-events is reached"),
            Self::OutputClosed => f.write_str("the output was closed"),
            Self::OutputFailed(error) => write!(f, "the output failed: {error}"),
        }
    }
}

/// What is known when the run has ended.
pub(super) struct Ended {
    pub(super) plan: Arc<AttachPlan>,
    pub(super) counters: Counters,
    pub(super) attached: AttachReport,
    pub(super) skipped: Vec<SkippedProbe>,
    /// What works differently on this kernel.
    pub(super) notes: Vec<String>,
    pub(super) reason: Reason,
    pub(super) ran: Duration,
    pub(super) detach: DetachReport,
    /// The probe of each call that had not returned.
    pub(super) unfinished: Vec<ProbeId>,
    /// What the overhead budget has done, if there was one.
    pub(super) overhead: Option<Overhead>,
    /// How long probes were attached, where they may come and go.
    pub(super) presences: Option<Presences>,
    pub(super) command: Option<ExitStatus>,
    /// The probes are gone, but a task is still inside a handler, and the user did not want to
    /// wait for it.
    pub(super) abandoned: bool,
}

impl Session {
    /// Loads and attaches. Nothing counts yet.
    pub(super) async fn attach(
        selected: Selected,
        action: Action,
        buffer_bytes: u32,
    ) -> Result<Self, Failure> {
        if let Some(missing) = missing_privilege() {
            return Err(anyhow::anyhow!("{missing} (run it with sudo)").into());
        }
        let interrupts = Interrupts::new()?;
        let held = selected.command.as_deref().map(HeldCommand::start).transpose()?;
        let mut pids = selected.pids.clone();
        pids.extend(held.as_ref().map(HeldCommand::pid));
        let processes = pids
            .iter()
            .map(|pid| Ok((*pid, process::start_time(*pid)?)))
            .collect::<std::io::Result<Vec<_>>>()
            .context("a process to trace is gone")?;
        let scope = match held {
            Some(_) => Scope::Processes(pids.clone()),
            None => selected.scope(),
        };
        let diagnostics = tracing::enabled!(target: "faultline_ebpf", tracing::Level::ERROR);
        let begin_at_exec = held.is_some();
        let by_process = scope != Scope::AllProcesses;
        let (sample, rate, force) = (selected.sample, selected.rate, selected.force);
        let limit = selected.overhead;
        let plan = Arc::new(selected.plan);
        let attaching = Arc::clone(&plan);
        let mut line = ProgressLine::new("attaching");
        let progress = Arc::clone(&line.progress);
        let run_scope = scope.clone();
        let attach = blocking("attach", move || {
            // Before anything of ours is attached, which would be in the way.
            let costs = limit.and_then(|_| costs());
            let features = Features::probe()?;
            let options = LoadOptions {
                action,
                buffer_bytes,
                pids,
                more_pids: 0,
                begin_at_exec,
                exchanges: limit.is_some(),
                diagnostics,
                features,
                force,
                sample,
                rate,
            };
            let programs = Programs::load(&attaching, &options)?;
            let all: Vec<_> = (0..attaching.probes.len() as u32).map(ProbeId).collect();
            let (links, attached) =
                LinkSets::attach(&programs, &attaching, &all, &scope, &progress)?;
            anyhow::Ok((programs, links, attached, costs))
        });
        let (mut programs, links, attached, costs) = showing(&mut line, attach).await??;
        drop(line);
        let notes = programs.features().notes(by_process, force);
        tell_skipped(&attached.refused);
        if attached.probes == 0 {
            return Err(anyhow::anyhow!("the kernel refused every probe").into());
        }
        let diagnostics = if diagnostics { Some(programs.diagnostics()?) } else { None };
        let counters = programs.counters(plan.probes.len())?;
        let governed = limit.map(|limit| Governed { limit, costs, scope: run_scope });
        Ok(Self {
            presences: limit.map(|limit| Presences::new(&counters, limit)),
            governed,
            counters,
            records: (action == Action::Events).then(|| programs.take_records()).transpose()?,
            latencies: (action == Action::Latency)
                .then(|| programs.take_latencies())
                .transpose()?,
            calls: programs.take_calls()?,
            watch: StuckWatch::new(programs.take_faults()?),
            diagnostics,
            plan,
            attached,
            programs: Arc::new(programs),
            links,
            processes,
            held,
            skipped: selected.skipped,
            notes,
            interrupts,
            told_full: false,
        })
    }

    /// The records, to be drained.
    pub(super) fn take_records(&mut self) -> Result<Records, Failure> {
        self.records.take().ok_or_else(|| anyhow::anyhow!("the records are taken").into())
    }

    /// The durations of calls, for the action [`Action::Latency`].
    pub(super) fn take_latencies(&mut self) -> Result<Latencies, Failure> {
        self.latencies.take().ok_or_else(|| anyhow::anyhow!("the durations are taken").into())
    }

    /// Lets hits count, waits until the run is to end, and detaches.
    ///
    /// When it returns, everything that was hit is in the ring buffer or counted.
    pub(super) async fn run(
        mut self,
        duration: Option<Duration>,
        tell: bool,
        writer_ended: &mut mpsc::UnboundedReceiver<WriterEnd>,
    ) -> Result<Ended, Failure> {
        let started = Instant::now();
        let mut enabled_by_us = false;
        let mut command = match self.held.take() {
            // Hits count from its first instruction on.
            Some(held) => {
                let command = held.release()?;
                enabled_by_us = self.programs.enable_if_not_yet();
                Some(command)
            }
            None => {
                self.programs.enable(true);
                None
            }
        };
        // Only now: who reads it may count on it.
        if tell {
            report::attached(&self.attached, &self.notes);
        }
        let mut governor = self.govern()?;
        let mut command_status = None;
        let mut tick = interval(WATCH_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let reason = loop {
            tokio::select! {
                name = self.interrupts.next() => break Reason::Signal(name),
                () = &mut deadline => break Reason::Duration,
                status = ended(&mut command) => {
                    command_status = status;
                    command = None;
                    break Reason::CommandEnded;
                }
                end = writer_ended.recv() => match end {
                    Some(WriterEnd::LimitReached) => break Reason::Limit,
                    Some(WriterEnd::OutputClosed) => break Reason::OutputClosed,
                    Some(WriterEnd::OutputFailed(error)) => {
                        break Reason::OutputFailed(error.to_string());
                    }
                    None => break Reason::OutputFailed("its writer is gone".to_owned()),
                },
                () = Governor::due(&mut governor) => {
                    if let Some(governor) = &mut governor {
                        governor.look(|| self.watch.anyone_inside());
                    }
                }
                _ = forget.tick() => self.calls.forget_ended(&self.counters),
                _ = tick.tick() => {
                    self.look();
                    if command.is_none() && self.all_gone() {
                        break Reason::ProcessesEnded;
                    }
                }
            }
        };
        if enabled_by_us && !self.programs.saw_command() {
            tell!("warning: hits of the command's first moments may be missing");
        }
        self.programs.enable(false);
        let ran = started.elapsed();
        self.calls.forget_ended(&self.counters);
        let mut overhead = None;
        if let Some(mut governor) = governor {
            governor.end();
            let (figures, keeper) = governor.finish();
            overhead = Some(figures);
            self.take_back(keeper).await?;
        }
        let (detach, abandoned) = self.detach().await?;
        if let Some(command) = command {
            command_status = stop_command(command).await;
        }
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
        Ok(Ended {
            plan: self.plan,
            counters: self.counters,
            attached: self.attached,
            skipped: self.skipped,
            notes: self.notes,
            reason,
            ran,
            detach,
            unfinished: self.calls.open(),
            overhead,
            presences: self.presences,
            command: command_status,
            abandoned,
        })
    }

    /// Has the links kept within the budget, if there is one.
    fn govern(&mut self) -> Result<Option<Governor>, Failure> {
        let (Some(governed), Some(presences)) = (self.governed.take(), &self.presences) else {
            return Ok(None);
        };
        let links = std::mem::take(&mut self.links);
        let (programs, plan) = (Arc::clone(&self.programs), Arc::clone(&self.plan));
        Ok(Some(Governor::start(governed, programs, plan, presences.clone(), links)?))
    }

    /// Takes the links back from the thread that has kept them, when it has done what it is at.
    /// Where that waits for a task inside a handler, a signal ends the wait.
    async fn take_back(
        &mut self,
        keeper: std::thread::JoinHandle<LinkSets>,
    ) -> Result<(), Failure> {
        let joined = blocking("join", move || keeper.join());
        tokio::select! {
            links = joined => {
                self.links = links?.map_err(|_| anyhow::anyhow!("the keeper of the links panicked"))?;
            }
            _ = self.interrupts.next() => {}
        }
        Ok(())
    }

    /// Looks once for stuck tasks, and hands on the programs' diagnostics.
    fn look(&mut self) {
        match self.watch.check() {
            Ok(reports) => {
                for report in reports {
                    tell!("warning: {report}; its process is read without faulting from now on");
                }
            }
            Err(error) => tracing::warn!("failed to look for stuck tasks: {error}"),
        }
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
        self.tell_losses();
    }

    /// Tells once, while something can be done about it, that events find no room.
    fn tell_losses(&mut self) {
        let probes = 0..self.plan.probes.len() as u32;
        let lost = |id| self.counters.sum(ProbeId(id), Counter::RingFull) != 0;
        if !self.told_full && probes.into_iter().any(lost) {
            self.told_full = true;
            tell!(
                "warning: events come faster than they can be written: those that find no room in the \
                 ring buffer are lost, and counted (--buffer makes it larger; --where, --sample and \
                 --rate take less)"
            );
        }
    }

    fn all_gone(&self) -> bool {
        !self.processes.is_empty()
            && self.processes.iter().all(|(pid, started)| process::has_ended(*pid, *started))
    }

    /// Releases the links; how long it took, and whether the wait was given up.
    async fn detach(&mut self) -> Result<(DetachReport, bool), Failure> {
        let mut links = std::mem::take(&mut self.links).into_links();
        let started = Instant::now();
        let (done, detached) = oneshot::channel();
        // Who was inside a handler when counting stopped is inside a fault by now, or done.
        tokio::time::sleep(HANDLER_TIME).await;
        let mut releaser = None;
        let slow = !self.programs.features().batches() && links.len() > FEW_LINKS;
        if slow || self.watch.anyone_inside() {
            match links.hand_over() {
                Ok(child) => {
                    releaser = Some(child);
                    links = Links::default();
                }
                Err((ours, error)) => {
                    tracing::warn!("failed to start a process that releases the links: {error}");
                    links = ours;
                }
            }
        }
        let mut line = ProgressLine::new("detaching");
        let progress = Arc::clone(&line.progress);
        std::thread::Builder::new().name("detach".to_owned()).spawn(move || {
            let report = match releaser {
                Some(releaser) => {
                    drop(links);
                    releaser.release(&progress)
                }
                None => links.detach(&progress),
            };
            let _ = done.send(DetachReport { took: started.elapsed(), ..report });
        })?;
        let so_far = || DetachReport { took: started.elapsed(), grace: None };
        let mut tick = interval(WATCH_EVERY);
        let mut told = started;
        tokio::pin!(detached);
        loop {
            tokio::select! {
                report = &mut detached => return Ok((report.unwrap_or_else(|_| so_far()), false)),
                _ = self.interrupts.next(), if told != started => return Ok((so_far(), true)),
                _ = tick.tick() => {
                    line.show();
                    let first = told == started && started.elapsed() > Duration::from_millis(500);
                    if first && slow {
                        line.say(SLOW_DETACH);
                    }
                    if first || (told != started && told.elapsed() > TELL_WAITING_EVERY) {
                        told = Instant::now();
                        self.tell_waiting(&line);
                    }
                }
            }
        }
    }

    fn tell_waiting(&self, line: &ProgressLine) {
        for report in self.watch.waiting() {
            line.say(&format!(
                "waiting for {report}; the probes are off, but the kernel cannot let go of them \
                 before the page is served or the process is killed (Ctrl-C: do not wait)"
            ));
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("attached", &self.attached).finish_non_exhaustive()
    }
}

/// The signals that end a run.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// Waits for the command; for ever if there is none.
async fn ended(command: &mut Option<RunningCommand>) -> Option<ExitStatus> {
    match command {
        Some(command) => (&mut command.ended).await.ok(),
        None => std::future::pending().await,
    }
}

/// Asks a command that outlives the run to end.
async fn stop_command(command: RunningCommand) -> Option<ExitStatus> {
    let Ok(pid) = i32::try_from(command.pid.get()) else { return None };
    // SAFETY: the process is our child and not yet waited for by anybody but its thread, so the
    // id is still its own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    match tokio::time::timeout(COMMAND_PATIENCE, command.ended).await {
        Ok(status) => status.ok(),
        Err(_) => {
            tell!("warning: the command (process {pid}) goes on in spite of SIGTERM");
            None
        }
    }
}

/// Waits for something, and shows meanwhile how far it has come.
async fn showing<T>(line: &mut ProgressLine, work: impl Future<Output = T>) -> T {
    let mut tick = interval(WATCH_EVERY);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = tick.tick() => line.show(),
        }
    }
}

/// Runs what blocks on a thread of its own. Unlike the runtime's blocking threads, it does not
/// keep the program from ending.
pub(super) async fn blocking<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = done.send(work());
    })?;
    Ok(result.await.context("a thread ended early")?)
}
