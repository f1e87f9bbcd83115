//! The open calls of each task: a mirror of the kernel's own list of return instances.
//!
//! (task, stack pointer at entry) identifies a call. The rules of which calls are still alive are
//! those of the kernel (`cleanup_return_instances`, `arch_uretprobe_is_alive`): the stack grows
//! down, so a call whose stack pointer lies below the present one is over, returned or not. That
//! is how calls are found that `longjmp` or an exception jumped over.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, pt_regs},
    helpers::bpf_probe_read_user,
};
use tracer_common::{
    counter::Counter,
    task::{CallStack, MAX_OPEN_CALLS, OpenCall},
};

use crate::{
    maps, regs,
    stats::{self, Site},
};

/// What is known of a call from its entry on.
#[derive(Clone, Copy)]
pub(crate) struct Entered {
    pub(crate) at_ns: u64,
    /// A [`Fate`](tracer_common::task::Fate).
    pub(crate) fate: u8,
    /// What the condition decided at the entry and needs at the return.
    pub(crate) saved: u16,
}

/// Opens a call; whether its return will be recognised. One whose return will not is counted as
/// lost at once.
#[inline(always)]
pub(crate) fn open(
    site: &Site,
    regs: *const pt_regs,
    stack_pointer: u64,
    entered: Entered,
) -> bool {
    stats::add(site, Counter::CallsOpened, 1);
    let opened = try_open(site, regs, stack_pointer, entered).is_some();
    if !opened {
        stats::add(site, Counter::CallsLost, 1);
    }
    opened
}

#[inline(always)]
fn try_open(site: &Site, regs: *const pt_regs, stack_pointer: u64, entered: Entered) -> Option<()> {
    let stack = match maps::CALLS.get_ptr_mut(&site.pid_tgid) {
        Some(stack) => stack,
        None => {
            let empty = maps::NO_CALLS.get(0)?;
            maps::CALLS.insert(&site.pid_tgid, empty, u64::from(BPF_NOEXIST)).ok()?;
            maps::CALLS.get_ptr_mut(&site.pid_tgid)?
        }
    };
    // SAFETY: only the task itself writes its stack, and it is this task that runs.
    let stack = unsafe { &mut *stack };
    pop_dead(site, stack, stack_pointer);
    let function = regs::instruction_pointer(regs);
    let same_place = top(stack).filter(|call| call.stack_pointer == stack_pointer);
    if let Some(call) = same_place {
        // Another probe of the same hit may have opened it just now, if this one has not.
        let other_function = call.function != function;
        if (other_function || is_open(stack, site.probe, stack_pointer))
            && !is_chained(regs, stack_pointer)
        {
            pop_all_at(site, stack, stack_pointer);
        }
    }
    let depth = stack.depth;
    let Entered { at_ns, fate, saved } = entered;
    *call_at(stack, depth)? = OpenCall {
        stack_pointer,
        function,
        entered_ns: at_ns,
        probe: site.probe,
        returned: 0,
        fate,
        saved,
    };
    stack.depth = depth + 1;
    Some(())
}

/// Closes the innermost call of this probe that was entered with this stack pointer; what is
/// known from its entry, or `None` if there is no such call.
#[inline(always)]
pub(crate) fn close(site: &Site, stack_pointer: u64) -> Option<Entered> {
    let stack = maps::CALLS.get_ptr_mut(&site.pid_tgid)?;
    // SAFETY: only the task itself writes its stack, and it is this task that runs.
    let stack = unsafe { &mut *stack };
    pop_dead(site, stack, stack_pointer);
    // Functions that end in a tail call return together, with one stack pointer.
    let mut at = stack.depth;
    let mut entered = None;
    for _ in 0..MAX_OPEN_CALLS {
        at = at.wrapping_sub(1);
        let Some(call) = call_at(stack, at) else { break };
        if call.stack_pointer != stack_pointer {
            break;
        }
        if call.probe == site.probe && call.returned == 0 {
            call.returned = 1;
            let OpenCall { entered_ns: at_ns, fate, saved, .. } = *call;
            entered = Some(Entered { at_ns, fate, saved });
            break;
        }
    }
    pop_returned(stack);
    if entered.is_some() {
        stats::add(site, Counter::CallsReturned, 1);
    }
    entered
}

