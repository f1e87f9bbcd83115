//! The owner of the probes, for a run as well as for the daemon.
//!
//! A [`Tracer`] is a handle on a thread that attaches, limits and releases, one change after another. It
//! only makes decisions. Anything that may block on a file system, a kernel lock or a stuck task runs on
//! other threads, which report back and can be given up. So it keeps answering, keeps the budget, and can
//! stop, whatever is stuck.
//!
//! - A run [prepares](crate::discovery::Prepared) its requests, [attaches](Tracer::attach) them,
//!   [begins](ProbeSet::begin), and [stops](Tracer::stop).
//! - The daemon [changes](Tracer::change) its requests, and the tracer looks for targets that appear and
//!   disappear.

mod apply;
mod children;
mod correct;
mod engine;
mod explain;
mod probed;
mod publish;
mod work;

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use faultline_plan::ProbeId;
use thiserror::Error;
use tokio::sync::oneshot;

use self::engine::Engine;
pub use self::{
    explain::Explained,
    publish::{Origin, RequestStatus},
};
use crate::{
    collect::{catalog::Catalog, events::HandlerFactory},
    discovery::Prepared,
    host::Host,
    kernel::{AttachReport, Holding, KernelError, Progress, default_buffer_bytes},
    limiter::{Key, OverheadLimit, OverheadStatus},
    notice::{Notice, Slow},
    release::Released,
    request::Request,
    set::ProbeSet,
};

/// How a tracer works.
#[derive(Clone)]
pub struct Options {
    /// This machine.
    pub host: Host,
    /// What can change while it runs.
    pub settings: Settings,
    /// Where to keep links.
    pub holding: Holding,
    /// This program calls [`helper::run_if_asked`](crate::helper::run_if_asked) first, so that it can be
    /// started as a child for work that may block for ever. Without this, a task that is stuck in a page
    /// fault can keep this process from exiting.
    pub helper: bool,
    /// Pass the programs' own messages to the log.
    pub diagnostics: bool,
    /// Requests and their targets may change while it runs.
    pub changes: bool,
    /// Makes the handlers of events. Without one, events are counted as lost once the ring buffer is full.
    pub handlers: Option<HandlerFactory>,
    /// Observes what happens.
    pub observer: Arc<dyn Observer>,
}

/// What can change while a tracer runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How much of all CPUs the probes may use.
    pub limit: Option<OverheadLimit>,
    /// Bytes of the ring buffer of each set whose action is events: a power of two, at least 256 KiB.
    pub buffer_bytes: u32,
    /// How often to scan all processes and files.
    pub rescan_every: Duration,
    /// How soon after a program starts to look at it.
    pub settle: Duration,
    /// Whether to probe copies of the targets' files in other mount namespaces, too.
    pub containers: bool,
    /// Maximum number of functions probed at once.
    pub max_functions: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit: None,
            buffer_bytes: default_buffer_bytes(),
            rescan_every: Duration::from_secs(30),
            settle: Duration::from_millis(200),
            containers: true,
            max_functions: usize::MAX,
        }
    }
}

impl Options {
    /// A run on this machine: events are lost, notices go to the log. Set the other fields as needed.
    #[must_use]
    pub fn new(host: Host) -> Self {
        Self {
            host,
            settings: Settings::default(),
            holding: Holding::Here,
            helper: false,
            diagnostics: false,
            changes: false,
            handlers: None,
            observer: Arc::new(|notice: Notice| tracing::warn!("{notice}")),
        }
    }
}

/// Observes what happens. Called on the tracer's threads, so it must not block.
pub trait Observer: Send + Sync {
    /// Something the user should know.
    fn notice(&self, notice: Notice);

    /// Whether [`published`](Self::published) is used: building its arguments takes some microseconds per
    /// function.
    fn wants_catalog(&self) -> bool {
        false
    }

    /// What is attached has changed.
    fn published(&self, catalog: Catalog, requests: Vec<RequestStatus>) {
        drop((catalog, requests));
    }

    /// Places were attached.
    fn attached(&self, took: Duration) {
        let _ = took;
    }

    /// The state of the budget; `None` if there is none.
    fn overhead(&self, status: Option<OverheadStatus>) {
        drop(status);
    }

    /// The tracer's health, several times a second.
    fn vitals(&self, vitals: &Vitals) {
        let _ = vitals;
    }
}

/// A plain sender only takes notices.
impl<F: Fn(Notice) + Send + Sync> Observer for F {
    fn notice(&self, notice: Notice) {
        self(notice);
    }
}

