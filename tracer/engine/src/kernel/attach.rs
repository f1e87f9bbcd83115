//! Attaches as a transaction. In the end, either everything that the kernel accepts is attached and every
//! refused probe is known by name, or nothing is attached.
//!
//! The work is a queue of [`Job`]s, each with the points of one future link. Threads take them, and each
//! job becomes a link, a refused point, or smaller jobs: when the kernel refuses a link, it does not say
//! which of its points is at fault. So the likely culprits are tried alone, and the rest is halved. Each
//! failure waits for a grace period; the threads do that in parallel.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    ffi::CString,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracer_common::exchange::{LEAVES, cookie};

use super::{
    Features, KernelError, Links, Programs, Progress, descriptors,
    links::{Link, LinkKind, small_thread},
    sys::{Points, UprobePmu, create_multi_link},
};
use faultline_plan::{ExitKind, PlannedProbe, ProbeId};
use faultline_resolve::{ObjectFile, Pid, SkipReason, Skipped};

/// Maximum number of breakpoints of one link (`MAX_UPROBE_MULTI_CNT`).
pub(super) const MAX_POINTS: usize = 1 << 20;

/// How long to wait for links that were attached in vain: a task may be stuck inside a handler.
const UNDONE_WITHIN: Duration = Duration::from_secs(2);

/// Some probes of one file, in one process or in all. They get their own links, so that one piece can be
/// released while the others stay.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The file, held open: it is attached to as it was parsed, whatever happens to its path.
    pub file: &'a ObjectFile,
    /// The only process to trace; if `None`, every process that maps the file.
    pub process: Option<Pid>,
    /// The probes, all of them in this file.
    pub probes: &'a [ProbeId],
}

/// The result of attaching.
#[derive(Debug, Default)]
pub struct AttachReport {
    /// Probes that are attached.
    pub probes: usize,
    /// Links that they needed.
    pub links: usize,
    /// Probes that the kernel refused.
    pub refused: Vec<Skipped>,
    /// The reasons, in the same order.
    pub refused_ids: Vec<ProbeId>,
    /// Probes that are attached, but not in a process that runs other code.
    pub differing: Vec<Skipped>,
    /// How long it took.
    pub took: Duration,
    /// The file that took longest, if there are several.
    pub slowest: Option<SlowestFile>,
}

impl AttachReport {
    /// Adds the report of a later attach, including its time.
    pub fn add(&mut self, other: Self) {
        self.probes += other.probes;
        self.links += other.links;
        for (refused, id) in other.refused.into_iter().zip(other.refused_ids) {
            // The same probe may have been refused in another process. Other sets have the same ids.
            if !self.refused.contains(&refused) {
                self.refused.push(refused);
                self.refused_ids.push(id);
            }
        }
        self.differing.extend(other.differing);
        self.took += other.took;
        self.slowest = [self.slowest.take(), other.slowest]
            .into_iter()
            .flatten()
            .max_by_key(|slowest| slowest.took);
    }
}

/// The file that took longest to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowestFile {
    /// The file.
    pub file: PathBuf,
    /// From the start of its first link to the end of its last.
    pub took: Duration,
}

/// One breakpoint.
#[derive(Debug, Clone, Copy)]
struct Point {
    id: ProbeId,
    offset: u64,
    doubtful: bool,
    /// Calls leave here for another function.
    leaves: bool,
}

/// What the points of a link are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Functions' entries.
    Entry,
    /// The same, at whose returns the kernel comes back.
    Return,
    /// Instructions at which functions' calls end.
    Exit,
}

/// The points of a future link.
#[derive(Debug)]
struct Job {
    /// Index of the piece that the link belongs to.
    piece: usize,
    end: End,
    points: Vec<Point>,
}

/// What is attached, being attached, and still waiting.
#[derive(Debug)]
struct State {
    queue: VecDeque<Job>,
    running: usize,
    workers: usize,
    /// By piece.
    links: Vec<Vec<Link>>,
    /// By piece: its process has ended.
    gone: Vec<bool>,
    refused: BTreeMap<ProbeId, SkipReason>,
    /// By piece: when its first link was started, and when its last one was finished.
    times: Vec<Option<(Instant, Instant)>>,
    failed: Option<KernelError>,
}

/// How to make a link.
#[derive(Debug)]
enum Maker {
    Multi,
    Single(UprobePmu),
}

