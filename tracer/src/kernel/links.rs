//! Attaches and detaches, a link a file.
//!
//! One link takes any number of breakpoints and waits for one grace period when it is released, so
//! ten thousand probes come and go in the time of one.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    KernelError, Programs,
    programs::load_error,
    sys::{Points, create_link},
};
use crate::{
    plan::{AttachPlan, NotPlanned, Obstacle, ProbeId},
    resolve::Pid,
};

/// Most breakpoints of one link (`MAX_UPROBE_MULTI_CNT`).
const MAX_POINTS: usize = 1 << 20;
/// Links that are created or released at once; each release waits for its own grace period.
const AT_ONCE: usize = 16;

/// In which processes the breakpoints are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// In every process that maps the file.
    AllProcesses,
    /// In these.
    Processes(Vec<Pid>),
}

/// The breakpoints that are set; they go when this is dropped.
#[derive(Debug, Default)]
pub struct Links {
    links: Vec<OwnedFd>,
}

/// What became of the plan.
#[derive(Debug, Default)]
pub struct AttachReport {
    /// Probes that are attached.
    pub probes: usize,
    /// Links that they took.
    pub links: usize,
    /// Probes that the kernel refused.
    pub refused: Vec<NotPlanned>,
    /// How long it took.
    pub took: Duration,
}

impl Links {
    /// Sets every breakpoint of the plan. One that the kernel refuses is found by bisection and
    /// reported; the rest stays.
    ///
    /// Blocks for some milliseconds a link: not for the async threads.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if a file's breakpoints fail for a reason that is not one point's.
    pub fn attach(
        programs: &mut Programs,
        plan: &AttachPlan,
        scope: &Scope,
    ) -> Result<(Self, AttachReport), KernelError> {
        let started = Instant::now();
        let mut links = Self::default();
        let mut refused: HashMap<ProbeId, String> = HashMap::new();
        for file in &plan.files {
            let path = file.file.attach_path();
            let attach_error =
                |source| KernelError::Attach { file: file.file.shown_path().to_owned(), source };
            let path = CString::new(path.as_os_str().as_bytes())
                .map_err(|_| attach_error(io::ErrorKind::InvalidInput.into()))?;
            let point = |id: &ProbeId| Point {
                id: *id,
                offset: plan.probes[id.0 as usize].offset.0,
                doubtful: plan.probes[id.0 as usize].doubtful,
            };
            let entries: Vec<_> = file.probes.iter().map(point).collect();
            let with_return = |id: &&ProbeId| plan.probes[id.0 as usize].ret.is_some();
            let returns: Vec<_> = file.probes.iter().filter(with_return).map(point).collect();
            for pid in scope.pids() {
                // Returns first: a call must not be opened that could return unseen.
                for (program, points) in [("return_multi", &returns), ("entry_multi", &entries)] {
                    if points.is_empty() {
                        continue;
                    }
                    let program = programs.uprobe(program)?;
                    let mut attachment = Attachment {
                        at_return: matches!(program.kind(), aya::programs::ProbeKind::Return),
                        program: program.fd().map_err(load_error("uprobe"))?.as_fd(),
                        path: &path,
                        pid,
                        links: &mut links.links,
                        refused: &mut refused,
                    };
                    for points in points.chunks(MAX_POINTS) {
                        attachment.attach(points).map_err(attach_error)?;
                    }
                }
            }
        }
        let report = AttachReport {
            probes: plan.probes.len() - refused.len(),
            links: links.links.len(),
            refused: refused
                .into_iter()
                .map(|(id, reason)| NotPlanned {
                    label: plan.probes[id.0 as usize].label.clone(),
                    obstacle: Obstacle::Refused(reason),
                })
                .collect(),
            took: started.elapsed(),
        };
        Ok((links, report))
    }

    /// Descriptors of the links, to hand to another process.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(OwnedFd::as_fd)
    }

    /// Removes the breakpoints and waits until no task is inside a handler.
    ///
    /// Blocks, and cannot be interrupted, as long as one is: not for the async threads.
    pub fn detach(self) -> Duration {
        let started = Instant::now();
        let mut links = self.links;
        while !links.is_empty() {
            let batch = links.split_off(links.len().saturating_sub(AT_ONCE));
            thread::scope(|scope| {
                for link in batch {
                    scope.spawn(move || drop(link));
                }
            });
        }
        started.elapsed()
    }
}