/// The health of a tracer at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Every drain of events has looked for some since the last report.
    pub drains_alive: bool,
    /// Tasks inside a page fault on our behalf.
    pub tasks_in_fault: usize,
    /// Releases that the kernel has not finished.
    pub releasing: usize,
    /// What takes unusually long.
    pub slow: Vec<Slow>,
}

/// Why a request failed. Nothing has changed then.
#[derive(Debug, Error)]
pub enum TracerError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The system cannot start another thread.
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
    /// Too many functions.
    #[error("{all} functions would be probed; the limit is {most} (limits.max_functions)")]
    TooManyFunctions {
        /// How many there would be.
        all: usize,
        /// How many are allowed.
        most: usize,
    },
    /// A request finds nothing to probe, and may not wait for it.
    #[error("`{name}`: {why}")]
    NothingToProbe {
        /// The request.
        name: Arc<str>,
        /// Why.
        why: String,
    },
    /// None of the functions can be probed.
    #[error("none of its functions can be probed")]
    NoneAttached,
    /// The processes to trace have ended.
    #[error("a process to trace has ended")]
    ProcessesEnded,
    /// The name is taken.
    #[error("there is a probe `{0}` already")]
    Exists(Arc<str>),
    /// There is no such request.
    #[error("there is no probe `{}`", .0.escape_debug())]
    Unknown(String),
    /// The tracer is stopping.
    #[error("the tracer is stopping")]
    Stopping,
}

/// A change of the requests.
#[derive(Debug, Clone)]
pub enum Change {
    /// All requests of the configuration: new ones are attached, missing ones are released, and the rest
    /// are left alone.
    Configure {
        /// The requests.
        requests: Vec<Request>,
        /// Its settings.
        settings: Settings,
    },
    /// Adds requests.
    Add {
        /// The requests.
        requests: Vec<Request>,
        /// Requests that find nothing now may wait for their targets.
        may_wait: bool,
    },
    /// Removes requests.
    Remove {
        /// Their names.
        names: Vec<String>,
    },
}

/// What a change did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changed {
    /// Requests that were added.
    pub added: Vec<Added>,
    /// Requests that were removed.
    pub removed: Vec<String>,
    /// Requests that were left alone.
    pub kept: usize,
    /// How long it took.
    pub took: Duration,
}

/// A request that was added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Functions that are probed.
    pub functions: usize,
    /// Functions that cannot be probed.
    pub skipped: usize,
    /// Why it is waiting for its target, if it is.
    pub waiting: Option<String>,
}

/// What a run has attached.
#[derive(Debug)]
pub struct Attached {
    /// Its probes. They count once it [begins](ProbeSet::begin).
    pub set: Arc<ProbeSet>,
    /// The report of the attach.
    pub report: AttachReport,
}

/// The result of stopping.
#[derive(Debug, Clone, Default)]
pub struct Stopped {
    /// What was released last.
    pub released: Released,
    /// Whether the kernel has released everything.
    pub complete: bool,
    /// What the overhead budget did, if there was one.
    pub overhead: Option<OverheadStatus>,
}

/// A command to the thread.
pub(crate) enum Command {
    Change(Change, oneshot::Sender<Result<Changed, TracerError>>),
    Attach(Box<Prepared>, Arc<Progress>, oneshot::Sender<Result<Attached, TracerError>>),
    Watch(Arc<ProbeSet>),
    Explain(oneshot::Sender<Vec<Explained>>),
    Adjust(correct::Adjustment),
    Worked(Box<work::Worked>),
    Corrected(Box<correct::Corrected>),
    FreedChildren(children::FreedChildren),
    Released(u64, Released),
    Stop { within: Option<Duration>, progress: Arc<Progress>, reply: oneshot::Sender<Stopped> },
}

/// A handle on the owner of the probes. When the last one is dropped, everything is released in the
/// background.
#[derive(Clone)]
pub struct Tracer(Arc<Handle>);

struct Handle {
    host: Host,
    commands: mpsc::Sender<Command>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let (reply, _) = oneshot::channel();
        // If it has already stopped, nothing is listening.
        let _ = self.commands.send(Command::Stop { within: None, progress: Arc::default(), reply });
    }
}

