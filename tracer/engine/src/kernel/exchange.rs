//! Exchanges links. New links with some of the probes are attached before the old link, which has all of
//! them, is released. So no hit of the probes that stay is lost, and none counts twice. See
//! [`tracer_common::exchange`] for how the programs distinguish the links.
//!
//! Between the two steps, all hits that began earlier have to end ([`Programs::outlast_hits`]). A hit runs
//! the programs of its breakpoint one after another, newest first, and a new link goes to the front. A hit
//! that was preempted past that position, within the program of another probe or of another tracer, has yet
//! to meet the old link.
//!
//! An exchange may end only when the old link is really gone. Closing it waits for that, provided nothing
//! else has a copy of its descriptor, such as a child of ours that has not executed yet.
//!
//! Only multi links need this: where each breakpoint has its own link, that link is simply released.

use std::{
    io,
    mem::offset_of,
    sync::{
        Mutex, PoisonError,
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

    fn set_exchange(&self, generation: u32) {
        self.0.store(offset_of!(Control, exchange) / 8, u64::from(generation));
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

/// The generations of links.
#[derive(Debug)]
pub(super) struct Generations {
    /// The generation of links that are attached at this moment.
    current: AtomicU32,
    marks: Mutex<HashMap<MapData, u64, Marks>>,
}

impl Generations {
    pub(super) fn new(marks: HashMap<MapData, u64, Marks>) -> Self {
        Self { current: AtomicU32::new(0), marks: Mutex::new(marks) }
    }

    pub(super) fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// From now on, newly attached links take over the hits of the existing ones.
    pub(super) fn begin(&self, control: &ControlWords) {
        let generation = self.current.fetch_add(1, Ordering::Relaxed) + 1;
        control.set_exchange(generation);
    }

    /// Ends the exchange: either the old links or the new ones were released. Returns how many hits may
    /// have been counted twice since the programs were loaded.
    pub(super) fn end(&self, control: &ControlWords) -> u64 {
        control.set_exchange(0);
        // The remaining marks are from hits that met only the new link; the next exchange has another
        // generation. Only delete the marks of tasks that have ended: a task that was preempted while
        // writing its marks continues to write, and by then the kernel may have reused that memory for
        // another task's marks.
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
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
        let link = Links::new(vec![Link { descriptor, points: 1, kind: LinkKind::Multi }]);
        if !link.detach_within(OUTLASTED_WITHIN, self.helper) {
            tracing::warn!(
                "a task hangs inside a hit while breakpoints are exchanged: of what is hit just now, a \
                 hit may be missing"
            );
        }
        Ok(())
    }
}
