//! Attaches as a transaction: in the end everything is attached that the kernel accepts, and what
//! it refuses is known by name; or nothing is.
//!
//! The work is a queue of [`Job`]s, each the points of one link to be. Threads take them, and each
//! becomes a link, a refused point, or smaller jobs: a link that the kernel refuses does not say
//! which of its points is at fault. So those that are likely to be are tried alone, and what is left
//! is halved. Each failure waits out a grace period, which the threads do at the same time.

use std::{
    collections::{BTreeMap, VecDeque},
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

use super::{
    Features, KernelError, Links, Programs, Progress, Scope, descriptors,
    links::{Link, LinkKind, small_thread},
    sys::{Points, UprobePmu, create_multi_link},
};
use faultline_plan::{AttachPlan, ProbeId};
use faultline_resolve::{SkipReason, Skipped};

/// Most breakpoints of one link (`MAX_UPROBE_MULTI_CNT`).
const MAX_POINTS: usize = 1 << 20;

/// What became of the plan.
#[derive(Debug, Default)]
pub struct AttachReport {
    /// Probes that are attached.
    pub probes: usize,
    /// Links that they took.
    pub links: usize,
    /// Probes that the kernel refused.
    pub refused: Vec<Skipped>,
    /// The same, in the same order.
    pub refused_ids: Vec<ProbeId>,
    /// How long it took.
    pub took: Duration,
    /// The file that took longest, if there are several.
    pub slowest: Option<SlowestFile>,
}

/// The file that took longest to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowestFile {
    /// The file.
    pub file: PathBuf,
    /// From the beginning of its first link to the end of its last.
    pub took: Duration,
}

/// One breakpoint.
#[derive(Debug, Clone, Copy)]
struct Point {
    id: ProbeId,
    offset: u64,
    doubtful: bool,
}

/// The points of a link to be.
#[derive(Debug)]
struct Job {
    /// Index of the group that the link is for.
    group: usize,
    /// Index of the file in the plan.
    file: usize,
    at_return: bool,
    pid: Option<u32>,
    points: Vec<Point>,
}

/// What is attached, being attached, and still to be.
#[derive(Debug)]
struct State {
    queue: VecDeque<Job>,
    running: usize,
    workers: usize,
    links: Vec<Vec<Link>>,
    refused: BTreeMap<ProbeId, String>,
    /// By file: when its first link was begun, and when the last one ended.
    times: Vec<Option<(Instant, Instant)>>,
    failed: Option<KernelError>,
}

/// How a link is made.
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
    plan: &'a AttachPlan,
    /// By file of the plan.
    paths: Vec<CString>,
    entry: BorrowedFd<'a>,
    ret: Option<BorrowedFd<'a>>,
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
        plan: &'a AttachPlan,
        groups: &[&[ProbeId]],
        scope: &Scope,
    ) -> Result<Self, KernelError> {
        let features = programs.features();
        let maker = if features.batches() {
            Maker::Multi
        } else {
            Maker::Single(UprobePmu::find().map_err(|source| KernelError::Features { source })?)
        };
        let paths = plan.files.iter().map(|file| {
            let path = file.file.attach_path();
            CString::new(path.as_os_str().as_bytes()).map_err(|_| KernelError::Attach {
                file: file.file.shown_path().to_owned(),
                source: io::ErrorKind::InvalidInput.into(),
            })
        });
        let queue = jobs(plan, groups, &scope.pids(features), features);
        let probes = groups.iter().map(|group| group.len()).sum();
        descriptors::make_room(queue.len(), probes)?;
        Ok(Self {
            programs,
            plan,
            paths: paths.collect::<Result<_, _>>()?,
            entry: programs.entry()?,
            ret: programs.ret()?,
            maker,
            points: queue.iter().map(|job| job.points.len()).sum(),
            state: Mutex::new(State {
                queue,
                running: 0,
                workers: 0,
                links: groups.iter().map(|_| Vec::new()).collect(),
                refused: BTreeMap::new(),
                times: vec![None; plan.files.len()],
                failed: None,
            }),
            settled: Condvar::new(),
        })
    }

    /// Does it. Where it fails, what was attached is released again.
    pub(super) fn run(
        self,
        progress: &Progress,
    ) -> Result<(Vec<Links>, AttachReport), KernelError> {
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
            Links::detach_all(links, &Progress::default());
            return Err(error);
        }
        let times = state.times.iter().zip(&self.plan.files);
        let times = times.filter_map(|(times, file)| times.map(|(from, to)| (to - from, file)));
        let slowest = times
            .max_by_key(|(took, _)| *took)
            .map(|(took, file)| SlowestFile { file: file.file.shown_path().to_owned(), took });
        let refused_ids = state.refused.keys().copied().collect();
        let refused = state.refused.into_iter().map(|(id, why)| Skipped {
            label: self.plan.probes[id.0 as usize].label.clone(),
            reason: SkipReason::Refused { why },
        });
        let refused: Vec<_> = refused.collect();
        let report = AttachReport {
            probes: self.plan.probes.len().saturating_sub(refused.len()),
            links: links.iter().map(Links::len).sum(),
            refused,
            refused_ids,
            took: started.elapsed(),
            slowest: slowest.filter(|_| self.plan.files.len() > 1),
        };
        Ok((links, report))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread for each job that waits, besides the one that asks, as far as they may be.
    fn hire<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        progress: &'scope Progress,
    ) {
        let mut state = self.lock();
        let wanted = (state.running + state.queue.len()).min(self.maker.kind().at_once());
        for _ in state.workers + 1..wanted {
            // Where no thread can be had, those that there are do the work.
            if small_thread(scope, move || self.work(scope, progress)).is_err() {
                break;
            }
            state.workers += 1;
        }
    }

    /// Takes jobs until there are none and none can come.
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
            state.running += 1;
            drop(state);
            let began = Instant::now();
            let result = self.create(&job);
            let ended = Instant::now();
            state = self.lock();
            state.running -= 1;
            let times = &mut state.times[job.file];
            *times =
                Some(times.map_or((began, ended), |(from, to)| (from.min(began), to.max(ended))));
            let waiting = state.queue.len();
            match result {
                Ok(descriptor) => {
                    let points = job.points.len();
                    progress.add(points);
                    let kind = self.maker.kind();
                    state.links[job.group].push(Link { descriptor, points, kind });
                }
                Err(error) if is_general(&error) => {
                    let file = self.plan.files[job.file].file.shown_path().to_owned();
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
        // Who waits must see the end too.
        self.settled.notify_all();
    }

    fn create(&self, job: &Job) -> io::Result<OwnedFd> {
        let offsets: Vec<_> = job.points.iter().map(|point| point.offset).collect();
        let cookies: Vec<_> =
            job.points.iter().map(|point| self.programs.cookie(point.id)).collect();
        let points = Points {
            path: &self.paths[job.file],
            offsets: &offsets,
            cookies: &cookies,
            pid: job.pid,
            at_return: job.at_return,
        };
        let program = if job.at_return { self.ret } else { Some(self.entry) };
        let program = program.ok_or(io::ErrorKind::NotFound)?;
        match self.maker {
            Maker::Multi => create_multi_link(program, &points),
            Maker::Single(pmu) => pmu.create_link(program, &points).map_err(privileged),
        }
    }
}

