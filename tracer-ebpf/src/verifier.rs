//! Shims for the kernel's verifier: what its proof needs and the source does not.
//!
//! The compiler knows more than the verifier. It omits a bound that it can prove, computes an address
//! before it compares the index, and keeps two copies of a number only one of which was bounded. The inline
//! assembly in this file is opaque to it. All such code lives here, with the error that the verifier
//! reports without it.

use core::{
    arch::asm,
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::helpers::generated::bpf_tail_call;
use tracer_common::{interpret::Bounds, record::CLASSES, ring::SEGMENT_SLOTS};

use crate::maps::{self, Live};

/// [`Bounds`] that the verifier believes.
pub(crate) struct Verified;

impl Bounds for Verified {
    #[inline(always)]
    fn mask<const MASK: u64>(value: u64) -> u64 {
        mask::<MASK>(value)
    }

    #[inline(always)]
    fn at_most<const MAX: u64>(value: u64) -> u64 {
        at_most::<MAX>(value)
    }
}

/// `value & MASK`: "math between … pointer and register with unbounded min value".
#[inline(always)]
pub(crate) fn mask<const MASK: u64>(value: u64) -> u64 {
    let mut bounded = value;
    // SAFETY: the instruction only changes its own operand.
    unsafe {
        asm!("{0} &= {1}", inout(reg) bounded, const MASK, options(pure, nomem, nostack));
    }
    bounded
}

/// The number, or the constant if that is smaller, in instructions that the verifier follows.
macro_rules! bounded {
    ($number:expr, $max:expr) => {{
        let mut bounded: u64 = $number;
        // SAFETY: the instructions only change their own operand.
        unsafe {
            asm!(
                "if {0} <= {1} goto +1",
                "{0} = {1}",
                inout(reg) bounded,
                const $max,
                options(pure, nomem, nostack),
            );
        }
        bounded
    }};
}

/// `value`, or `MAX` if it is larger: for arrays whose length is not a power of two.
#[inline(always)]
pub(crate) fn at_most<const MAX: u64>(value: u64) -> u64 {
    bounded!(value, MAX)
}

/// `offset`, or the last one that a record of the class `C` has room at. It was compared with that before,
/// but before 6.8 the verifier forgets what it knows of a number that lies on the stack in between: "math
/// between mem pointer and register with unbounded min value".
#[inline(always)]
pub(crate) fn in_class<const C: usize>(offset: u64) -> u64 {
    bounded!(offset, CLASSES[C].max_offset() as u64)
}

/// `slot`, or the last slot that leaves room for `SLOTS` in its segment. A claim lies within its segment, which
/// the verifier does not know.
#[inline(always)]
pub(crate) fn slot_with_room<const SLOTS: u64>(slot: u64) -> u64 {
    bounded!(slot, SEGMENT_SLOTS - SLOTS)
}

/// The lowest bit of what a callback of `bpf_loop` returns: "At callback return the register R0 has
/// value … should have been in (0x0; 0x1)".
#[inline(always)]
pub(crate) fn one_bit(value: u64) -> i64 {
    mask::<1>(value) as i64
}

/// The address of a 0 that the verifier does not know. It checks a variable that starts from this number once
/// for all values, and one that starts from a literal 0 once for each value: "BPF program is too large". To the
/// verifier, each read of it gives another number. It would know that the result of one read, used twice, is the
/// same number.
#[inline(always)]
pub(crate) fn unknown_zeros() -> Option<*const u64> {
    Live::new().map(Live::zero)
}

/// Makes the kernel run this program on the stack of the current task.
///
/// Since 6.13, frames of 64 bytes and more are put on a per-CPU "private" stack instead, for every program
/// of the type that uprobe programs share with kprobe programs. But a uprobe program can be preempted, and
/// a sleepable one sleeps. The next hit on that CPU then overwrites its frame, arguments and pointers
/// included. Programs that contain a tail call are exempt (`check_max_stack_depth`). This tail call is
/// never reached, and the verifier drops it.
#[inline(always)]
pub(crate) fn stay_on_own_stack(ctx: *mut c_void) {
    if maps::never() {
        // SAFETY: never reached.
        unsafe { bpf_tail_call(ctx, core::ptr::null_mut(), 0) };
    }
}

/// Adds to a number that other CPUs, and programs that preempt this one, add to as well.
///
/// `AtomicU64` has no `fetch_add` on this target, because the target has no compare-and-swap.
///
/// # Safety
///
/// `place` is a live, aligned map element.
#[inline(always)]
pub(crate) unsafe fn atomic_add(place: *mut u64, amount: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(place, amount) };
}

/// The same; the value before.
///
/// # Safety
///
/// As [`atomic_add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(place: *mut u64, amount: u64) -> u64 {
    let mut value = amount;
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({place} + 0), {value})",
            place = in(reg) place,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}

/// Writes `new` if the value is `old`; the value before. The kernel has had this instruction since 5.12;
/// the compiler does not offer it.
///
/// # Safety
///
/// `place` is a live, aligned map element.
#[inline(always)]
pub(crate) unsafe fn compare_and_swap(place: *mut u64, old: u64, new: u64) -> u64 {
    let found: u64;
    // SAFETY: as the caller promises; the instruction takes and gives in r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place,
            new = in(reg) new,
            inout("r0") old => found,
            options(nostack),
        );
    }
    found
}

/// Writes a number, so that whoever reads it sees everything that was written before.
///
/// # Safety
///
/// `place` is a live, aligned map element.
#[inline(always)]
pub(crate) unsafe fn publish(place: *mut u64, value: u64) {
    // SAFETY: as the caller promises. Without `nomem`, the compiler writes everything else before.
    unsafe {
        if cfg!(bpf_target_arch = "x86_64") {
            // Stores are seen in their order.
            asm!(
                "*(u64 *)({place} + 0) = {value}",
                place = in(reg) place,
                value = in(reg) value,
                options(nostack),
            );
        } else {
            // An exchange is ordered with everything.
            asm!(
                "{value} = xchg_64({place} + 0, {value})",
                place = in(reg) place,
                value = inout(reg) value => _,
                options(nostack),
            );
        }
    }
}
