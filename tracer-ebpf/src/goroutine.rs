//! The goroutine that runs.
//!
//! In the code that Go compiles, a register holds the address of the running goroutine (`R14` on x86-64:
//! "Go internal ABI specification", since Go 1.17). Hand-written assembly may use it otherwise; then what is
//! there does not describe the stack that the task runs on.

use aya_ebpf::{bindings::pt_regs, helpers::bpf_probe_read_user};
use tracer_common::task::{GOROUTINE, GOROUTINE_ID_AT};

use crate::{regs, returns::Frame};

/// Where every goroutine's stack ends, as far as frames are concerned.
const TOP: u64 = 1 << 48;
/// So many bits of a goroutine's number are kept beside its process.
const ID_BITS: u32 = 41;

/// Whether calls belong to a goroutine.
#[inline(always)]
pub(crate) fn is_one(owner: u64) -> bool {
    owner & GOROUTINE != 0
}

/// A call's frame, by the goroutine that runs and the distance from the top of its stack.
///
/// The runtime itself runs on a stack that each thread has, whose goroutine has no number: there, calls
/// belong to the task.
#[inline(always)]
pub(crate) fn frame(regs: *const pt_regs, pid_tgid: u64, stack_pointer: u64) -> Option<Frame> {
    let address = regs::goroutine(regs);
    // SAFETY: the helper checks the user address.
    let [low, high]: [u64; 2] = unsafe { bpf_probe_read_user(address as *const [u64; 2]) }.ok()?;
    if stack_pointer < low || stack_pointer >= high {
        return None;
    }
    // SAFETY: as above.
    let id: u64 =
        unsafe { bpf_probe_read_user(address.wrapping_add(GOROUTINE_ID_AT) as *const u64) }.ok()?;
    if id == 0 {
        return Some(Frame { owner: pid_tgid, stack_pointer });
    }
    let process = (pid_tgid >> 32) << ID_BITS & !GOROUTINE;
    let owner = GOROUTINE | process | id & ((1 << ID_BITS) - 1);
    Some(Frame { owner, stack_pointer: stack_pointer.wrapping_sub(high).wrapping_add(TOP) })
}
