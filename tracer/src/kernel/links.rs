//! Attaches and detaches, a link a file.
//!
//! One link takes any number of breakpoints and waits for one grace period when it is released, so
//! ten thousand probes come and go in the time of one.

use std::{
    collections::HashMap,
    io,
    num::NonZeroU32,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    ProgramError, UProbe,
    links::FdLink,
    uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope},
};

use super::{KernelError, Programs};
use crate::{
    plan::{AttachPlan, NotPlanned, Obstacle, ProbeId},
    resolve::Pid,
};

/// Most breakpoints of one link (`MAX_UPROBE_MULTI_CNT`).
const MAX_POINTS: usize = 1 << 20;
/// Links that are released at once; each waits for its own grace period.
const RELEASES_AT_ONCE: usize = 16;

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
    links: Vec<FdLink>,
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
            let point = |id: &ProbeId| (*id, plan.probes[id.0 as usize].offset.0);
            let entries: Vec<_> = file.probes.iter().map(point).collect();
            let returns: Vec<_> = file
                .probes
                .iter()
                .filter(|id| plan.probes[id.0 as usize].ret.is_some())
                .map(point)
                .collect();
            for scope in scopes(scope) {
                // Returns first: a call must not be opened that could return unseen.
                for (program, points) in [("return_multi", &returns), ("entry_multi", &entries)] {
                    for points in points.chunks(MAX_POINTS) {
                        let mut attachment = Attachment {
                            program: programs.uprobe(program)?,
                            path: &path,
                            scope,
                            links: &mut links.links,
                            refused: &mut refused,
                        };
                        attachment.attach_or_refuse(points, plan).map_err(|source| {
                            KernelError::Attach { file: file.file.shown_path().to_owned(), source }
                        })?;
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

    /// Removes the breakpoints and waits until no task is inside a handler.
    ///
    /// Blocks, and cannot be interrupted, as long as one is: not for the async threads.
    pub fn detach(self) -> Duration {
        let started = Instant::now();
        let mut links = self.links;
        while !links.is_empty() {
            let batch = links.split_off(links.len().saturating_sub(RELEASES_AT_ONCE));
            thread::scope(|scope| {
                for link in batch {
                    scope.spawn(move || drop(link));
                }
            });
        }
        started.elapsed()
    }
}

fn scopes(scope: &Scope) -> Vec<UProbeScope> {
    match scope {
        Scope::AllProcesses => vec![UProbeScope::AllProcesses],
        Scope::Processes(pids) => pids
            .iter()
            .filter_map(|pid| NonZeroU32::new(pid.get()))
            .map(UProbeScope::OneProcess)
            .collect(),
    }
}

/// One program, one file, one scope.
struct Attachment<'a> {
    program: &'a mut UProbe,
    path: &'a Path,
    scope: UProbeScope,
    links: &'a mut Vec<FdLink>,
    refused: &'a mut HashMap<ProbeId, String>,
}

impl Attachment<'_> {
    /// Attaches the points, but for those that the kernel refuses.
    ///
    /// A link that fails halfway takes back what it had set, and waits out a grace period for it.
    /// So the points that are likely to be at fault are tried first, each alone, which costs
    /// nothing if it fails; only what is left is bisected.
    fn attach_or_refuse(&mut self, points: &[(ProbeId, u64)], plan: &AttachPlan) -> io::Result<()> {
        let doubtful = |(id, _): &(ProbeId, u64)| plan.probes[id.0 as usize].doubtful;
        if points.len() > 1 && points.iter().any(doubtful) {
            if self.try_attach(points).is_ok() {
                return Ok(());
            }
            let (doubtful, likely): (Vec<_>, Vec<_>) = points.iter().copied().partition(doubtful);
            for point in doubtful {
                self.attach(&[point])?;
            }
            return self.attach(&likely);
        }
        self.attach(points)
    }

    fn attach(&mut self, points: &[(ProbeId, u64)]) -> io::Result<()> {
        if points.is_empty() {
            return Ok(());
        }
        match self.try_attach(points) {
            Ok(()) => Ok(()),
            // Not a matter of one point: the process is gone, no privilege, no memory.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::EPERM | libc::EACCES | libc::ENOMEM | libc::EMFILE)
                ) =>
            {
                Err(error)
            }
            Err(error) => match points {
                [(id, _)] => {
                    self.refused.insert(*id, refusal(&error));
                    Ok(())
                }
                _ => {
                    let (first, second) = points.split_at(points.len() / 2);
                    self.attach(first)?;
                    self.attach(second)
                }
            },
        }
    }

    fn try_attach(&mut self, points: &[(ProbeId, u64)]) -> io::Result<()> {
        let points = points.iter().map(|(id, offset)| UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(*offset),
            cookie: Some(u64::from(id.0)),
        });
        let id = self.program.attach(points, self.path, self.scope).map_err(os_error)?;
        let link = self.program.take_link(id).map_err(os_error)?;
        let links = link
            .into_fd_links()
            .map_err(|_| io::Error::other("aya attached by something else than a link"))?;
        self.links.extend(links);
        Ok(())
    }
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

/// The system's error behind aya's.
fn os_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::IOError(error) => error,
        other => io::Error::other(other),
    }
}
