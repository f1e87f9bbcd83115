//! The open calls of each task: a mirror of the kernel's own list of return instances.
//!
//! (task, stack pointer at entry) identifies a call. A call is alive by the kernel's own rules
//! (`cleanup_return_instances`, `arch_uretprobe_is_alive`): the stack grows down, so a call whose stack
//! pointer is below the current one is over, whether it returned or not. That is how calls that `longjmp`
//! or an exception jumped over are found.
//!
//! In a Go program it is (goroutine, distance from the top of its stack): a goroutine continues on another
//! thread, and its stack moves when it grows.
//!
//! The loops are in functions that the kernel verifies separately ("global" ones): once, whatever their
//! callers know, and not again for each path that leads to them.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, pt_regs},
    helpers::{bpf_probe_read_user, generated::bpf_loop},
};
use tracer_common::{
    counter::Counter,
    exchange::GATE_CLOSED,
    program::{FLAG_GOROUTINES, FLAG_TAILS},
    task::{CallStack, MAX_OPEN_CALLS, OpenCall},
};

use crate::{
    goroutine, maps, regs,
    stats::{self, Site},
    task, verifier,
};

/// What is known about a call from its entry on. No padding: that would be uninitialised memory, which may
/// not be passed to a global function.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Entered {
    pub(crate) at_ns: u64,
    /// A [`Fate`](tracer_common::task::Fate).
    pub(crate) fate: u32,
    /// What the condition decided at the entry and needs at the return.
    pub(crate) saved: u32,
}

/// What is known about a call when it ends.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) regs: *const pt_regs,
    pub(crate) now_ns: u64,
    pub(crate) duration_ns: u64,
    /// Whether the value that it returns is in its register.
    pub(crate) knows_value: bool,
}

/// Whose call it is, and where on its stack it began: together, its identity.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// The task as the kernel numbers it, or a goroutine.
    pub(crate) owner: u64,
    /// The stack pointer at the function's entry; a goroutine's as if its stack ended where every other does.
    pub(crate) stack_pointer: u64,
}

impl Frame {
    /// Of the call that was entered with this stack pointer; `None` if a goroutine should run here and none
    /// does.
    #[inline(always)]
    pub(crate) fn of(
        site: &Site,
        regs: *const pt_regs,
        flags: u8,
        stack_pointer: u64,
    ) -> Option<Self> {
        if flags & FLAG_GOROUTINES == 0 {
            return Some(Self { owner: site.pid_tgid, stack_pointer });
        }
        goroutine::frame(regs, site.pid_tgid, stack_pointer)
    }
}

/// A call to be opened. One structure, because the compiler would drop an argument that an architecture
/// does not use, and the verifier would miss it.
#[repr(C)]
struct NewCall {
    entered: Entered,
    frame: Frame,
    /// The stack pointer at the function's entry.
    stack_pointer: u64,
    /// Where the breakpoint is.
    function: u64,
    /// The link register, where there is one.
    link: u64,
    /// The caller's address, if the call may end by a jump to another function; else 0.
    return_address: u64,
}

/// Opens a call; whether its return will be recognised. If not, the call is counted as lost right away.
#[inline(always)]
pub(crate) fn open(
    site: &Site,
    regs: *const pt_regs,
    flags: u8,
    stack_pointer: u64,
    entered: Entered,
) -> bool {
    stats::add(site, Counter::CallsOpened, 1);
    let (function, link) = (regs::instruction_pointer(regs), regs::link(regs));
    let mut return_address = 0;
    if flags & FLAG_TAILS != 0 {
        return_address = regs::return_address(link, stack_pointer).unwrap_or(0);
    }
    let opened = match Frame::of(site, regs, flags, stack_pointer) {
        Some(frame) => {
            let call = NewCall { entered, frame, stack_pointer, function, link, return_address };
            // SAFETY: both are initialised, and outlive the call.
            unsafe { open_call(site, &raw const call) != 0 }
        }
        None => false,
    };
    if !opened {
        stats::add(site, Counter::CallsLost, 1);
    }
    opened
}

/// The work of [`open`]; 1 if it is done.
///
/// # Safety
///
/// Both pointers are valid for reads.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn open_call(site: *const Site, call: *const NewCall) -> u64 {
    if site.is_null() || call.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises.
    let (site, call) = unsafe { (&*site, &*call) };
    u64::from(try_open(site, call).is_some())
}

