//! What a tracer has to say while it runs. Each notice is a value that prints itself.

use std::{fmt, sync::Arc, time::Duration};

use faultline_resolve::Skipped;
use faultline_spec::units::{counted, duration_text};

use crate::{limiter::LimiterNotice, stuck::StuckReport};

/// How urgent a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As was asked for.
    Info,
    /// Something is missing or in the way; the rest goes on.
    Warning,
    /// Something that was asked for could not be done.
    Error,
}

/// Something that whoever asked for a trace should know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A task hangs in a page fault that reading an argument caused.
    Stuck(StuckReport),
    /// A release waits for a task that hangs in such a fault.
    ReleaseWaits(StuckReport),
    /// Events found no room in the ring buffer and are lost.
    BufferFull,
    /// The overhead budget has decided something.
    Limiter(LimiterNotice),
    /// The kernel refused a probe.
    Refused(Skipped),
    /// Targets came or went.
    TargetsChanged {
        /// Places that are newly attached to.
        added: usize,
        /// Places that are not attached to any more.
        removed: usize,
        /// How long it took.
        took: Duration,
    },
    /// Attaching to targets that came failed; it is tried again.
    TargetsFailed(String),
    /// Links are released.
    Released {
        /// How many.
        links: usize,
        /// How long it took.
        took: Duration,
        /// The kernel's grace period, as far as it can be seen.
        grace: Option<Duration>,
    },
    /// Events of probes that are gone could not all be written.
    EventsUnwritten,
    /// Resolving or attaching takes unusually long.
    Slow(Slow),
}

/// What takes unusually long.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// What is being done.
    pub step: Step,
    /// For how long.
    pub since: Duration,
    /// It was given up: others go on without it.
    pub given_up: bool,
}

/// A step that may wait for a file system, a kernel lock or a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Looking for a request's target and functions.
    Resolving {
        /// The request.
        name: Arc<str>,
        /// Its target.
        target: Arc<str>,
        /// The process through whose eyes, if not the host's.
        pid: Option<u32>,
    },
    /// Opening or reading a target, which a child tries.
    Opening {
        /// The target.
        target: Arc<str>,
        /// The process through whose eyes, if not the host's.
        pid: Option<u32>,
    },
    /// Attaching.
    Attaching,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolving { name, target, pid } => {
                write!(f, "resolving `{target}` for `{name}`")?;
                pid.map_or(Ok(()), |pid| write!(f, " in process {pid}"))
            }
            Self::Opening { target, pid } => {
                write!(f, "opening `{target}`")?;
                pid.map_or(Ok(()), |pid| write!(f, " in process {pid}"))
            }
            Self::Attaching => f.write_str("attaching"),
        }
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.as_secs_f64();
        write!(f, "{} has taken {since:.0} s", self.step)?;
        if self.given_up {
            f.write_str("; continuing without it (a file system that does not answer?)")?;
        }
        Ok(())
    }
}

impl Notice {
    /// How urgent it is.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Limiter(LimiterNotice::TryingAgain { .. })
            | Self::TargetsChanged { .. }
            | Self::Released { .. } => Level::Info,
            Self::TargetsFailed(_) => Level::Error,
            _ => Level::Warning,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stuck(report) => {
                write!(f, "{report}; from now on this process is read without faulting")
            }
            Self::ReleaseWaits(report) => write!(
                f,
                "waiting for {report}; the probes are off, but the kernel cannot remove them before \
                 the page is served or the process is killed"
            ),
            Self::BufferFull => f.write_str(
                "events come faster than they can be written: those that find no room in the ring \
                 buffer are lost, and counted",
            ),
            Self::Limiter(notice) => notice.fmt(f),
            Self::Refused(Skipped { label, reason }) => {
                write!(f, "`{}` is not probed: {reason}", label.escape_debug())
            }
            Self::TargetsChanged { added, removed, took } => write!(
                f,
                "{added} targets added, {removed} removed in {}",
                duration_text(took.as_nanos() as u64)
            ),
            Self::TargetsFailed(error) => write!(f, "failed to attach to new targets: {error}"),
            Self::Released { links, took, .. } => write!(
                f,
                "{} released in {:.0} ms",
                counted(*links, "link"),
                took.as_secs_f64() * 1e3
            ),
            Self::EventsUnwritten => {
                f.write_str("not all events could be written before their probes were removed")
            }
            Self::Slow(slow) => slow.fmt(f),
        }
    }
}
