//! What a tracer reports while it runs. Each notice is a value that prints itself.

use std::{fmt, sync::Arc, time::Duration};

use faultline_resolve::Skipped;
use faultline_spec::units::{counted, duration_text};

use crate::{death::DeathReport, limiter::LimiterNotice, stuck::StuckReport};

/// How urgent a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything works as requested.
    Info,
    /// Something is missing or blocked; the rest keeps working.
    Warning,
    /// A request could not be carried out.
    Error,
}

/// Something the user should know about a running trace.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A task is stuck in a page fault that we caused by reading an argument.
    Stuck(StuckReport),
    /// A release is waiting for a task that is stuck in such a fault.
    ReleaseWaits(StuckReport),
    /// A process died of a signal while it was probed.
    Died(DeathReport),
    /// The ring buffer is full and events are being lost.
    BufferFull,
    /// The overhead limiter made a decision.
    Limiter(LimiterNotice),
    /// The kernel refused a probe.
    Refused(Skipped),
    /// Targets were added or removed.
    TargetsChanged {
        /// Places that were attached.
        added: usize,
        /// Places that were detached.
        removed: usize,
        /// How long it took.
        took: Duration,
    },
    /// Attaching to new targets failed; it will be retried.
    TargetsFailed(String),
    /// Links were released.
    Released {
        /// How many.
        links: usize,
        /// How long it took.
        took: Duration,
        /// The kernel's grace period, as far as it could be observed.
        grace: Option<Duration>,
    },
    /// A traced process has forked a child, which is not traced.
    ChildrenForked,
    /// Children could not be freed of the breakpoints that they inherited; it will be retried.
    ChildrenNotFreed(String),
    /// Some events of removed probes could not be written.
    EventsUnwritten,
    /// Resolving or attaching is taking unusually long.
    Slow(Slow),
}

/// A step that is taking unusually long.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// The step.
    pub step: Step,
    /// For how long so far.
    pub since: Duration,
    /// It was given up; everything else continues without it.
    pub given_up: bool,
}

/// A step that may block on a file system, a kernel lock or a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Looking for a request's target and functions.
    Resolving {
        /// The request.
        name: Arc<str>,
        /// Its target.
        target: Arc<str>,
        /// The process whose view of the file system is used; `None` for the host's.
        pid: Option<u32>,
    },
    /// Opening or reading a target, tried by a child process.
    Opening {
        /// The target.
        target: Arc<str>,
        /// The process whose view of the file system is used; `None` for the host's.
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
            | Self::ChildrenForked
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
            Self::Died(report) => report.fmt(f),
            Self::BufferFull => f.write_str(
                "events arrive faster than they can be written: those that do not fit into the ring \
                 buffer are lost and counted",
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
            Self::ChildrenForked => f.write_str(
                "a traced process has forked a child: it is not traced, and the breakpoints that it \
                 inherited are removed within about a second",
            ),
            Self::ChildrenNotFreed(error) => write!(
                f,
                "failed to remove breakpoints from forked children, which pay for them: {error}; trying \
                 again"
            ),
            Self::EventsUnwritten => {
                f.write_str("not all events could be written before their probes were removed")
            }
            Self::Slow(slow) => slow.fmt(f),
        }
    }
}
