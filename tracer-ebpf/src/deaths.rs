//! Notes what a traced process dies of: the signal, where the process was, and what it executed there.
//! Nothing of that can be known once it has died.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{
        bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user,
        bpf_task_pt_regs,
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use tracer_common::death::{Death, SIGNALS};

use crate::{maps::DEATHS, regs, task};

/// A signal is delivered: `signal`, `struct kernel_siginfo *`, `struct k_sigaction *`.
#[raw_tracepoint(tracepoint = "signal_deliver")]
fn signal_delivered(ctx: RawTracePointContext) -> i32 {
    let signal: u32 = ctx.arg(0);
    if signal >= 64 || SIGNALS & (1 << signal) == 0 {
        return 0;
    }
    let pid_tgid = task::current();
    if task::is_traced(pid_tgid) {
        let process = (task::shown(pid_tgid) >> 32) as u32;
        note(signal, ctx.arg(1), ctx.arg(2), process);
    }
    0
}

/// `info` and `action` are addresses of the kernel's.
#[inline(always)]
fn note(signal: u32, info: u64, action: u64, process: u32) {
    // Number and errno, code, address, system call. Without an info there is a small number instead of an
    // address, and the zeros stay.
    let mut words = [0u64; 4];
    // SAFETY: the destination is 32 bytes of our stack; the helper checks the address.
    unsafe { bpf_probe_read_kernel((&raw mut words).cast(), 32, info as *const _) };
    let code = words[1] as i32;
    // The first member of the action is the handler; 0 is `SIG_DFL`.
    let mut handler = 0u64;
    // SAFETY: the destination is eight bytes of our stack; the helper checks the address.
    unsafe { bpf_probe_read_kernel((&raw mut handler).cast(), 8, action as *const _) };
    if handler == 0
        && code <= 0
        && let Some(known) = DEATHS.get_ptr_mut(&process)
    {
        // SAFETY: the pointer is to a live element of the map.
        let known = unsafe { &mut *known };
        // Its handler has sent the signal again to end the process: what matters came first.
        if known.handled == 1 && known.signal == signal {
            known.handled = 0;
            return;
        }
    }
    let instruction = instruction_pointer();
    let mut death = Death {
        instruction,
        address: words[2],
        // SAFETY: the helper has no preconditions.
        at_ns: unsafe { bpf_ktime_get_ns() },
        signal,
        code,
        syscall: words[3] as i32,
        handled: (handler != 0) as u8,
        ..Death::default()
    };
    death.before = byte(instruction.wrapping_sub(1));
    death.here = byte(instruction);
    let _ = DEATHS.insert(&process, &death, 0);
}

/// Where the task was in user space; 0 if that cannot be read.
#[inline(always)]
fn instruction_pointer() -> u64 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: the task is the running one.
    let regs = unsafe { bpf_task_pt_regs(task) } as *const pt_regs;
    let mut address = 0u64;
    let at = regs::instruction_pointer_at(regs);
    // SAFETY: the destination is eight bytes of our stack; the helper checks the address.
    unsafe { bpf_probe_read_kernel((&raw mut address).cast(), 8, at.cast()) };
    address
}

/// A byte of the process; 0 if it cannot be read.
#[inline(always)]
fn byte(address: u64) -> u8 {
    let mut byte = 0u8;
    // SAFETY: the destination is one byte of our stack; the helper checks the address.
    unsafe { bpf_probe_read_user((&raw mut byte).cast(), 1, address as *const _) };
    byte
}
