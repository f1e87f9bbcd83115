//! The maps, and the constants that user space sets before it loads the programs.
//!
//! Sizes given here are placeholders: user space sets them from the plan.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, RingBuf},
};
use tracer_common::{
    Action, Control,
    condition::{Condition, SAMPLE_ALL, Text},
    counter::COLUMNS,
    death::Death,
    exchange::Marks,
    histogram::Histogram,
    program::ProbeProgram,
    ring::{Ends, Segment},
    task::{CallStack, FaultInProgress},
};

use crate::verifier;

/// The length of one column of `COUNTERS`: at least the number of probes in the plan.
#[unsafe(no_mangle)]
static COLUMN_LEN: Global<u32> = Global::new(1);

/// Not 0: only processes in `PIDS` are traced.
#[unsafe(no_mangle)]
static FILTER_PIDS: Global<u8> = Global::new(0);

/// Not 0: only this process is traced. The common case, at a fraction of the cost of a lookup.
#[unsafe(no_mangle)]
static ONLY_PID: Global<u32> = Global::new(0);

/// Not 0: children of traced processes are traced too.
#[unsafe(no_mangle)]
static FOLLOW: Global<u8> = Global::new(0);

/// Where in the kernel's `task_struct` the process id is: only set if `FOLLOW` is.
#[unsafe(no_mangle)]
static TASK_TGID: Global<u64> = Global::new(0);

/// Where in it the task's name is: only set if a program may read it there.
#[unsafe(no_mangle)]
static TASK_COMM: Global<u64> = Global::new(0);

/// Where in it the pointer to the `signal_struct` is, which all tasks of a process share.
#[unsafe(no_mangle)]
static TASK_SIGNAL: Global<u64> = Global::new(0);

/// Where in that the number of tasks that have not ended is.
#[unsafe(no_mangle)]
static SIGNAL_LIVE: Global<u64> = Global::new(0);

/// Not 0: the inode of the PID namespace that faultline runs in, which is not the initial one.
#[unsafe(no_mangle)]
static PIDNS_INO: Global<u64> = Global::new(0);

/// The device of that inode, as the kernel numbers devices.
#[unsafe(no_mangle)]
static PIDNS_DEV: Global<u64> = Global::new(0);

/// Not 0: some probe reads memory. With 0, the kernel drops that part of the program unverified.
#[unsafe(no_mangle)]
static READS_MEMORY: Global<u8> = Global::new(1);

/// Not 0: some probe's return is traced.
#[unsafe(no_mangle)]
static TRACKS_RETURNS: Global<u8> = Global::new(1);

/// Not 0: pages may be faulted in. 0 where the programs are loaded as non-sleepable ones.
#[unsafe(no_mangle)]
static MAY_FAULT: Global<u8> = Global::new(1);

/// An [`Action`]: what is done with hits. The kernel drops the other parts of the program unverified.
#[unsafe(no_mangle)]
static ACTION: Global<u8> = Global::new(0);

/// Counters per probe and CPU: see [`tracer_common::counter`].
#[unsafe(no_mangle)]
static COUNTER_COLUMNS: Global<u32> = Global::new(COLUMNS);

/// Not 0: some probe has a condition.
#[unsafe(no_mangle)]
static CONDITIONAL: Global<u8> = Global::new(1);

/// Calls are sampled: a call is kept if its 32-bit random number is below this.
#[unsafe(no_mangle)]
static SAMPLE_BELOW: Global<u64> = Global::new(SAMPLE_ALL);

/// Not 0: nanoseconds between two calls of a probe at the limit of its rate.
#[unsafe(no_mangle)]
static RATE_INTERVAL_NS: Global<u64> = Global::new(0);

/// How far calls may run ahead of the rate, in nanoseconds.
#[unsafe(no_mangle)]
static RATE_AHEAD_NS: Global<u64> = Global::new(0);

/// The number of rings, less 1.
#[unsafe(no_mangle)]
static RING_MASK: Global<u32> = Global::new(0);