impl Maker {
    fn kind(&self) -> LinkKind {
        match self {
            Self::Multi => LinkKind::Multi,
            Self::Single(_) => LinkKind::Single,
        }
    }
}

/// An attach in progress.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    programs: &'a Programs,
    probes: &'a [PlannedProbe],
    pieces: &'a [Piece<'a>],
    /// By piece.
    paths: Vec<CString>,
    entry: BorrowedFd<'a>,
    ret: Option<BorrowedFd<'a>>,
    exit: Option<BorrowedFd<'a>>,
    maker: Maker,
    /// Points of all jobs.
    points: usize,
    state: Mutex<State>,
    settled: Condvar,
}

impl<'a> Transaction<'a> {
    /// Plans the links; attaches nothing yet.
    pub(super) fn new(
        programs: &'a Programs,
        probes: &'a [PlannedProbe],
        pieces: &'a [Piece<'a>],
    ) -> Result<Self, KernelError> {
        let features = programs.features();
        let maker = if features.batches() {
            Maker::Multi
        } else {
            Maker::Single(UprobePmu::find().map_err(|source| KernelError::Features { source })?)
        };
        let paths = pieces.iter().map(|piece| {
            let path = piece.file.attach_path();
            CString::new(path.as_os_str().as_bytes()).map_err(|_| KernelError::Attach {
                file: piece.file.shown_path().to_owned(),
                source: io::ErrorKind::InvalidInput.into(),
            })
        });
        let queue = jobs(probes, pieces, features);
        descriptors::make_room(queue.len(), pieces.iter().map(|piece| piece.probes.len()).sum())?;
        Ok(Self {
            programs,
            probes,
            pieces,
            paths: paths.collect::<Result<_, _>>()?,
            entry: programs.entry()?,
            ret: programs.ret()?,
            exit: programs.exit()?,
            maker,
            points: queue.iter().map(|job| job.points.len()).sum(),
            state: Mutex::new(State {
                queue,
                running: 0,
                workers: 0,
                links: pieces.iter().map(|_| Vec::new()).collect(),
                gone: vec![false; pieces.len()],
                refused: unsupported(probes, pieces),
                times: vec![None; pieces.len()],
                failed: None,
            }),
            settled: Condvar::new(),
        })
    }

    /// Runs the transaction. If it fails, everything attached so far is released again. A piece whose
    /// process has ended has no links.
    pub(super) fn run(
        self,
        progress: &Progress,
    ) -> Result<(Vec<Option<Links>>, AttachReport), KernelError> {
        let started = Instant::now();
        progress.begin(self.points);
        thread::scope(|scope| {
            self.hire(scope, progress);
            self.lock().workers += 1;
            self.work(scope, progress);
        });
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let links: Vec<_> = state.links.into_iter().map(Links::new).collect();
        if let Some(error) = state.failed {
            Links::join(links).detach_within(UNDONE_WITHIN, self.programs.helper);
            return Err(error);
        }
        let (mut lost, mut kept) = (Vec::new(), Vec::with_capacity(links.len()));
        for (links, gone) in links.into_iter().zip(&state.gone) {
            if *gone {
                lost.push(links);
                kept.push(None);
            } else {
                kept.push(Some(links));
            }
        }
        // Links of a process that ended in the middle.
        Links::join(lost).detach_within(UNDONE_WITHIN, self.programs.helper);
        let slowest = slowest(self.pieces, &state.times);
        let refused_ids: Vec<ProbeId> = state.refused.keys().copied().collect();
        let refused = state.refused.into_iter().map(|(id, reason)| Skipped {
            label: self.probes[id.0 as usize].label.clone(),
            reason,
        });
        let alive = self.pieces.iter().zip(&state.gone).filter(|(_, gone)| !**gone);
        let attached: HashSet<ProbeId> =
            alive.flat_map(|(piece, _)| piece.probes).copied().collect();
        let report = AttachReport {
            probes: attached.iter().filter(|id| !refused_ids.contains(id)).count(),
            links: kept.iter().flatten().map(Links::len).sum(),
            refused: refused.collect(),
            refused_ids,
            differing: Vec::new(),
            took: started.elapsed(),
            slowest,
        };
        Ok((kept, report))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread for each waiting job, in addition to the calling one, up to the limit.
    fn hire<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        progress: &'scope Progress,
    ) {
        let mut state = self.lock();
        let wanted = (state.running + state.queue.len()).min(self.maker.kind().at_once());
        for _ in state.workers + 1..wanted {
            // If no thread can be started, the existing ones do the work.
            if small_thread(scope, move || self.work(scope, progress)).is_err() {
                break;
            }
            state.workers += 1;
        }
    }

    /// Takes jobs until there are none left and no more can come.
    fn work<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        progress: &'scope Progress,
    ) {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                break;
            }
            let Some(job) = state.queue.pop_front() else {
                if state.running == 0 {
                    break;
                }
                state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if state.gone[job.piece] {
                progress.add(job.points.len());
                continue;
            }
            state.running += 1;
            drop(state);
            let began = Instant::now();
            let number = self.programs.next_link();
            let result = self.create(&job, number);
            let ended = Instant::now();
            state = self.lock();
            state.running -= 1;
            let times = &mut state.times[job.piece];
            *times =
                Some(times.map_or((began, ended), |(from, to)| (from.min(began), to.max(ended))));
            let waiting = state.queue.len();
            match result {
                Ok(descriptor) => {
                    let points = job.points.len();
                    progress.add(points);
                    let kind = self.maker.kind();
                    state.links[job.piece].push(Link { descriptor, points, kind, number });
                }
                Err(error) if self.has_ended(&job, &error) => state.gone[job.piece] = true,
                Err(error) if is_general(&error) => {
                    let file = self.pieces[job.piece].file.shown_path().to_owned();
                    state.failed.get_or_insert(KernelError::Attach { file, source: error });
                }
                Err(error) => match job.points.as_slice() {
                    [point] => {
                        progress.add(1);
                        state.refused.entry(point.id).or_insert_with(|| refusal(&error));
                    }
                    _ => state.queue.extend(job.split()),
                },
            }
            self.settled.notify_all();
            if state.queue.len() > waiting {
                drop(state);
                self.hire(scope, progress);
                state = self.lock();
            }
        }
        // Waiting threads must notice the end, too.
        self.settled.notify_all();
    }

    /// The process that the kernel limits the link to.
    fn pid(&self, job: &Job) -> Option<u32> {
        let process = self.pieces[job.piece].process?;
        self.programs.filters_by_process().then(|| process.get())
    }

    /// Whether a link cannot be made because its process has ended.
    fn has_ended(&self, job: &Job, error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::ESRCH) && self.pid(job).is_some()
    }

    fn create(&self, job: &Job, number: u32) -> io::Result<OwnedFd> {
        let offsets: Vec<_> = job.points.iter().map(|point| point.offset).collect();
        let cookie = |point: &Point| {
            let leaves = if point.leaves { u64::from(LEAVES) } else { 0 };
            cookie(point.id.0, number) | leaves
        };
        let cookies: Vec<_> = job.points.iter().map(cookie).collect();
        let points = Points {
            path: &self.paths[job.piece],
            offsets: &offsets,
            cookies: &cookies,
            pid: self.pid(job),
            at_return: job.end == End::Return,
        };
        let program = match job.end {
            End::Entry => Some(self.entry),
            End::Return => self.ret,
            End::Exit => self.exit,
        };
        let program = program.ok_or(io::ErrorKind::NotFound)?;
        match self.maker {
            Maker::Multi => create_multi_link(program, &points),
            Maker::Single(pmu) => pmu.create_link(program, &points).map_err(privileged),
        }
    }
}

