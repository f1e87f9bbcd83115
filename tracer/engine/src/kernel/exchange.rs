//! Exchanges links. New links with some of the probes are attached before the old link, which has all of
//! them, is retired and released. So no hit of the probes that stay is lost, and none counts twice. See
//! [`tracer_common::exchange`] for how the programs distinguish the links.
//!
//! Between the two steps, all hits that began earlier have to end ([`Programs::outlast_hits`]). A hit runs
//! the programs of its breakpoint one after another, newest first, and a new link goes to the front. A hit
//! that was preempted past that position, within the program of another probe or of another tracer, has yet
//! to meet the old link.
//!
//! Only multi links need this: where each breakpoint has its own link, that link is simply released.

use std::{
    collections::VecDeque,
    io,
    mem::offset_of,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aya::maps::{HashMap, MapData};
use tracer_common::{
    Control,
    exchange::{GATE_CLOSED, Marks},
};

use super::{
    KernelError, Links, Programs, calibrate,
    clock::monotonic_ns,
    links::{Link, LinkKind},
    mapped::MappedArray,
    own_code,
    programs::map_error,
    sys::{Points, create_multi_link},
    tasks::has_ended,
};
use faultline_plan::ProbeId;
use faultline_resolve::Pid;

/// How long to wait for hits. One that takes longer is stuck in a page fault.
const OUTLASTED_WITHIN: Duration = Duration::from_secs(2);

/// How many tasks may be hit while links are exchanged, not counting tasks that have ended since. An
/// exchange takes some tens of milliseconds.
pub(super) const MAX_MARKED_TASKS: u32 = 16_384;

/// How many links that were replaced the programs know. One that cannot be released yet is among the last.
pub(super) const MAX_RETIRED: u32 = 16_384;

/// What user space communicates to the running programs.
#[derive(Debug)]
pub(super) struct ControlWords(MappedArray<u64>);

impl ControlWords {
    /// The map's only element, word by word.
    pub(super) const WORDS: usize = size_of::<Control>() / 8;

    pub(super) fn new(words: MappedArray<u64>) -> Self {
        Self(words)
    }

    pub(super) fn set_enabled(&self, enabled: i64) {
        self.0.store(offset_of!(Control, enabled) / 8, enabled.cast_unsigned());
    }

    pub(super) fn enabled(&self) -> i64 {
        self.0.load(offset_of!(Control, enabled) / 8).cast_signed()
    }

    /// Adds one, as a program does.
    pub(super) fn add_enabled(&self) {
        self.0.add(offset_of!(Control, enabled) / 8, 1);
    }

    fn set_exchange(&self, first: u32) {
        self.0.store(offset_of!(Control, exchange) / 8, u64::from(first));
    }

    fn set_retired_below(&self, link: u32) {
        self.0.store(offset_of!(Control, retired_below) / 8, u64::from(link));
    }

    fn unmarked(&self) -> u64 {
        self.0.load(offset_of!(Control, unmarked) / 8)
    }

    pub(super) fn forked(&self) -> u64 {
        self.0.load(offset_of!(Control, forked) / 8)
    }

    pub(super) fn followed(&self) -> u64 {
        self.0.load(offset_of!(Control, followed) / 8)
    }

    pub(super) fn unfollowed(&self) -> u64 {
        self.0.load(offset_of!(Control, unfollowed) / 8)
    }
}

/// The time since which each probe's calls count, if returns are traced and breakpoints are attached and
/// detached.
#[derive(Debug)]
pub(super) struct Gates(MappedArray<u64>);

impl Gates {
    /// Starts with all gates open.
    pub(super) fn new(gates: MappedArray<u64>) -> Self {
        Self(gates)
    }

    pub(super) fn close<'a>(&self, probes: impl IntoIterator<Item = &'a ProbeId>) {
        for probe in probes {
            let index = probe.0 as usize;
            self.0.store(index, self.0.load(index) | GATE_CLOSED);
        }
    }

    pub(super) fn open<'a>(&self, probes: impl IntoIterator<Item = &'a ProbeId>) {
        let now_ns = monotonic_ns();
        for probe in probes {
            let index = probe.0 as usize;
            if self.0.load(index) & GATE_CLOSED != 0 {
                self.0.store(index, now_ns);
            }
        }
    }
}

/// The numbers of links, and those that were replaced.
#[derive(Debug)]
pub(super) struct Numbered {
    next: AtomicU32,
    exchanged: Mutex<Exchanged>,
}

#[derive(Debug)]
struct Exchanged {
    marks: HashMap<MapData, u64, Marks>,
    retired: HashMap<MapData, u32, u8>,
    /// What `retired` has, oldest first.
    order: VecDeque<u32>,
}

impl Numbered {
    pub(super) fn new(
        marks: HashMap<MapData, u64, Marks>,
        retired: HashMap<MapData, u32, u8>,
    ) -> Self {
        let exchanged = Exchanged { marks, retired, order: VecDeque::new() };
        // 0 stands for no exchange.
        Self { next: AtomicU32::new(1), exchanged: Mutex::new(exchanged) }
    }

