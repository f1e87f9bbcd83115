//! Where probes are attached, and the links that hold them, grouped by what can be released separately.
//!
//! On a kernel where each breakpoint has its own link, each probe can be released separately. Elsewhere all
//! probes of a place share a link; when some are removed, that link is exchanged for a new one with the
//! rest.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use faultline_plan::ProbeId;
use faultline_resolve::{
    ObjectFile, Pid,
    process::{self, StartTime},
};

use crate::{
    compare::Differing,
    kernel::{
        AttachReport, HeldLinks, Holding, KernelError, LinkHolders, Links, Piece, Progress,
        Releasing,
    },
    set::ProbeSet,
};

/// How many places to attach before threads take their links: this many links are released one after
/// another if we are killed meanwhile, and until then no successor can be started.
const PLACES_AT_ONCE: usize = 32;

/// A process, identified even if its pid is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// When it started.
    pub started: StartTime,
}

impl Process {
    /// The process that has this pid now.
    ///
    /// # Errors
    ///
    /// There is no such process, or it cannot be inspected.
    pub fn of(pid: Pid) -> std::io::Result<Self> {
        Ok(Self { pid, started: process::start_time(pid)? })
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(self) -> bool {
        process::has_ended(self.pid, self.started)
    }
}

/// Identifies a place; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PlaceId(pub(crate) u64);

/// One file, in one process or in all.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: PlaceId,
    pub(crate) file: Arc<ObjectFile>,
    pub(crate) process: Option<Process>,
    pub(crate) links: PlaceLinks,
}

/// The links of a place.
#[derive(Debug, Default)]
pub(crate) struct PlaceLinks(Vec<(Vec<ProbeId>, HeldLinks)>);

impl PlaceLinks {
    /// Number of links.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|(_, links)| links.len()).sum()
    }

    /// Whether nothing is attached.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The probes that are attached.
    pub(crate) fn probes(&self) -> impl Iterator<Item = ProbeId> {
        self.0.iter().flat_map(|(probes, _)| probes).copied()
    }

    /// The numbers of the links.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(_, links)| links.numbers())
    }

    pub(crate) fn into_links(self) -> impl Iterator<Item = HeldLinks> {
        self.0.into_iter().map(|(_, links)| links)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Takes out the links that hold any of these probes.
    pub(crate) fn take(&mut self, probes: &HashSet<ProbeId>) -> Self {
        let touched =
            |(held, _): &(Vec<ProbeId>, HeldLinks)| held.iter().any(|probe| probes.contains(probe));
        let (taken, kept) = std::mem::take(&mut self.0).into_iter().partition(touched);
        self.0 = kept;
        Self(taken)
    }
}

/// Probes, and where to attach them.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) probes: Vec<ProbeId>,
    pub(crate) file: Arc<ObjectFile>,
    pub(crate) process: Option<Process>,
}

/// How long to wait for links that could not be kept: if a task is stuck inside a handler, they are
/// released later.
pub(crate) const UNDO_PATIENCE: Duration = Duration::from_secs(2);

/// The links of a tracer, and the sets whose tasks may delay their release.
///
/// The kernel releases a link when no task is inside a handler of any set. So closing one requires
/// knowledge of all sets.
#[derive(Debug)]
pub(crate) struct LinkStore {
    holders: Mutex<LinkHolders>,
    sets: Mutex<Vec<Weak<ProbeSet>>>,
}

impl LinkStore {
    pub(crate) fn new(holding: Holding, helper: bool) -> Self {
        Self { holders: Mutex::new(LinkHolders::new(holding, helper)), sets: Mutex::default() }
    }

    /// Where links are kept.
    pub(crate) fn holding(&self) -> Holding {
        self.lock().holding()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LinkHolders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a set that is about to be attached.
    pub(crate) fn know(&self, set: &Arc<ProbeSet>) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|set| set.strong_count() != 0);
        sets.push(Arc::downgrade(set));
    }

    /// Every set that tasks may be inside, including those that are being attached or released.
    pub(crate) fn sets(&self) -> Vec<Arc<ProbeSet>> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether a task is inside a fault at this moment.
    pub(crate) fn anyone_inside(&self) -> bool {
        self.sets().iter().any(|set| set.anyone_inside())
    }

    /// Starts to release links. If a task is stuck inside a handler, a child does it, so that nothing here
    /// has to wait for it; with `slowly` a child does it in any case.
    pub(crate) fn release(
        &self,
        links: Vec<HeldLinks>,
        slowly: bool,
        progress: &Arc<Progress>,
    ) -> Releasing {
        let hand_over = slowly || self.anyone_inside();
        self.lock().release(links, hand_over, progress)
    }

    /// Releases links that nobody has held yet.
    pub(crate) fn let_go(&self, links: Links) {
        let held = self.lock().hold(vec![links]);
        self.undo(held);
    }

    /// Releases links that could not be kept.
    pub(crate) fn undo(&self, links: Vec<HeldLinks>) {
        self.release(links, false, &Arc::default()).wait_within(UNDO_PATIENCE);
    }
}