impl Job {
    /// Splits it into smaller jobs, one of which has the culprit.
    fn split(self) -> Vec<Self> {
        let Self { piece, end, points } = self;
        let job = |points| Self { piece, end, points };
        let (doubtful, rest): (Vec<_>, Vec<_>) =
            points.into_iter().partition(|point| point.doubtful);
        if doubtful.is_empty() {
            let (first, second) = rest.split_at(rest.len() / 2);
            return vec![job(first.to_vec()), job(second.to_vec())];
        }
        let alone = doubtful.into_iter().map(|point| job(vec![point]));
        alone.chain((!rest.is_empty()).then(|| job(rest))).collect()
    }
}

/// The links to make: returns first, then entries of each piece. So a call whose entry is seen also has its
/// return seen.
fn jobs(probes: &[PlannedProbe], pieces: &[Piece<'_>], features: Features) -> VecDeque<Job> {
    let points_a_link = if features.batches() { MAX_POINTS } else { 1 };
    let mut jobs = VecDeque::new();
    for (piece, Piece { probes: ids, .. }) in pieces.iter().enumerate() {
        let (mut returns, mut exits) = (Vec::new(), Vec::new());
        let mut entries = Vec::with_capacity(ids.len());
        for id in *ids {
            let probe = &probes[id.0 as usize];
            if !probe.is_supported() {
                continue;
            }
            let (id, offset, doubtful) = (*id, probe.offset.0, probe.doubtful);
            let point = Point { id, offset, doubtful, leaves: false };
            entries.push(point);
            if probe.replaces_return() {
                returns.push(point);
            }
            exits.extend(probe.exits().iter().map(|exit| Point {
                id,
                offset: exit.offset.0,
                doubtful: false,
                leaves: exit.kind == ExitKind::Leaves,
            }));
        }
        for (end, points) in [(End::Exit, exits), (End::Return, returns), (End::Entry, entries)] {
            let chunks = points.chunks(points_a_link);
            jobs.extend(chunks.map(|points| Job { piece, end, points: points.to_vec() }));
        }
    }
    jobs
}

/// Probes of the pieces that the kernel is known to refuse.
fn unsupported(probes: &[PlannedProbe], pieces: &[Piece<'_>]) -> BTreeMap<ProbeId, SkipReason> {
    let ids = pieces.iter().flat_map(|piece| piece.probes);
    ids.filter(|id| !probes[id.0 as usize].is_supported())
        .map(|id| (*id, SkipReason::Unsupported))
        .collect()
}

/// How many links these pieces need on a kernel with these features.
pub fn links_needed(probes: &[PlannedProbe], pieces: &[Piece<'_>], features: Features) -> usize {
    jobs(probes, pieces, features).len()
}

/// The file that took longest, if there are several.
fn slowest(pieces: &[Piece<'_>], times: &[Option<(Instant, Instant)>]) -> Option<SlowestFile> {
    let first = pieces.first()?.file.shown_path();
    if pieces.iter().all(|piece| piece.file.shown_path() == first) {
        return None;
    }
    let took = pieces.iter().zip(times).filter_map(|(piece, times)| {
        let (from, to) = (*times)?;
        Some(SlowestFile { file: piece.file.shown_path().to_owned(), took: to - from })
    });
    took.max_by_key(|slowest| slowest.took)
}

/// Uprobe perf events need more privileges than the programs: `CAP_PERFMON` is not enough.
fn privileged(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EACCES) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "missing CAP_SYS_ADMIN, needed where each probe takes a link (run it with sudo)",
        ),
        _ => error,
    }
}

/// Whether an error is not about a single point: the process has ended, a privilege is missing, or memory
/// ran out.
fn is_general(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || matches!(
            error.raw_os_error(),
            Some(libc::ESRCH | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
        )
}

/// `ENOTSUPP`, an error number internal to the kernel, which the C library does not know.
const ENOTSUPP: i32 = 524;

/// Why the kernel refused a point.
fn refusal(error: &io::Error) -> SkipReason {
    match error.raw_os_error() {
        Some(ENOTSUPP) => SkipReason::Unsupported,
        _ => SkipReason::Refused { why: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(points: impl IntoIterator<Item = (u32, bool)>) -> Job {
        let points = points.into_iter().map(|(id, doubtful)| Point {
            id: ProbeId(id),
            offset: u64::from(id),
            doubtful,
            leaves: false,
        });
        Job { piece: 0, end: End::Entry, points: points.collect() }
    }

    fn ids(jobs: &[Job]) -> Vec<Vec<u32>> {
        jobs.iter().map(|job| job.points.iter().map(|point| point.id.0).collect()).collect()
    }

    /// Check that doubtful points are tried alone and the rest is halved, and that none is lost.
    #[test]
    fn a_refused_link_is_split() {
        let split = job([(0, false), (1, true), (2, false), (3, true)]).split();
        assert_eq!(ids(&split), [vec![1], vec![3], vec![0, 2]]);
        let split = job([(0, true), (1, true)]).split();
        assert_eq!(ids(&split), [[0], [1]]);
        let split = job((0..5).map(|id| (id, false))).split();
        assert_eq!(ids(&split), [vec![0, 1], vec![2, 3, 4]]);
    }
}
