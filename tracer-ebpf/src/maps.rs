//! The maps, and the constants that user space sets before it loads the programs.
//!
//! Sizes given here are placeholders: user space sets them from the plan.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, RingBuf},
};
use tracer_common::{
    Control,
    program::ProbeProgram,
    task::{CallStack, FaultInProgress},
};

/// Number of probes in the plan: the length of one column of `COUNTERS`.
#[unsafe(no_mangle)]
static PROBES: Global<u32> = Global::new(1);

/// Not 0: only processes in `PIDS` are traced.
#[unsafe(no_mangle)]
static FILTER_PIDS: Global<u8> = Global::new(0);

/// Not 0: only this process is traced. The common case of one, at a fraction of a look-up's cost.
#[unsafe(no_mangle)]
static ONLY_PID: Global<u32> = Global::new(0);

/// Not 0: some probe reads memory. 0 lets the kernel drop that part of the program unverified.
#[unsafe(no_mangle)]
static READS_MEMORY: Global<u8> = Global::new(1);

/// Not 0: some probe's return is traced.
#[unsafe(no_mangle)]
static TRACKS_RETURNS: Global<u8> = Global::new(1);

/// Not 0: pages may be faulted in. 0 where the programs are loaded as non-sleepable ones.
#[unsafe(no_mangle)]
static MAY_FAULT: Global<u8> = Global::new(1);

/// Always 0, and the kernel's verifier knows it.
#[unsafe(no_mangle)]
static NEVER: Global<u8> = Global::new(0);

/// Records for user space.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// What each probe reads, by probe index.
#[map]
pub(crate) static PROGRAMS: Array<ProbeProgram> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The counters: see [`tracer_common::counter`].
#[map]
pub(crate) static COUNTERS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What user space tells the running programs.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Processes to trace, by process id.
#[map]
static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(1, 0);

/// Processes that have hung in a fault and are read without faulting from then on.
#[map]
static NO_FAULT: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The page fault that each task waits for, by `pid_tgid`.
#[map]
pub(crate) static FAULTS: HashMap<u64, FaultInProgress> =
    HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// The open calls of each task, by `pid_tgid`.
#[map]
pub(crate) static CALLS: HashMap<u64, CallStack> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// An empty call stack: too large for the BPF stack, so new ones are copied from here.
#[map]
pub(crate) static NO_CALLS: Array<CallStack> = Array::with_max_entries(1, 0);

/// Whether hits count at all now.
#[inline(always)]
pub(crate) fn enabled() -> bool {
    match CONTROL.get_ptr(0) {
        // SAFETY: the pointer is to a live array element; user space may write it at any time, so
        // it is read as volatile.
        Some(control) => unsafe { (&raw const (*control).enabled).read_volatile() > 0 },
        None => false,
    }
}

/// Lets hits count, unless the run has ended.
#[inline(always)]
pub(crate) fn enable() {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: the pointer is to a live array element.
        let enabled = unsafe { &raw mut (*control).enabled };
        // SAFETY: as above, and aligned.
        unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(enabled, 1) };
    }
}

/// Where a 0 lies that the verifier does not know: see [`Control::zero`]. Each read gives it a
/// number of its own; one read used twice would be known to be equal.
#[inline(always)]
pub(crate) fn zero() -> Option<*const u64> {
    // SAFETY: the pointer is to a live array element.
    CONTROL.get_ptr(0).map(|control| unsafe { &raw const (*control).zero })
}

/// Whether the process is one that the user asked for.
///
/// The link filters too, but kernels before 6.10 compared the thread, and a link has one filter.
#[inline(always)]
pub(crate) fn is_traced(tgid: u32) -> bool {
    let only = ONLY_PID.load();
    if only != 0 {
        return tgid == only;
    }
    FILTER_PIDS.load() == 0 || PIDS.get_ptr(&tgid).is_some()
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

/// Number of probes in the plan.
#[inline(always)]
pub(crate) fn probes() -> u32 {
    PROBES.load()
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
