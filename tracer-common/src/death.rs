//! What the kernel side notes when a process is about to die of a signal.

/// The signals that a fault of the program itself ends in: SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE,
/// SIGSEGV and SIGSYS, which have the same numbers on x86-64 and aarch64.
pub const SIGNALS: u64 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 31;

/// A signal of [`SIGNALS`] that was delivered to a process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Death {
    /// The instruction pointer; 0 if it could not be read.
    pub instruction: u64,
    /// `si_addr`, as far as the signal has one.
    pub address: u64,
    /// `CLOCK_MONOTONIC` when the signal was delivered.
    pub at_ns: u64,
    /// Its number.
    pub signal: u32,
    /// `si_code`: above 0 if the kernel sent it because of what the process did.
    pub code: i32,
    /// `si_syscall` of a SIGSYS.
    pub syscall: i32,
    /// The byte before the instruction pointer.
    pub before: u8,
    /// The byte at it.
    pub here: u8,
    /// 1 if the process handles the signal, so that it does not die of it.
    pub handled: u8,
    /// Always 0.
    pub padding: u8,
}

const _: () = assert!(size_of::<Death>() == 40);