/// Attaches probes of a set. For each wanted item this returns its links, or `None` if the process has
/// ended. Probes that the kernel has refused once are not tried again.
///
/// Blocks for some milliseconds per link.
///
/// # Errors
///
/// As [`Links::attach`]; nothing is attached then.
pub(crate) fn attach(
    set: &ProbeSet,
    wanted: &[Wanted],
    store: &LinkStore,
    progress: &Progress,
) -> Result<(Vec<Option<PlaceLinks>>, AttachReport), KernelError> {
    let at_once = match store.holding() {
        Holding::Here => wanted.len(),
        Holding::InThreads => PLACES_AT_ONCE,
    };
    let mut wanted = wanted.to_vec();
    let differing = Differing::take_out(set, &mut wanted);
    let mut all = Vec::with_capacity(wanted.len());
    let mut sum = AttachReport::default();
    for wanted in wanted.chunks(at_once.max(1)) {
        match attach_chunk(set, wanted, progress) {
            Ok((attached, report)) => {
                let mut lock = store.lock();
                all.extend(attached.into_iter().map(|place| {
                    let (probes, links): (Vec<_>, Vec<_>) = place?.into_iter().unzip();
                    Some(PlaceLinks(probes.into_iter().zip(lock.hold(links)).collect()))
                }));
                drop(lock);
                sum.add(report);
            }
            Err(error) => {
                let links = all.into_iter().flatten().flat_map(PlaceLinks::into_links).collect();
                store.undo(links);
                return Err(error);
            }
        }
    }
    // A probe may be in several places.
    let refused: HashSet<_> = sum.refused_ids.iter().collect();
    let probes: HashSet<ProbeId> = all
        .iter()
        .flatten()
        .flat_map(PlaceLinks::probes)
        .filter(|id| !refused.contains(id))
        .collect();
    sum.probes = probes.len();
    differing.report(&probes, set, &mut sum);
    Ok((all, sum))
}

/// The links of a place, before holders take them.
type Attached = Option<Vec<(Vec<ProbeId>, Links)>>;

fn attach_chunk(
    set: &ProbeSet,
    wanted: &[Wanted],
    progress: &Progress,
) -> Result<(Vec<Attached>, AttachReport), KernelError> {
    let batches = set.features().batches();
    let probes: Vec<Vec<ProbeId>> =
        wanted.iter().map(|wanted| set.acceptable(&wanted.probes)).collect();
    let mut pieces = Vec::new();
    let mut counts = Vec::with_capacity(wanted.len());
    for (Wanted { file, process, .. }, probes) in wanted.iter().zip(&probes) {
        let process = process.map(|process| process.pid);
        let alone = probes.chunks(if batches { probes.len().max(1) } else { 1 });
        let before = pieces.len();
        pieces.extend(alone.map(|probes| Piece { file, process, probes }));
        counts.push(pieces.len() - before);
    }
    let (links, report) = Links::attach(set.programs(), &set.plan.probes, &pieces, progress)?;
    set.refuse(&report.refused_ids);
    let refused: HashSet<_> = report.refused_ids.iter().collect();
    let mut links = pieces.iter().zip(links);
    let of_place = |count: usize| {
        let of_pieces: Vec<_> = links.by_ref().take(count).collect();
        let with_probes = of_pieces.into_iter().map(|(piece, links)| {
            let accepted = piece.probes.iter().filter(|id| !refused.contains(id)).copied();
            Some((accepted.collect(), links?))
        });
        // If one piece has lost its process, the whole place has.
        with_probes.collect::<Option<Vec<_>>>()
    };
    Ok((counts.into_iter().map(of_place).collect(), report))
}
