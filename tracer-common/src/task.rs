//! What the kernel side remembers of a task.

/// The most calls of one task that can be open at the same time. The kernel follows 64 nested return
/// probes per task (`MAX_URETPROBE_DEPTH`); two probes on one function share one of those.
pub const MAX_OPEN_CALLS: usize = 64;

/// Set in the key of a goroutine's open calls; no task has such a number.
pub const GOROUTINE: u64 = 1 << 63;

/// Where a goroutine's number is in its descriptor (`runtime.g.goid`), the same from Go 1.18 to 1.27; its
/// first two words are the bounds of its stack.
pub const GOROUTINE_ID_AT: u64 = 152;

/// A call that was entered and has not returned.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenCall {
    /// The stack pointer at the function's entry: with the task, the identity of the call. In Go, its
    /// distance from the top of the goroutine's stack, added to a fixed address.
    pub stack_pointer: u64,
    /// The address of the breakpoint: the function.
    pub function: u64,
    /// `CLOCK_MONOTONIC` at entry.
    pub entered_ns: u64,
    /// Index of the probe in the plan.
    pub probe: u32,
    /// 1 if the call has returned and is only waiting to be popped.
    pub returned: u8,
    /// A [`Fate`].
    pub fate: u8,
    /// What the condition decided at the entry and needs at the return: one bit per test.
    pub saved: u16,
    /// The caller's address, if the call may end by a jump to another function; else 0.
    pub return_address: u64,
}

/// What will become of a call's return.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It matches, or its condition is judged at the return.
    Wanted = 0,
    /// Like its entry, it does not match the user's condition.
    Filtered = 1,
    /// The same, and the condition needed a value that could not be read.
    Undecided = 2,
    /// Like its entry, left out by sampling.
    SampledOut = 3,
    /// Like its entry, left out by the rate limit.
    Throttled = 4,
}

/// The open calls of a task or goroutine, outermost first: a mirror of the kernel's own list of return
/// instances. Only the task that runs it writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallStack {
    /// Calls in `calls`.
    pub depth: u64,
    /// The task, as [`RecordHeader::pid_tgid`](crate::record::RecordHeader::pid_tgid); for a goroutine, its
    /// process's main thread.
    pub pid_tgid: u64,
    /// The calls.
    pub calls: [OpenCall; MAX_OPEN_CALLS],
}

/// A page fault that a task is waiting for because a probe reads memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultInProgress {
    /// The user address that is being faulted in.
    pub address: u64,
    /// `CLOCK_MONOTONIC` when the fault began.
    pub since_ns: u64,
    /// Index of the probe in the plan.
    pub probe: u32,
    /// The task, as the lower half of [`RecordHeader::pid_tgid`](crate::record::RecordHeader::pid_tgid).
    pub tid: u32,
}

const _: () = assert!(size_of::<OpenCall>() == 40);
const _: () = assert!(size_of::<CallStack>() == 16 + 40 * MAX_OPEN_CALLS);
const _: () = assert!(size_of::<FaultInProgress>() == 24);
