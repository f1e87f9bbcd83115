//! The interpreters of what user space writes as data, without what ties them to the kernel.
//!
//! The eBPF programs run the code in here, and so do property tests on the host. What touches the
//! traced program, the record or the verifier is behind three small traits; `tracer-ebpf` implements
//! them with helpers, the tests with simulated memory.
//!
//! - [`read`](mod@read): argument programs: registers and memory into the slots of a record.
//! - [`judge`](mod@judge): conditions.
//! - [`choice`](mod@choice): condition, sample and rate limit put together.
//!
//! Everything is `inline(always)`: the verifier sees each step where it is used, and nothing of it
//! takes a stack frame of its own.

pub mod choice;
pub mod judge;
pub mod read;

use crate::record::ReadStatus;

/// The smallest pages that there are. Those of a kernel with larger ones begin at multiples of it, too.
pub const PAGE_BYTES: u64 = 4096;

/// How an index is brought into bounds.
///
/// The compiler leaves out a bound where it sees no need for it, or moves it behind its use; the
/// kernel's verifier follows neither argument. An implementation for eBPF hides the operation from
/// the compiler.
pub trait Bounds {
    /// `value & MASK`.
    #[inline(always)]
    fn mask<const MASK: u64>(value: u64) -> u64 {
        value & MASK
    }

    /// `value`, or `MAX` if it is larger.
    #[inline(always)]
    fn at_most<const MAX: u64>(value: u64) -> u64 {
        if value > MAX { MAX } else { value }
    }
}

/// The memory of the traced program.
///
/// Reads do not fault: they fail where a page is not resident.
pub trait Memory: Bounds {
    /// The eight bytes at `address`.
    fn word(&self, address: u64) -> Option<u64>;

    /// Whether the byte at `address` can be read now.
    fn is_resident(&self, address: u64) -> bool;

    /// Brings the page of `address` into memory. Called with nothing held: it may sleep.
    ///
    /// # Errors
    ///
    /// [`ReadStatus::Efault`]: it cannot be read. [`ReadStatus::Eagain`]: it may not be faulted in.
    fn fault_in(&self, address: u64) -> Result<(), ReadStatus>;
}
