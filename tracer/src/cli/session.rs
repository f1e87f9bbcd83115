//! One run: attach, wait for the end, stop. Shared by every tracing command.

mod explain;

use std::{
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::SignalKind,
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use super::{
    Failure,
    command::{self, EndedCommand, HeldCommand, RunningCommand},
    progress::ProgressLine,
    report,
    selection::{Selected, tell_differing, tell_skipped},
    tell::tell,
};
use crate::signals::Listener;
use faultline_engine::{
    Attached, Host, Options, ProbeSet, Process, Settings, Stopped, Tracer,
    caveats::{self, Remark, Sightings},
    changed_meanwhile,
    collect::events::HandlerFactory,
    death::DeathReport,
    kernel::{AttachReport, Holding, missing_privilege},
    limiter::LimiterNotice,
    notice::{Level, Notice},
};
use faultline_output::{
    WriterEnd,
    summary::{Millis, Overhead, Ppm, SkippedProbe},
};
use faultline_resolve::{Pid, Skipped};

/// How often to check whether the traced processes have ended, and to show progress.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// After this time the user may give up waiting for the kernel.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the tracer has to report what it has done once the wait for it is given up.
const LEAVE_PATIENCE: Duration = Duration::from_millis(500);
/// Up to this many links, releasing them one after another is worth waiting for.
const FEW_LINKS: usize = 8;
/// How long a command that is still running at the end has to react to SIGTERM.
const COMMAND_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait at the end for the last look at the traced processes.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait at the end for an output that accepts nothing.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// Shown when the kernel takes long.
const SLOW_DETACH: &str = "\
    the probes are off; this kernel removes their breakpoints one after another (Ctrl-C to exit now; \
    the kernel finishes removing breakpoints)";
/// What following children costs.
const FOLLOWING: &str = "\
    with --follow every process that runs the code pays for the breakpoints, though only the named ones and \
    their children are traced";
const EXIT_NOW: &str = "(Ctrl-C to exit now)";

/// The attached probes, and what is known about them.
pub(super) struct Session {
    pub(super) set: Arc<ProbeSet>,
    pub(super) host: Host,
    attached: AttachReport,
    tracer: Tracer,
    notices: mpsc::UnboundedReceiver<Notice>,
    processes: Vec<Process>,
    /// What is seen of them, for whoever asks why there were no hits.
    sightings: Arc<Mutex<Sightings>>,
    /// What the probed files say about the functions.
    remarks: Vec<Remark>,
    held: Option<HeldCommand>,
    skipped: Vec<SkippedProbe>,
    notes: Vec<String>,
    interrupts: Interrupts,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// Ctrl-C or SIGTERM.
    Signal(&'static str),
    /// The command of `-c` ended.
    CommandEnded,
    /// All processes of `-p` ended.
    ProcessesEnded,
    /// The time given by `--duration` is over.
    Duration,
    /// All events allowed by `--max-events` were written.
    Limit,
    /// The output has no reader any more.
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

/// What is known once the run has ended.
pub(super) struct Ended {
    pub(super) set: Arc<ProbeSet>,
    pub(super) host: Host,
    pub(super) attached: AttachReport,
    /// Functions whose code a traced process has changed since.
    pub(super) changed: Vec<Skipped>,
    pub(super) skipped: Vec<SkippedProbe>,
    /// Why probes saw fewer calls than expected, or none.
    pub(super) remarks: Vec<Remark>,
    /// What traced processes died of.
    pub(super) deaths: Vec<DeathReport>,
    /// What works differently on this kernel.
    pub(super) notes: Vec<String>,
    pub(super) reason: Reason,
    pub(super) ran: Duration,
    pub(super) stopped: Stopped,
    /// What the overhead limiter did, if there was a limit.
    pub(super) overhead: Option<Overhead>,
    pub(super) command: Option<ExitStatus>,
    /// Every record was taken out of the ring buffer and passed on.
    pub(super) drained: bool,
    /// The kernel has not released everything, and the user chose not to wait for it.
    pub(super) abandoned: bool,
}

impl Session {
    /// Loads the programs and attaches the probes. Hits do not count yet.
    pub(super) async fn attach(
        selected: Selected,
        buffer_bytes: u32,
        handlers: Option<HandlerFactory>,
    ) -> Result<Self, Failure> {
        if let Some(missing) = missing_privilege() {
            return Err(anyhow::anyhow!("{missing} (run it with sudo)").into());
        }
        let interrupts = Interrupts::new()?;
        let Selected {
            host, mut prepared, pids, command, overhead, force, follow, skipped, ..
        } = selected;
        let remarks = caveats::from_symbols(prepared.plan());
        let held = command.as_deref().map(HeldCommand::start).transpose()?;
        let of = |pid: Pid| Process::of(pid).context("a process to trace has ended");
        let mut processes = pids.into_iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(held) = &held {
            let process = of(held.pid())?;
            prepared = prepared.in_process(process);
            processes.push(process);
        }
        let program = command.iter().flatten().next().and_then(|name| command::find(name).ok());
        let sightings = match (program, &processes[..]) {
            (Some(program), [process]) => Sightings::command(*process, program),
            (_, []) => Sightings::everyone(),
            (_, processes) => Sightings::running(processes),
        }
        .following(follow);
        let (tell, notices) = mpsc::unbounded_channel();
        let tracer = Tracer::start(Options {
            host,
            settings: Settings { limit: overhead, buffer_bytes, ..Settings::default() },
            holding: Holding::Here,
            helper: true,
            diagnostics: tracing::enabled!(target: "faultline_ebpf", tracing::Level::ERROR),
            changes: false,
            handlers,
            observer: Arc::new(move |notice| drop(tell.send(notice))),
        })
        .map_err(anyhow::Error::from)?;
        let mut line = ProgressLine::new("attaching");
        let attach = tracer.attach(prepared, &line.progress);
        let attached = showing(&mut line, attach).await.context("the tracer ended early")?;
        drop(line);
        let Attached { set, report } = attached.map_err(anyhow::Error::from)?;
        tell_skipped(&report.refused);
        if report.probes == 0 {
            return Err(
                anyhow::anyhow!("nothing to trace: none of the probes can be attached").into()
            );
        }
        tell_differing(&report.differing);
        let features = host.features().map_err(anyhow::Error::from)?;
        let mut notes = features.notes(!processes.is_empty() && !follow, force);
        notes.extend(follow.then(|| FOLLOWING.to_owned()));
        Ok(Self {
            set,
            host,
            attached: report,
            tracer,
            notices,
            processes,
            sightings: Arc::new(Mutex::new(sightings)),
            remarks,
            held,
            skipped,
            notes,
            interrupts,
        })
    }

    /// Starts counting hits, waits for the end of the run, and detaches.
    ///
    /// When it returns, every hit has been passed on or counted.
    pub(super) async fn run(
        mut self,
        duration: Option<Duration>,
        tell: bool,
        writer_ended: &mut mpsc::UnboundedReceiver<WriterEnd>,
    ) -> Result<Ended, Failure> {
        let started = Instant::now();
        let mut enabled_by_us = false;
        let mut command = match self.held.take() {
            // Hits count from its first instruction.
            Some(held) => {
                self.tracer.watch(&self.set);
                let command = held.release()?;
                enabled_by_us = self.set.begin_if_not_yet();
                Some(command)
            }
            None => {
                self.set.begin();
                self.tracer.watch(&self.set);
                None
            }
        };
        // Only now: a reader of this line may rely on it.
        if tell {
            report::remarks(&self.set.plan, &self.remarks);
            report::attached(&self.attached, &self.notes);
        }
        let mut command_end = None;
        let mut tick = interval(WATCH_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                end = ended(&mut command) => {
                    command_end = end;
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
                Some(notice) = self.notices.recv() => say(&notice, &|text| tell!("{text}")),
                _ = tick.tick() => {
                    if command.is_some() {
                        self.look_at_command(started.elapsed());
                    }
                    if command.is_none() && self.all_gone() {
                        break Reason::ProcessesEnded;
                    }
                }
            }
        };
        if enabled_by_us && !self.set.saw_command() {
            tell!("warning: hits may be missing from the command's first moments");
        }
        let changed = changed_meanwhile(&self.set, &self.processes);
        self.set.end();
        let ran = started.elapsed();
        let looked = self.look();
        let (stopped, abandoned) = self.stop().await?;
        let drained = if abandoned {
            let set = Arc::clone(&self.set);
            blocking("finish", move || set.finish(OUTPUT_PATIENCE)).await?
        } else {
            stopped.released.drained
        };
        if let Some(command) = command {
            command_end = stop_command(command).await;
        }
        let overhead = self.overhead(&stopped);
        if let Some(looked) = looked {
            let _ = tokio::time::timeout(LOOK_PATIENCE, looked).await;
        }
        let deaths = self.deaths(command_end.as_ref());
        self.explain(command_end.as_ref(), &deaths).await;
        Ok(Ended {
            set: self.set,
            host: self.host,
            changed: unreported(changed, &self.attached),
            attached: self.attached,
            skipped: self.skipped,
            remarks: self.remarks,
            deaths,
            notes: self.notes,
            reason,
            ran,
            stopped,
            overhead,
            command: command_end.map(|end| end.status),
            drained,
            abandoned,
        })
    }

    /// What the overhead limiter did, for the summary.
    fn overhead(&self, stopped: &Stopped) -> Option<Overhead> {
        let status = stopped.overhead.as_ref()?;
        let cpus = faultline_engine::kernel::online_cpus() as f64;
        let elapsed = status.elapsed.as_secs_f64() * cpus;
        let mean = (status.figures.hits + status.figures.work).as_secs_f64() / elapsed.max(1e-9);
        Some(Overhead {
            max_percent: Ppm::percent(status.limit),
            policy: status.policy.clone(),
            mean_percent: Ppm::percent(mean),
            peak_percent: Ppm::percent(status.figures.peak),
            attach_work_ms: Millis(status.figures.work),
            exceeded: status.figures.exceeded,
            detached: status.figures.detached,
            attached_again: status.figures.attached_again,
            away: status.away as u64,
            attached_share: self.set.share_of_all().map(Ppm::share),
        })
    }

    fn all_gone(&self) -> bool {
        !self.processes.is_empty()
            && self.processes.iter().all(|process| process.has_ended())
            && !self.set.has_followed()
    }

    /// Releases everything. Returns the result, and whether the wait was given up.
    async fn stop(&mut self) -> Result<(Stopped, bool), Failure> {
        let started = Instant::now();
        let mut line = ProgressLine::new("detaching");
        let stopping = self.tracer.stop(None, &line.progress);
        let features = self.host.features().map_err(anyhow::Error::from)?;
        let slow = !features.batches() && self.attached.links > FEW_LINKS;
        let mut tick = interval(WATCH_EVERY);
        let mut may_leave = false;
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                biased;
                Some(notice) = self.notices.recv() => say(&notice, &|text| line.say(text)),
                stopped = &mut stopping => return Ok((stopped.unwrap_or_default(), false)),
                _ = self.interrupts.next(), if may_leave => {
                    let leaving = self.tracer.stop(Some(Duration::ZERO), &Arc::default());
                    let stopped = tokio::time::timeout(LEAVE_PATIENCE, leaving).await;
                    let mut stopped = stopped.ok().and_then(Result::ok).unwrap_or_default();
                    stopped.released.report.took = started.elapsed();
                    return Ok((stopped, true));
                }
                _ = tick.tick() => {
                    line.show();
                    if !may_leave && started.elapsed() > PATIENCE {
                        may_leave = true;
                        if slow {
                            line.say(SLOW_DETACH);
                        }
                    }
                }
            }
        }
    }
}

/// What was not known when the probes were attached.
fn unreported(mut changed: Vec<Skipped>, report: &AttachReport) -> Vec<Skipped> {
    changed.retain(|one| !report.differing.contains(one) && !report.refused.contains(one));
    changed
}

/// Shows a notice of the tracer.
fn say(notice: &Notice, say: &dyn Fn(&str)) {
    match notice {
        // The summary reports these.
        Notice::Released { .. } | Notice::Refused(_) | Notice::Died(_) => {}
        Notice::ReleaseWaits(_) => say(&format!("{notice} {EXIT_NOW}")),
        Notice::BufferFull => say(&format!(
            "warning: {notice} (use --buffer for a larger buffer, or --where, --sample or --rate for fewer events)"
        )),
        // The limiter's decisions are what the user asked for, so they are not warnings.
        Notice::Limiter(limiter) if !matches!(limiter, LimiterNotice::Failed { .. }) => {
            say(&limiter.to_string());
        }
        notice => match notice.level() {
            Level::Info => say(&notice.to_string()),
            Level::Warning | Level::Error => say(&format!("warning: {notice}")),
        },
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("attached", &self.attached).finish_non_exhaustive()
    }
}

/// The signals that end a run.
pub(super) struct Interrupts {
    interrupt: Listener,
    terminate: Listener,
    hangup: Listener,
}

impl Interrupts {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| Listener::new(kind).context("failed to listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = self.interrupt.recv() => "SIGINT",
            () = self.terminate.recv() => "SIGTERM",
            () = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// Waits for the command to end; for ever if there is none.
async fn ended(command: &mut Option<RunningCommand>) -> Option<EndedCommand> {
    match command {
        Some(command) => (&mut command.ended).await.ok(),
        None => std::future::pending().await,
    }
}

/// Asks a command that outlives the run to exit.
async fn stop_command(command: RunningCommand) -> Option<EndedCommand> {
    let Ok(pid) = i32::try_from(command.pid.get()) else { return None };
    // SAFETY: the process is our child and only its own thread waits for it, so the id still belongs to it.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    match tokio::time::timeout(COMMAND_PATIENCE, command.ended).await {
        Ok(end) => end.ok(),
        Err(_) => {
            tell!("warning: the command (process {pid}) is still running after SIGTERM");
            None
        }
    }
}

/// Waits for some work and shows its progress meanwhile.
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

/// Runs blocking work on its own thread. Unlike the runtime's blocking threads, it does not keep the
/// program from exiting.
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