/// Segments of a ring.
#[unsafe(no_mangle)]
static RING_SEGMENTS: Global<u32> = Global::new(2);

/// Not 0: links may be exchanged while their probes are hit.
#[unsafe(no_mangle)]
static EXCHANGES: Global<u8> = Global::new(1);

/// Always 0, which the kernel's verifier knows.
#[unsafe(no_mangle)]
static NEVER: Global<u8> = Global::new(0);

/// The rings of records: see [`tracer_common::ring`].
#[map]
static RINGS: Array<Ends> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Their segments, those of one ring after those of another.
#[map]
static SEGMENTS: Array<Segment> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Notices of new processes.
#[map]
pub(crate) static NOTICES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// What each probe reads, by probe index.
#[map]
pub(crate) static PROGRAMS: Array<ProbeProgram> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The conditions, by the indices that `PROGRAMS` has.
#[map]
pub(crate) static CONDITIONS: Array<Condition> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The texts that conditions compare with.
#[map]
pub(crate) static TEXTS: Array<Text> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// When each probe's next call is due at the limit of its rate, by probe index.
#[map]
pub(crate) static RATES: Array<u64> = Array::with_max_entries(1, 0);

/// The counters: see [`tracer_common::counter`].
#[map]
pub(crate) static COUNTERS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What user space sets while the programs run.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What each task has marked in an exchange, by the kernel's own `pid_tgid`.
#[map]
pub(crate) static MARKS: HashMap<u64, Marks> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Links that were replaced and ignore their hits, by number: see [`tracer_common::exchange`].
#[map]
static RETIRED: HashMap<u32, u8> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Since when each probe's calls count, by probe index: see [`tracer_common::exchange`].
#[map]
static GATES: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// No marks: a counting program has no room for them on its stack.
#[map]
pub(crate) static NO_MARKS: Array<Marks> = Array::with_max_entries(1, 0);

/// Processes to trace, by the process id that the user sees.
#[map]
static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(1, 0);

/// Processes that are traced because a traced process has forked them, by the kernel's own process id.
#[map]
static FOLLOWED: HashMap<u32, u8> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Processes that have hung in a fault, and are read without faulting from then on, by the kernel's own
/// process id.
#[map]
static NO_FAULT: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// What each process dies of, by the process id that the user sees.
#[map]
pub(crate) static DEATHS: HashMap<u32, Death> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// The page fault that each task is waiting for, by the kernel's own `pid_tgid`.
#[map]
pub(crate) static FAULTS: HashMap<u64, FaultInProgress> =
    HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// The open calls of each task, by the kernel's own `pid_tgid`.
#[map]
pub(crate) static CALLS: HashMap<u64, CallStack> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// An empty call stack: too large for the BPF stack, so new ones are copied from here.
#[map]
pub(crate) static NO_CALLS: Array<CallStack> = Array::with_max_entries(1, 0);

/// The durations of each probe's calls, by [`tracer_common::histogram::key`]. An entry is allocated when
/// the probe is first hit.
#[map]
pub(crate) static HISTOGRAMS: HashMap<u64, Histogram> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// An empty histogram: too large for the BPF stack, so new ones are copied from here.
#[map]
pub(crate) static NO_HISTOGRAM: Array<Histogram> = Array::with_max_entries(1, 0);

/// The ring of this CPU, by its number.
#[inline(always)]
pub(crate) fn ring_of(cpu: u32) -> u32 {
    cpu & RING_MASK.load()
}

/// A ring's two ends.
#[inline(always)]
pub(crate) fn ring_ends(ring: u32) -> Option<*mut Ends> {
    RINGS.get_ptr_mut(ring)
}

/// Segments of each ring.
#[inline(always)]
pub(crate) fn ring_segments() -> u32 {
    RING_SEGMENTS.load()
}

/// A segment of all, by its number.
#[inline(always)]
pub(crate) fn segment(index: u32) -> Option<*mut Segment> {
    SEGMENTS.get_ptr_mut(index)
}