impl Tracer {
    /// Starts it, with nothing attached.
    ///
    /// # Errors
    ///
    /// [`TracerError::Thread`]; [`TracerError::Kernel`] without the privileges to ask the kernel what it
    /// offers.
    pub fn start(options: Options) -> Result<Self, TracerError> {
        let (commands, receive) = mpsc::channel();
        let host = options.host;
        let engine = Engine::new(options, commands.clone())?;
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || engine.run(&receive))
            .map_err(TracerError::Thread)?;
        Ok(Self(Arc::new(Handle { host, commands })))
    }

    /// Resolves, attaches and begins to count, in one call, for a program that does nothing else meanwhile.
    ///
    /// Blocks for some milliseconds, and where a file system does not answer for ever.
    ///
    /// # Errors
    ///
    /// [`TracerError::NothingToProbe`] if a request leads to nothing; [`TracerError::NoneAttached`] and
    /// those of [`attach`](Self::attach).
    pub fn trace(&self, requests: Vec<Request>) -> Result<Arc<ProbeSet>, TracerError> {
        let prepared = Prepared::new(&self.0.host, requests);
        if let Some((request, why)) = prepared.problems.first() {
            let (name, why) = (Arc::clone(&request.name), why.to_string());
            return Err(TracerError::NothingToProbe { name, why });
        }
        let answer = self.attach(prepared, &Arc::default()).blocking_recv();
        let Attached { set, .. } = answer.map_err(|_| TracerError::Stopping)??;
        set.begin();
        self.watch(&set);
        Ok(set)
    }

    /// Changes the requests. Attaches new probes before it releases old ones; if it fails, nothing has
    /// changed. Answers once the new ones count; the old ones are released in the background.
    pub fn change(&self, change: Change) -> oneshot::Receiver<Result<Changed, TracerError>> {
        let (reply, answer) = oneshot::channel();
        // If the thread is gone, the answer says so.
        let _ = self.0.commands.send(Command::Change(change, reply));
        answer
    }

    /// Loads and attaches what a run has prepared. Hits do not count before it [begins](ProbeSet::begin),
    /// except that those of a [command](crate::request::Selection::Command) count from its exec.
    pub fn attach(
        &self,
        prepared: Prepared,
        progress: &Arc<Progress>,
    ) -> oneshot::Receiver<Result<Attached, TracerError>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Attach(Box::new(prepared), Arc::clone(progress), reply);
        let _ = self.0.commands.send(command);
        answer
    }

    /// Finds out why probes have had no hits, and what else is to be known about hits. It may take some
    /// seconds.
    pub fn explain(&self) -> oneshot::Receiver<Vec<Explained>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.commands.send(Command::Explain(reply));
        answer
    }

    /// Puts a run under the overhead budget. Call this when its hits start to count.
    pub fn watch(&self, set: &Arc<ProbeSet>) {
        let _ = self.0.commands.send(Command::Watch(Arc::clone(set)));
    }

    /// Detaches some probes of a set. The others lose no hit, and none counts twice. Answers once the
    /// kernel has released the detached ones.
    pub fn detach(
        &self,
        set: &ProbeSet,
        probes: &[ProbeId],
    ) -> oneshot::Receiver<Result<(), TracerError>> {
        let keys = probes.iter().map(|probe| (set.id, *probe)).collect();
        self.adjust(keys, false)
    }

    /// Attaches probes of a set again that were [detached](Self::detach). Answers once they count.
    pub fn attach_again(
        &self,
        set: &ProbeSet,
        probes: &[ProbeId],
    ) -> oneshot::Receiver<Result<(), TracerError>> {
        let keys = probes.iter().map(|probe| (set.id, *probe)).collect();
        self.adjust(keys, true)
    }

    fn adjust(&self, keys: Vec<Key>, attach: bool) -> oneshot::Receiver<Result<(), TracerError>> {
        let (reply, answer) = oneshot::channel();
        let adjustment = correct::Adjustment { keys, attach, reply };
        let _ = self.0.commands.send(Command::Adjust(adjustment));
        answer
    }

    /// Stops counting, releases everything and ends. Answers once the kernel has released everything and
    /// every event is passed on, or after `within`. A second call while it stops can shorten the wait: all
    /// calls are answered at the earliest of their times.
    pub fn stop(
        &self,
        within: Option<Duration>,
        progress: &Arc<Progress>,
    ) -> oneshot::Receiver<Stopped> {
        let (reply, answer) = oneshot::channel();
        let progress = Arc::clone(progress);
        let _ = self.0.commands.send(Command::Stop { within, progress, reply });
        answer
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}