    /// A number for a link that is about to be attached.
    fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Exchanged> {
        self.exchanged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, newly attached links take over the hits of the existing ones.
    fn begin(&self, control: &ControlWords) {
        control.set_exchange(self.next.load(Ordering::Relaxed));
    }

    /// These links ignore their hits from now on.
    fn retire(&self, control: &ControlWords, links: &[u32]) -> Result<(), KernelError> {
        let mut exchanged = self.lock();
        let Exchanged { retired, order, .. } = &mut *exchanged;
        for link in links {
            if order.len() >= MAX_RETIRED as usize
                && let Some(oldest) = order.pop_front()
            {
                // It has long been gone.
                let _ = retired.remove(&oldest);
            }
            retired.insert(link, &1, 0).map_err(map_error("write", "RETIRED"))?;
            order.push_back(*link);
        }
        control.set_retired_below(self.next.load(Ordering::Relaxed));
        Ok(())
    }

    /// They count their hits again.
    fn reinstate(&self, links: &[u32]) {
        let mut exchanged = self.lock();
        for link in links {
            let _ = exchanged.retired.remove(link);
        }
        exchanged.order.retain(|link| !links.contains(link));
    }

    /// Ends the exchange: the old links are retired, or the new ones released. Returns how many hits may
    /// have been counted twice since the programs were loaded.
    fn end(&self, control: &ControlWords) -> u64 {
        control.set_exchange(0);
        // The remaining marks are from hits that met only the new link; the next exchange has another
        // number. Only delete the marks of tasks that have ended: a task that was preempted while
        // writing its marks continues to write, and by then the kernel may have reused that memory for
        // another task's marks.
        let mut exchanged = self.lock();
        let marks = &mut exchanged.marks;
        let tasks: Vec<(u64, Marks)> = marks.iter().filter_map(Result::ok).collect();
        if tasks.len() > MAX_MARKED_TASKS as usize / 2 {
            for (key, _) in tasks.into_iter().filter(|(_, marks)| has_ended(marks.pid_tgid)) {
                let _ = marks.remove(&key);
            }
        }
        control.unmarked()
    }
}

impl Programs {
    /// From now on, newly attached links take over the hits of the existing ones: a hit that meets both
    /// counts once. End the exchange when the old links are retired. Only one exchange can run at a time.
    ///
    /// The programs must have been loaded with [`LoadOptions::exchanges`](super::LoadOptions::exchanges).
    pub fn begin_exchange(&self) {
        self.numbered.begin(&self.control);
    }

    /// From now on, these links ignore their hits. Only then may they be released.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`]. Some may ignore their hits then, until they are [reinstated](Self::reinstate).
    pub fn retire(&self, links: &[u32]) -> Result<(), KernelError> {
        self.numbered.retire(&self.control, links)
    }

    /// They count their hits again.
    pub fn reinstate(&self, links: &[u32]) {
        self.numbered.reinstate(links);
    }

    /// Ends the exchange: the old links are retired, or the new ones are gone.
    pub fn end_exchange(&self) {
        let unmarked = self.numbered.end(&self.control);
        if unmarked != 0 {
            tracing::warn!("{unmarked} hits may have been counted twice: more tasks than expected");
        }
    }

    /// Ignores calls of these probes that begin from now on. Call this before their breakpoints are
    /// removed, if the programs stay enabled.
    pub fn close_gates<'a>(&self, probes: impl IntoIterator<Item = &'a ProbeId>) {
        if let Some(gates) = &self.gates {
            gates.close(probes);
        }
    }

    /// Counts them again. Call this once their breakpoints are set.
    pub fn open_gates<'a>(&self, probes: impl IntoIterator<Item = &'a ProbeId>) {
        if let Some(gates) = &self.gates {
            gates.open(probes);
        }
    }

    /// A number for a link that is about to be attached.
    pub(super) fn next_link(&self) -> u32 {
        self.numbered.next()
    }

    /// Waits until all hits that have begun have ended.
    ///
    /// The way to make a kernel wait for that is to release a link: here one on a function of our own that
    /// is never called. A child does it, because the wait cannot be interrupted while a task is stuck
    /// inside a handler. After two seconds the wait is given up and reported.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if the link cannot be created.
    pub fn outlast_hits(&self) -> Result<(), KernelError> {
        let failed = |source| KernelError::Attach { file: "/proc/self/exe".into(), source };
        if !self.features().batches() {
            // Links are never exchanged here.
            return Ok(());
        }
        let address = calibrate::measured_return() as *const () as usize;
        let probe = own_code::probe("outlasting", address)
            .map_err(|error| failed(io::Error::other(error)))?;
        let points = Points {
            path: c"/proc/self/exe",
            offsets: &[probe.offset.0],
            cookies: &[0],
            pid: Some(Pid::own().get()),
            at_return: false,
        };
        let descriptor = create_multi_link(self.entry()?, &points).map_err(failed)?;
        let link =
            Links::new(vec![Link { descriptor, points: 1, kind: LinkKind::Multi, number: 0 }]);
        if !link.detach_within(OUTLASTED_WITHIN, self.helper) {
            tracing::warn!(
                "a task hangs inside a hit while breakpoints are exchanged: of what is hit just now, a \
                 hit may be missing"
            );
        }
        Ok(())
    }
}