/// What user space sets while the programs run. A program looks it up once.
#[derive(Clone, Copy)]
pub(crate) struct Live(*const Control);

impl Live {
    /// `None` never happens: the array has one element.
    #[inline(always)]
    pub(crate) fn new() -> Option<Self> {
        CONTROL.get_ptr(0).map(Self)
    }

    /// Whether hits count now.
    #[inline(always)]
    pub(crate) fn enabled(self) -> bool {
        // SAFETY: the pointer is to a live array element; user space may write it at any time, so
        // it is read as volatile.
        unsafe { (&raw const (*self.0).enabled).read_volatile() > 0 }
    }

    /// The number of the first new link of an exchange; 0 while there is none.
    #[inline(always)]
    pub(crate) fn exchange(self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).exchange).read_volatile() as u32 }
    }

    /// Whether a link was replaced by another one, which counts its hits now.
    #[inline(always)]
    pub(crate) fn is_retired(self, link: u32) -> bool {
        // SAFETY: as above.
        let below = unsafe { (&raw const (*self.0).retired_below).read_volatile() };
        u64::from(link) < below && RETIRED.get_ptr(&link).is_some()
    }

    /// The address of a 0 that the verifier does not know: see [`Control::zero`].
    #[inline(always)]
    pub(crate) fn zero(self) -> *const u64 {
        // SAFETY: as above.
        unsafe { &raw const (*self.0).zero }
    }
}

/// Whether hits count now.
#[inline(always)]
pub(crate) fn enabled() -> bool {
    Live::new().is_some_and(Live::enabled)
}

/// Starts counting hits, unless the run has ended.
#[inline(always)]
pub(crate) fn enable() {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: the pointer is to a live array element.
        let enabled = unsafe { &raw mut (*control).enabled };
        // SAFETY: as above, and aligned; adding is the same for numbers with a sign.
        unsafe { verifier::atomic_add(enabled.cast(), 1) };
    }
}

/// Whether links may be exchanged.
#[inline(always)]
pub(crate) fn exchanges() -> bool {
    EXCHANGES.load() != 0
}

/// The probe's gate: a time, and [`GATE_CLOSED`](tracer_common::exchange::GATE_CLOSED).
#[inline(always)]
pub(crate) fn gate(probe: u32) -> u64 {
    if !exchanges() {
        return 0;
    }
    match GATES.get_ptr(probe) {
        // SAFETY: the pointer is to a live, aligned array element; user space writes it.
        Some(gate) => unsafe { gate.read_volatile() },
        None => 0,
    }
}

/// Counts a hit that could not be marked.
#[inline(always)]
pub(crate) fn count_unmarked() {
    count_in_control(|control| {
        // SAFETY: the caller's pointer is to a live array element.
        unsafe { &raw mut (*control).unmarked }
    });
}

/// The PID namespace that faultline runs in, by device and inode; inode 0: the initial one.
#[inline(always)]
pub(crate) fn pid_namespace() -> (u64, u64) {
    (PIDNS_DEV.load(), PIDNS_INO.load())
}

/// Whether only some processes are traced.
#[inline(always)]
pub(crate) fn filters() -> bool {
    ONLY_PID.load() != 0 || FILTER_PIDS.load() != 0
}

/// Whether this process is one of those, by the process id that the user sees.
#[inline(always)]
pub(crate) fn has_process(tgid: u32) -> bool {
    let only = ONLY_PID.load();
    if only != 0 { tgid == only } else { PIDS.get_ptr(&tgid).is_some() }
}

/// Whether children of traced processes are traced too.
#[inline(always)]
pub(crate) fn follows() -> bool {
    FOLLOW.load() != 0
}

/// Whether this process was forked by a traced one, by the kernel's own process id.
#[inline(always)]
pub(crate) fn has_followed(tgid: u32) -> bool {
    FOLLOWED.get_ptr(&tgid).is_some()
}