/// Whether this probe has an open call that was entered with this stack pointer.
#[inline(always)]
fn is_open(stack: &mut CallStack, probe: u32, stack_pointer: u64) -> bool {
    let mut at = stack.depth;
    for _ in 0..MAX_OPEN_CALLS {
        at = at.wrapping_sub(1);
        match call_at(stack, at) {
            Some(call) if call.stack_pointer != stack_pointer => return false,
            Some(call) if call.probe == probe => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// Counts every open call of a task as lost and forgets the task. After the run's end, the calls
/// that were open at that moment stay open: user space counts them as unfinished.
#[inline(always)]
pub(crate) fn abandon(pid_tgid: u64) {
    if !maps::enabled() {
        return;
    }
    let Some(stack) = maps::CALLS.get_ptr_mut(&pid_tgid) else { return };
    // SAFETY: the task exits or has replaced its program; nothing else writes its stack.
    let stack = unsafe { &mut *stack };
    let site = Site::here(0, pid_tgid);
    pop_dead(&site, stack, u64::MAX);
    let _ = maps::CALLS.remove(&pid_tgid);
}

const _: () = assert!(MAX_OPEN_CALLS == 64, "the mask in `call_at`");

/// Pops the calls that lie below `stack_pointer`: nobody can return from them any more.
#[inline(always)]
fn pop_dead(site: &Site, stack: &mut CallStack, stack_pointer: u64) {
    pop_while(site, stack, |call| call.stack_pointer < stack_pointer);
}

/// Pops the calls that were entered with just this stack pointer.
#[inline(always)]
fn pop_all_at(site: &Site, stack: &mut CallStack, stack_pointer: u64) {
    pop_while(site, stack, |call| call.stack_pointer == stack_pointer);
}

#[inline(always)]
fn pop_while(site: &Site, stack: &mut CallStack, dead: impl Fn(&OpenCall) -> bool) {
    for _ in 0..MAX_OPEN_CALLS {
        let Some(call) = top(stack) else { break };
        if !dead(call) {
            break;
        }
        if call.returned == 0 {
            let lost = Site { probe: call.probe, cpu: site.cpu, pid_tgid: site.pid_tgid };
            stats::add(&lost, Counter::CallsLost, 1);
        }
        stack.depth = stack.depth.wrapping_sub(1);
    }
}

#[inline(always)]
fn pop_returned(stack: &mut CallStack) {
    for _ in 0..MAX_OPEN_CALLS {
        match top(stack) {
            Some(call) if call.returned != 0 => stack.depth = stack.depth.wrapping_sub(1),
            _ => break,
        }
    }
}

/// The innermost open call.
#[inline(always)]
fn top(stack: &mut CallStack) -> Option<&mut OpenCall> {
    let depth = stack.depth;
    call_at(stack, depth.wrapping_sub(1))
}

#[inline(always)]
fn call_at(stack: &mut CallStack, index: u64) -> Option<&mut OpenCall> {
    if index >= MAX_OPEN_CALLS as u64 {
        return None;
    }
    // The compiler may compute the address before it compares; the verifier wants the bound first.
    // A mask that the compiler cannot see through holds in either order.
    let mut bounded = index;
    // SAFETY: the instruction only changes its own operand.
    unsafe {
        asm!("{0} &= 63", inout(reg) bounded, options(pure, nomem, nostack));
    }
    // SAFETY: the index is below 64, the length of the array.
    Some(unsafe { stack.calls.get_unchecked_mut(bounded as usize) })
}

/// Whether the function was entered by a tail call from one whose return is traced: its return
/// address is then not its caller's but the kernel's return trampoline. Otherwise an open call
/// with the same stack pointer is one that was jumped over.
///
/// The trampoline is the start of a page of its own (`xol_area`), and its first instruction is a
/// breakpoint, or, on x86-64 since 6.11, `push %rax; push %rcx; push %r11; mov …` for the
/// `uretprobe` system call.
#[inline(always)]
fn is_chained(regs: *const pt_regs, stack_pointer: u64) -> bool {
    let Some(address) = regs::return_address(regs, stack_pointer) else { return false };
    if address & 0xfff != 0 {
        return false;
    }
    // Nobody has returned through a new trampoline, so its page may not be resident yet; that of a
    // caller, which has just been running, nearly always is.
    // SAFETY: the helper checks the user address.
    let Ok(code) = (unsafe { bpf_probe_read_user(address as *const u32) }) else { return true };
    if cfg!(bpf_target_arch = "aarch64") {
        // `brk #5`, UPROBES_BRK_IMM.
        code == 0xd420_00a0
    } else {
        code & 0xff == 0xcc || code == u32::from_le_bytes([0x50, 0x51, 0x41, 0x53])
    }
}
