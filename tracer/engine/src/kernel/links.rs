//! The breakpoints that are set, and their removal.

use std::{
    mem,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{AttachReport, KernelError, Piece, Programs, Progress, attach::Transaction};
use faultline_plan::{AttachPlan, PlannedFile, PlannedProbe};
use faultline_resolve::Pid;

/// How many multi links to create or release at once. Each release waits for a grace period of the kernel,
/// and releases that wait at the same time share one. The threads do nothing but wait.
pub(super) const MULTI_AT_ONCE: usize = 64;
/// The same for single-breakpoint links. The kernel releases them one after another: it holds a lock that
/// all trace events share (`event_mutex`) while it waits for the grace period. Everyone else who needs that
/// lock queues behind all of our releases.
const SINGLE_AT_ONCE: usize = 4;
/// A thread that only makes system calls needs little stack.
const STACK_BYTES: usize = 128 * 1024;

/// Breakpoints that are set. Dropping this removes them.
#[derive(Debug, Default)]
pub struct Links {
    links: Vec<Link>,
}

/// A link, and how many breakpoints it holds.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) descriptor: OwnedFd,
    pub(super) points: usize,
    pub(super) kind: LinkKind,
    /// In the cookies of its probes; 0 if it has none.
    pub(super) number: u32,
}

/// The kind of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// It takes many breakpoints.
    Multi,
    /// It takes one breakpoint.
    Single,
}

impl LinkKind {
    /// How many to create or release at once.
    pub(super) fn at_once(self) -> usize {
        match self {
            Self::Multi => MULTI_AT_ONCE,
            Self::Single => SINGLE_AT_ONCE,
        }
    }
}

/// How a removal of breakpoints went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DetachReport {
    /// How long it took.
    pub took: Duration,
    /// The grace period, as far as it can be observed: the time of the fastest release. It contains the
    /// kernel's wait until no task is inside a handler any more, and the removal of that link's
    /// breakpoints. `None` if there was no link.
    pub grace: Option<Duration>,
}

impl Links {
    /// Sets the breakpoints of all pieces in parallel. A piece whose process has ended gives `None`.
    ///
    /// A breakpoint that the kernel refuses is found and reported, and the rest stay. Nothing is counted
    /// before the programs are enabled, so the order in which breakpoints are set does not matter.
    ///
    /// Blocks for some milliseconds per link: do not call it from async code.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if a file's breakpoints fail for a reason that is not about a single one;
    /// [`KernelError::TooManyLinks`] if each needs a link and the limit on open files is too low. Nothing
    /// is attached then.
    pub fn attach(
        programs: &Programs,
        probes: &[PlannedProbe],
        pieces: &[Piece<'_>],
        progress: &Progress,
    ) -> Result<(Vec<Option<Self>>, AttachReport), KernelError> {
        Transaction::new(programs, probes, pieces)?.run(progress)
    }

    /// The same for a whole plan, in one process or in all, as one set of links.
    ///
    /// # Errors
    ///
    /// As [`Links::attach`]; it is also an error if the process has ended.
    pub fn attach_plan(
        programs: &Programs,
        plan: &AttachPlan,
        process: Option<Pid>,
        progress: &Progress,
    ) -> Result<(Self, AttachReport), KernelError> {
        let pieces: Vec<_> = plan
            .files
            .iter()
            .map(|PlannedFile { file, probes }| Piece { file, process, probes })
            .collect();
        let (links, report) = Self::attach(programs, &plan.probes, &pieces, progress)?;
        match links.iter().position(Option::is_none) {
            None => Ok((Self::join(links.into_iter().flatten()), report)),
            Some(gone) => Err(KernelError::Attach {
                file: pieces[gone].file.shown_path().to_owned(),
                source: std::io::Error::from_raw_os_error(libc::ESRCH),
            }),
        }
    }

    pub(super) fn new(links: Vec<Link>) -> Self {
        Self { links }
    }

    /// Joins them into one.
    pub(super) fn join(all: impl IntoIterator<Item = Self>) -> Self {
        Self::new(all.into_iter().flat_map(|mut links| mem::take(&mut links.links)).collect())
    }

    /// Number of links.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.links.iter().map(|link| link.number)
    }

    /// Number of breakpoints.
    pub fn points(&self) -> usize {
        self.links.iter().map(|link| link.points).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    /// Removes the breakpoints and waits until no task is inside a handler.
    ///
    /// Blocks uninterruptibly while one is: do not call it from async code.
    pub fn detach(self, progress: &Progress) -> DetachReport {
        Self::detach_all([self], progress)
    }

    /// The same, with at most `most` closing at once, or one if each holds a single breakpoint: other holders
    /// close some at the same time.
    pub(super) fn detach_few_at_once(mut self, most: usize) -> DetachReport {
        let most =
            if self.links.iter().any(|link| link.kind == LinkKind::Single) { 1 } else { most };
        release(mem::take(&mut self.links), most, &Progress::default())
    }

    /// The same for many at once.
    pub fn detach_all(all: impl IntoIterator<Item = Self>, progress: &Progress) -> DetachReport {
        release(
            all.into_iter().flat_map(|mut links| mem::take(&mut links.links)).collect(),
            usize::MAX,
            progress,
        )
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        release(mem::take(&mut self.links), usize::MAX, &Progress::default());
    }
}

fn release(links: Vec<Link>, most: usize, progress: &Progress) -> DetachReport {
    let started = Instant::now();
    progress.begin(links.iter().map(|link| link.points).sum());
    let fastest = Mutex::new(None);
    let at_once = links.iter().map(|link| link.kind.at_once()).min().unwrap_or(0).min(most);
    release_each(links, at_once, |points, took| {
        progress.add(points);
        let mut fastest = fastest.lock().unwrap_or_else(PoisonError::into_inner);
        *fastest = Some(fastest.map_or(took, |fastest: Duration| fastest.min(took)));
    });
    let grace = fastest.into_inner().unwrap_or_else(PoisonError::into_inner);
    DetachReport { took: started.elapsed(), grace }
}

/// Closes links, many at once, and reports for each its breakpoints and how long it took.
pub(super) fn release_each(
    links: Vec<Link>,
    at_once: usize,
    tell: impl Fn(usize, Duration) + Sync,
) {
    let workers = links.len().min(at_once);
    let links = Mutex::new(links.into_iter());
    let next = || links.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(Link { descriptor, points, .. }) = next() {
            let started = Instant::now();
            drop(descriptor);
            tell(points, started.elapsed());
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            // If no thread can be started, the existing ones do the work.
            if small_thread(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Starts a thread with a small stack that makes system calls.
pub(super) fn small_thread<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> std::io::Result<thread::ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().stack_size(STACK_BYTES).name("link".to_owned()).spawn_scoped(scope, work)
}