impl Job {
    /// Smaller jobs, one of which has the point that is at fault.
    fn split(self) -> Vec<Self> {
        let Self { group, file, at_return, pid, points } = self;
        let job = |points| Self { group, file, at_return, pid, points };
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

/// The links to be: for each group and file, entries and returns, in each process.
fn jobs(
    plan: &AttachPlan,
    groups: &[&[ProbeId]],
    pids: &[Option<u32>],
    features: Features,
) -> VecDeque<Job> {
    let mut file_of = vec![0; plan.probes.len()];
    for (file, planned) in plan.files.iter().enumerate() {
        for id in &planned.probes {
            file_of[id.0 as usize] = file;
        }
    }
    let points_a_link = if features.batches() { MAX_POINTS } else { 1 };
    let mut jobs = VecDeque::new();
    for (group, ids) in groups.iter().enumerate() {
        let mut files: BTreeMap<usize, [Vec<Point>; 2]> = BTreeMap::new();
        for id in *ids {
            let probe = &plan.probes[id.0 as usize];
            let point = Point { id: *id, offset: probe.offset.0, doubtful: probe.doubtful };
            let [returns, entries] = files.entry(file_of[id.0 as usize]).or_default();
            entries.push(point);
            if probe.ret.is_some() {
                returns.push(point);
            }
        }
        for (file, points) in files {
            for (at_return, points) in [true, false].into_iter().zip(points) {
                for points in points.chunks(points_a_link) {
                    jobs.extend(pids.iter().map(|pid| Job {
                        group,
                        file,
                        at_return,
                        pid: *pid,
                        points: points.to_vec(),
                    }));
                }
            }
        }
    }
    jobs
}

/// Links that the plan takes on a kernel with these features.
pub fn links_needed(plan: &AttachPlan, scope: &Scope, features: Features) -> usize {
    let all: Vec<_> = (0..plan.probes.len() as u32).map(ProbeId).collect();
    jobs(plan, &[&all], &scope.pids(features), features).len()
}

impl Scope {
    /// The processes that a link is limited to, one each; `None` is a link for all.
    fn pids(&self, features: Features) -> Vec<Option<u32>> {
        match self {
            Self::Processes(pids) if features.filters_by_process() => {
                pids.iter().map(|pid| Some(pid.get())).collect()
            }
            _ => vec![None],
        }
    }
}

/// Perf events that are uprobes ask for more than the programs do: `CAP_PERFMON` is not enough.
fn privileged(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EACCES) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "missing CAP_SYS_ADMIN, needed where each probe takes a link (run it with sudo)",
        ),
        _ => error,
    }
}

/// Whether an error is not a matter of one point: the process is gone, no privilege, no memory.
fn is_general(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || matches!(
            error.raw_os_error(),
            Some(libc::ESRCH | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(points: impl IntoIterator<Item = (u32, bool)>) -> Job {
        let points = points.into_iter().map(|(id, doubtful)| Point {
            id: ProbeId(id),
            offset: u64::from(id),
            doubtful,
        });
        Job { group: 0, file: 0, at_return: false, pid: None, points: points.collect() }
    }

    fn ids(jobs: &[Job]) -> Vec<Vec<u32>> {
        jobs.iter().map(|job| job.points.iter().map(|point| point.id.0).collect()).collect()
    }

    /// Check that doubtful points are tried alone and what is left is halved, none lost.
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