impl Scope {
    /// The processes that a link is limited to, one each; `None` is a link for all.
    fn pids(&self) -> Vec<Option<u32>> {
        match self {
            Self::AllProcesses => vec![None],
            Self::Processes(pids) => pids.iter().map(|pid| Some(pid.get())).collect(),
        }
    }
}

/// One breakpoint.
#[derive(Debug, Clone, Copy)]
struct Point {
    id: ProbeId,
    offset: u64,
    doubtful: bool,
}

/// One program, one file, one scope.
struct Attachment<'a> {
    program: BorrowedFd<'a>,
    at_return: bool,
    path: &'a CStr,
    pid: Option<u32>,
    links: &'a mut Vec<OwnedFd>,
    refused: &'a mut HashMap<ProbeId, String>,
}

impl Attachment<'_> {
    /// Attaches the points, but for those that the kernel refuses.
    ///
    /// A link that fails takes back what it had set and waits out a grace period. So where it
    /// fails, the points that are likely to be at fault are tried first, each alone and many at
    /// once; only what is left is bisected.
    fn attach(&mut self, points: &[Point]) -> io::Result<()> {
        match self.create(points) {
            Ok(link) => {
                self.links.push(link);
                return Ok(());
            }
            Err(error) if is_general(&error) => return Err(error),
            Err(error) if points.len() == 1 => {
                self.refuse(points[0], &error);
                return Ok(());
            }
            Err(_) => {}
        }
        let (doubtful, likely): (Vec<_>, Vec<_>) =
            points.iter().copied().partition(|point| point.doubtful);
        for batch in doubtful.chunks(AT_ONCE) {
            let tried: Vec<_> = thread::scope(|scope| {
                let this = &*self;
                let tries: Vec<_> =
                    batch.iter().map(|point| scope.spawn(move || this.create(&[*point]))).collect();
                tries.into_iter().map(thread::ScopedJoinHandle::join).collect()
            });
            for (point, result) in batch.iter().zip(tried) {
                match result {
                    Ok(Ok(link)) => self.links.push(link),
                    Ok(Err(error)) if is_general(&error) => return Err(error),
                    Ok(Err(error)) => self.refuse(*point, &error),
                    Err(_) => return Err(io::Error::other("a thread that attached panicked")),
                }
            }
        }
        if doubtful.is_empty() { self.halve(&likely) } else { self.attach_likely(&likely) }
    }

    fn attach_likely(&mut self, points: &[Point]) -> io::Result<()> {
        if points.is_empty() { Ok(()) } else { self.attach(points) }
    }

    fn halve(&mut self, points: &[Point]) -> io::Result<()> {
        let (first, second) = points.split_at(points.len() / 2);
        self.attach(first)?;
        self.attach(second)
    }

    fn refuse(&mut self, point: Point, error: &io::Error) {
        self.refused.insert(point.id, refusal(error));
    }

    fn create(&self, points: &[Point]) -> io::Result<OwnedFd> {
        let offsets: Vec<_> = points.iter().map(|point| point.offset).collect();
        let cookies: Vec<_> = points.iter().map(|point| u64::from(point.id.0)).collect();
        let points = Points {
            path: self.path,
            offsets: &offsets,
            cookies: &cookies,
            pid: self.pid,
            at_return: self.at_return,
        };
        create_link(self.program, &points)
    }
}

/// Whether an error is not a matter of one point: the process is gone, no privilege, no memory.
fn is_general(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ESRCH | libc::EPERM | libc::EACCES | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    )
}

/// `ENOTSUPP`, an error number of the kernel's own that the C library does not know.
const ENOTSUPP: i32 = 524;

/// Why the kernel refused a point, in words.
fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(ENOTSUPP) => "it does not support the instruction there".to_owned(),
        _ => error.to_string(),
    }
}
