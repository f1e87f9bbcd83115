//! Where each outcome is counted.
//!
//! The map `COUNTERS` is one array of `u64`; a counter of a probe on a CPU stands at
//! `(cpu * columns + column) * column_len + probe`. It is mapped into user space, so that reading ten
//! thousand probes costs no system call. `columns` is [`COLUMNS`] where anything but hits can be
//! counted, and 1 where only hits are; `column_len` is the number of probes, rounded up so that two
//! CPUs never write to one line of their caches.

/// What is counted, in the order of the columns.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// The breakpoint was hit in a process that is traced, and nothing more is to be told of the
    /// hit than that. Each hit is counted once: here, or as one of [`HITS`]'s others.
    PlainHits = 0,
    /// Not wanted by the user's condition.
    Filtered = 1,
    /// Left out by sampling.
    SampledOut = 2,
    /// Left out by the rate limit.
    Throttled = 3,
    /// Lost: no room in the ring buffer.
    RingFull = 4,
    /// Lost: a return whose entry was not seen (a forked child that returns from its parent's
    /// call, or no memory for the call at its entry).
    NoEntry = 5,
    /// A read of memory that was there.
    ReadResident = 6,
    /// A read that needed a page to be faulted in first.
    ReadFaulted = 7,
    /// A read that was cut at its limit.
    ReadTruncated = 8,
    /// A read that failed with EFAULT.
    ReadEfault = 9,
    /// A read that failed with EINVAL.
    ReadEinval = 10,
    /// A read that failed with EAGAIN.
    ReadEagain = 11,
    /// Pages faulted in.
    Faults = 12,
    /// Nanoseconds spent in those faults.
    FaultWaitNs = 13,
    /// Calls whose return is awaited.
    CallsOpened = 14,
    /// Calls that returned.
    CallsReturned = 15,
    /// Calls that will not return: jumped over, their thread gone, or nested deeper than the
    /// kernel follows.
    CallsLost = 16,
    /// Taken into account in the kernel: a call counted, a duration put into its histogram.
    Aggregated = 17,
    /// Lost: a duration for which the kernel had no memory.
    NoMemory = 18,
    /// Of the filtered ones: those where the condition met a value that could not be read.
    Undecided = 19,
    /// Nanoseconds spent in the programs, waits for pages aside. Measured at some hits, of which each
    /// stands for [`TIMED_EVERY`]; at all of the first ones.
    HandlerNs = 20,
}

/// One hit in this number is timed, and all of the first ones up to it. A power of two.
pub const TIMED_EVERY: u64 = 64;

/// For how many hits the timing of one stands, before which `before` were counted; 0: it is not timed.
///
/// Without a branch: see where it is used.
#[inline(always)]
pub const fn timing_weight(before: u64) -> u64 {
    const { assert!(TIMED_EVERY.is_power_of_two()) };
    // 1 where the number that is reduced was 0 or negative.
    let is_early = before.wrapping_sub(TIMED_EVERY) >> 63;
    let is_turn = (before & (TIMED_EVERY - 1)).wrapping_sub(1) >> 63;
    is_early | ((is_turn & !is_early) * TIMED_EVERY)
}

/// The counters that together count every hit, at entry or return, once.
pub const HITS: [Counter; 4] =
    [Counter::PlainHits, Counter::CallsOpened, Counter::CallsReturned, Counter::NoEntry];

/// Number of counters.
pub const COLUMNS: u32 = 21;

/// Every counter, in the order of the columns.
pub const ALL: [Counter; COLUMNS as usize] = [
    Counter::PlainHits,
    Counter::Filtered,
    Counter::SampledOut,
    Counter::Throttled,
    Counter::RingFull,
    Counter::NoEntry,
    Counter::ReadResident,
    Counter::ReadFaulted,
    Counter::ReadTruncated,
    Counter::ReadEfault,
    Counter::ReadEinval,
    Counter::ReadEagain,
    Counter::Faults,
    Counter::FaultWaitNs,
    Counter::CallsOpened,
    Counter::CallsReturned,
    Counter::CallsLost,
    Counter::Aggregated,
    Counter::NoMemory,
    Counter::Undecided,
    Counter::HandlerNs,
];

const _: () = {
    let mut column = 0;
    while column < ALL.len() {
        assert!(ALL[column] as usize == column);
        column += 1;
    }
};