#[inline(always)]
fn try_open(site: &Site, call: &NewCall) -> Option<()> {
    let NewCall { entered, frame, stack_pointer: here, function, link, return_address } = *call;
    // A copy on this frame: kernels as of 6.1 do not accept memory that was passed in as a key.
    let Frame { owner: key, stack_pointer } = frame;
    let stack = match maps::CALLS.get_ptr_mut(&key) {
        Some(stack) => stack,
        None => {
            let empty = maps::NO_CALLS.get(0)?;
            maps::CALLS.insert(&key, empty, u64::from(BPF_NOEXIST)).ok()?;
            let stack = maps::CALLS.get_ptr_mut(&key)?;
            // SAFETY: only the task itself writes its stack, and it is this task that runs.
            unsafe { (*stack).pid_tgid = shown(site.pid_tgid, key) };
            stack
        }
    };
    pop_dead(site, stack, stack_pointer);
    // SAFETY: only the task itself writes its stack, and it is this task that runs.
    let calls = unsafe { &mut *stack };
    let same_place = top(calls).filter(|call| call.stack_pointer == stack_pointer);
    if let Some(call) = same_place {
        // Another probe of the same hit may have just opened it, if this probe has not.
        let other_function = call.function != function;
        let caller = call.return_address;
        if (other_function || is_open(calls, site.probe, stack_pointer))
            && !is_chained(link, here)
            && !(other_function && is_tail(caller, link, here))
        {
            // All calls entered with this same stack pointer; those below it are already gone.
            pop_dead(site, stack, stack_pointer.wrapping_add(1));
        }
    }
    // SAFETY: as above; a new reference, because calls have been popped.
    let calls = unsafe { &mut *stack };
    let depth = calls.depth;
    let Entered { at_ns, fate, saved } = entered;
    *call_at(calls, depth)? = OpenCall {
        stack_pointer,
        function,
        entered_ns: at_ns,
        probe: site.probe,
        returned: 0,
        fate: fate as u8,
        saved: saved as u16,
        return_address,
    };
    calls.depth = depth + 1;
    Some(())
}

/// Whose calls an entry of the map has, as the user sees it: a task, or the process of a goroutine, which
/// goes on while the task ends.
#[inline(always)]
fn shown(pid_tgid: u64, owner: u64) -> u64 {
    let task = task::shown(pid_tgid);
    if goroutine::is_one(owner) { (task & !0xffff_ffff) | task >> 32 } else { task }
}

/// Closes the innermost call of this probe that was entered with this stack pointer; what is
/// known from its entry, or `None` if there is no such call.
#[inline(always)]
pub(crate) fn close(
    site: &Site,
    regs: *const pt_regs,
    flags: u8,
    stack_pointer: u64,
) -> Option<Entered> {
    let Frame { owner, stack_pointer } = Frame::of(site, regs, flags, stack_pointer)?;
    let mut entered = Entered { at_ns: 0, fate: 0, saved: 0 };
    let since_ns = maps::gate(site.probe) & !GATE_CLOSED;
    // SAFETY: both are initialised, and outlive the call.
    let closed = unsafe { close_call(site, owner, stack_pointer, since_ns, &raw mut entered) } != 0;
    if closed {
        stats::add(site, Counter::CallsReturned, 1);
    }
    closed.then_some(entered)
}