/// Traces this process too, and counts it unless that was done before. Fails if there is no room.
#[inline(always)]
pub(crate) fn follow(tgid: u32) -> Result<(), ()> {
    const EEXIST: i32 = -17;
    match FOLLOWED.insert(&tgid, &1, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            count_in_control(|control| {
                // SAFETY: the caller's pointer is to a live array element.
                unsafe { &raw mut (*control).followed }
            });
            Ok(())
        }
        Err(EEXIST) => Ok(()),
        Err(_) => Err(()),
    }
}

/// Counts a child that there was no room for.
#[inline(always)]
pub(crate) fn count_unfollowed() {
    count_in_control(|control| {
        // SAFETY: the caller's pointer is to a live array element.
        unsafe { &raw mut (*control).unfollowed }
    });
}

/// Forgets a process that ends, by the kernel's own process id and the one that the user sees.
#[inline(always)]
pub(crate) fn forget_followed(tgid: u32, shown: u32) {
    let _ = FOLLOWED.remove(&tgid);
    let _ = PIDS.remove(&shown);
}

/// Counts a child that a traced process has forked, with a copy of its memory.
#[inline(always)]
pub(crate) fn count_forked() {
    count_in_control(|control| {
        // SAFETY: the caller's pointer is to a live array element.
        unsafe { &raw mut (*control).forked }
    });
}

#[inline(always)]
fn count_in_control(counter: impl Fn(*mut Control) -> *mut u64) {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: the pointer is to a live, aligned array element.
        unsafe { verifier::atomic_add(counter(control), 1) };
    }
}

/// Where the kernel keeps what the programs read of a task.
pub(crate) struct TaskLayout {
    pub(crate) tgid: u64,
    pub(crate) signal: u64,
    pub(crate) live: u64,
}

/// That of the running kernel.
#[inline(always)]
pub(crate) fn task_layout() -> TaskLayout {
    TaskLayout { tgid: TASK_TGID.load(), signal: TASK_SIGNAL.load(), live: SIGNAL_LIVE.load() }
}

/// Where in the `task_struct` the task's name is; 0 if that is not known.
#[inline(always)]
pub(crate) fn task_comm() -> u64 {
    TASK_COMM.load()
}

/// Whether pages of this process may be faulted in.
#[inline(always)]
pub(crate) fn may_fault(tgid: u32) -> bool {
    MAY_FAULT.load() != 0 && NO_FAULT.get_ptr(&tgid).is_none()
}

/// `false`, but the compiler does not know it.
#[inline(always)]
pub(crate) fn never() -> bool {
    NEVER.load() != 0
}

/// Whether this is what is done with hits.
#[inline(always)]
pub(crate) fn action_is(action: Action) -> bool {
    ACTION.load() == action as u8
}

/// Counters per probe and CPU.
#[inline(always)]
pub(crate) fn counter_columns() -> u32 {
    COUNTER_COLUMNS.load()
}

/// Whether any probe has a condition.
#[inline(always)]
pub(crate) fn conditional() -> bool {
    CONDITIONAL.load() != 0
}

/// Calls whose random number is below this are kept; [`SAMPLE_ALL`]: all.
#[inline(always)]
pub(crate) fn sample_below() -> u64 {
    SAMPLE_BELOW.load()
}

/// Nanoseconds between two calls at the limit of the rate; 0 without a limit.
#[inline(always)]
pub(crate) fn rate_interval_ns() -> u64 {
    RATE_INTERVAL_NS.load()
}

/// How far calls may run ahead of the rate.
#[inline(always)]
pub(crate) fn rate_ahead_ns() -> u64 {
    RATE_AHEAD_NS.load()
}

/// The length of one column of `COUNTERS`.
#[inline(always)]
pub(crate) fn column_len() -> u32 {
    COLUMN_LEN.load()
}

/// Whether any probe reads memory.
#[inline(always)]
pub(crate) fn reads_memory() -> bool {
    READS_MEMORY.load() != 0
}

/// Whether any probe's return is traced.
#[inline(always)]
pub(crate) fn tracks_returns() -> bool {
    TRACKS_RETURNS.load() != 0
}