/// The work of [`close`]; 1 if there was such a call.
///
/// # Safety
///
/// The pointers are valid for reads and writes.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn close_call(
    site: *const Site,
    owner: u64,
    stack_pointer: u64,
    since_ns: u64,
    entered: *mut Entered,
) -> u64 {
    if site.is_null() || entered.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises.
    let (site, entered) = unsafe { (&*site, &mut *entered) };
    let Some(stack) = maps::CALLS.get_ptr_mut(&owner) else { return 0 };
    pop_dead(site, stack, stack_pointer);
    // SAFETY: only the task itself writes its stack, and it is this task that runs.
    let stack = unsafe { &mut *stack };
    // Functions that end in a tail call return together, with the same stack pointer.
    let mut at = stack.depth;
    let mut found = 0;
    for _ in 0..MAX_OPEN_CALLS {
        at = at.wrapping_sub(1);
        let Some(call) = call_at(stack, at) else { break };
        if call.stack_pointer != stack_pointer {
            break;
        }
        if call.probe == site.probe && call.returned == 0 {
            call.returned = 1;
            if call.entered_ns < since_ns {
                // That call may have returned while its probe was detached, and this may be another.
                stats::add(site, Counter::CallsLost, 1);
                break;
            }
            *entered = Entered {
                at_ns: call.entered_ns,
                fate: u32::from(call.fate),
                saved: u32::from(call.saved),
            };
            found = 1;
            break;
        }
    }
    pop_returned(stack);
    if goroutine::is_one(owner) && stack.depth == 0 {
        // Nobody says when a goroutine ends.
        let _ = maps::CALLS.remove(&owner);
    }
    found
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

/// Counts every open call of a task as lost and removes the task. Calls that are open when the run ends
/// stay open: user space counts them as unfinished.
#[inline(always)]
pub(crate) fn abandon(pid_tgid: u64) {
    if !maps::enabled() {
        return;
    }
    let Some(stack) = maps::CALLS.get_ptr_mut(&pid_tgid) else { return };
    let site = Site::here(0, pid_tgid);
    pop_dead(&site, stack, u64::MAX);
    let _ = maps::CALLS.remove(&pid_tgid);
}

const _: () = assert!(MAX_OPEN_CALLS.is_power_of_two(), "the mask in `call_at`");

/// Pops the calls below `stack_pointer`: they can no longer return.
#[inline(always)]
fn pop_dead(site: &Site, stack: *mut CallStack, stack_pointer: u64) {
    // SAFETY: only the task itself writes its stack, and it is this task that runs, or that has
    // just ended or replaced its program.
    let innermost = top(unsafe { &mut *stack });
    // A dead call is rare.
    if innermost.is_some_and(|call| call.stack_pointer < stack_pointer) {
        // SAFETY: as above.
        unsafe { pop_below(site, stack, stack_pointer) };
    }
}

/// The work of [`pop_dead`].
///
/// # Safety
///
/// The pointers are valid for reads and writes.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn pop_below(
    site: *const Site,
    stack: *mut CallStack,
    stack_pointer: u64,
) -> u64 {
    if site.is_null() || stack.is_null() {
        return 0;
    }
    let mut popping = Popping { site, stack, stack_pointer };
    let context = (&raw mut popping).cast();
    // SAFETY: the callback has the signature that the helper documents, and `popping` outlives it.
    unsafe { bpf_loop(MAX_OPEN_CALLS as u32, pop_one as *mut _, context, 0) };
    0
}

/// What [`pop_below`] does.
#[repr(C)]
struct Popping {
    site: *const Site,
    stack: *mut CallStack,
    stack_pointer: u64,
}

/// Pops a call that is dead; 1 ends the loop.
unsafe extern "C" fn pop_one(_index: u64, popping: *mut Popping) -> i64 {
    // SAFETY: the loop's context is the `Popping` of `pop_below`.
    let Popping { site, stack, stack_pointer } = unsafe { &*popping };
    // SAFETY: as the caller of `pop_below` promises.
    let (site, stack) = unsafe { (&**site, &mut **stack) };
    let Some(call) = top(stack) else { return 1 };
    if call.stack_pointer >= *stack_pointer {
        return 1;
    }
    if call.returned == 0 {
        let lost = Site { probe: call.probe, cpu: site.cpu, pid_tgid: site.pid_tgid };
        stats::add(&lost, Counter::CallsLost, 1);
    }
    stack.depth = stack.depth.wrapping_sub(1);
    0
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
    // The compiler may compute the address before it compares; a mask holds in either order.
    let bounded = verifier::mask::<{ MAX_OPEN_CALLS as u64 - 1 }>(index);
    // SAFETY: the index is below 64, the length of the array.
    Some(unsafe { stack.calls.get_unchecked_mut(bounded as usize) })
}

/// Whether a function was entered by a jump from one that is watched at its exits, and that was entered by a
/// call from `caller`: its own caller is the same then. Otherwise that call was jumped over.
#[inline(always)]
fn is_tail(caller: u64, link: u64, stack_pointer: u64) -> bool {
    caller != 0 && regs::return_address(link, stack_pointer) == Some(caller)
}

/// Whether the function was entered by a tail call from a function whose return is traced. Its return
/// address is then the kernel's return trampoline, not an address in its caller. Otherwise, an open call
/// with the same stack pointer was jumped over.
///
/// The trampoline is the start of a page of its own (`xol_area`), and its first instruction is a
/// breakpoint, or, on x86-64 since 6.11, `push %rax; push %rcx; push %r11; mov …` for the
/// `uretprobe` system call.
#[inline(always)]
fn is_chained(link: u64, stack_pointer: u64) -> bool {
    let Some(address) = regs::return_address(link, stack_pointer) else { return false };
    if address & 0xfff != 0 {
        return false;
    }
    // Nothing has returned through a new trampoline, so its page may not be resident yet. The page of a
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
