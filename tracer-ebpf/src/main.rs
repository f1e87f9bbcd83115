//! faultline's eBPF programs: the entry points. One file a concern:
//!
//! - `maps`: the maps and the constants that user space sets before it loads the programs
//! - `regs`: where each architecture keeps arguments, return value and stack pointer
//! - `stats`: counting
//! - `emit`: from a hit to a record in the ring buffer
//! - `read`: the interpreter of argument programs: memory into a record
//! - `fault`: faulting a page in, with nothing held
//! - `returns`: the open calls of each task
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the bpf target offers an atomic add only as an intrinsic")]

mod emit;
mod fault;
mod maps;
mod read;
mod regs;
mod returns;
mod stats;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_attach_cookie, bpf_ktime_get_ns, bpf_tail_call},
    macros::{raw_tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use tracer_common::{counter::Counter, program::FLAG_TRACK_RETURN};

use crate::{emit::Emission, stats::Site};

/// A traced function is entered.
#[uprobe(sleepable, multi)]
fn entry_multi(ctx: ProbeContext) -> u32 {
    stay_on_own_stack(ctx.as_ptr());
    on_entry(&ctx);
    0
}

/// A traced function returns.
#[uretprobe(sleepable, multi)]
fn return_multi(ctx: RetProbeContext) -> u32 {
    stay_on_own_stack(ctx.as_ptr());
    on_return(&ctx);
    0
}

/// A task exits: the calls it had open will not return.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn task_exit(_ctx: RawTracePointContext) -> i32 {
    returns::abandon(aya_ebpf::helpers::bpf_get_current_pid_tgid());
    0
}

/// A task replaces its program: the calls it had open will not return. It takes over the thread
/// group leader's id, so its own old id is the second argument of the tracepoint.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn task_exec(ctx: RawTracePointContext) -> i32 {
    let now = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    let old_tid: u32 = ctx.arg(1);
    returns::abandon((now & !0xffff_ffff) | u64::from(old_tid));
    0
}

/// The command that is to be traced begins: it replaces the program that started it. From here on
/// hits count, so that nothing of ours is traced.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn command_begins(_ctx: RawTracePointContext) -> i32 {
    let tgid = (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32;
    if maps::is_traced(tgid) {
        maps::enable();
    }
    0
}

/// Makes the kernel run this program on the stack of the task that it runs in.
///
/// Since 6.13 frames of 64 bytes and more are put on a "private" stack instead, one a CPU, for
/// every program of the type that uprobe programs share with kprobe programs. But a uprobe program
/// can be preempted, and a sleepable one sleeps: the next hit on that CPU then writes over what it
/// has there, arguments and pointers alike. A program with a tail call anywhere in it is spared
/// (`check_max_stack_depth`); this one is never reached, and the verifier drops it.
#[inline(always)]
fn stay_on_own_stack(ctx: *mut core::ffi::c_void) {
    if maps::never() {
        // SAFETY: never reached.
        unsafe { bpf_tail_call(ctx, core::ptr::null_mut(), 0) };
    }
}

#[inline(always)]
fn site(ctx: *mut core::ffi::c_void) -> Option<Site> {
    if !maps::enabled() {
        return None;
    }
    let pid_tgid = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    if !maps::is_traced((pid_tgid >> 32) as u32) {
        return None;
    }
    // SAFETY: the context is the one the program was called with.
    let cookie = unsafe { bpf_get_attach_cookie(ctx) };
    Some(Site::here(cookie as u32, pid_tgid))
}

#[inline(always)]
fn on_entry(ctx: &ProbeContext) {
    let Some(site) = site(ctx.as_ptr()) else { return };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    stats::add(&site, Counter::Hits, 1);
    let Some(program) = maps::PROGRAMS.get(site.probe) else { return };
    let stack_pointer = regs::stack_pointer(ctx.regs).wrapping_add(program.stack_bias);
    if maps::tracks_returns() && program.flags & FLAG_TRACK_RETURN != 0 {
        let followed = returns::open(&site, ctx.regs, stack_pointer, now_ns);
        if !followed {
            let task = site.pid_tgid as u32;
            debug!(ctx, "a call of probe {} by task {} is not followed", site.probe, task);
        }
    }
    Emission::of_entry(&site, ctx.regs, program, stack_pointer, now_ns);
}

#[inline(always)]
fn on_return(ctx: &RetProbeContext) {
    let Some(site) = site(ctx.as_ptr()) else { return };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    stats::add(&site, Counter::Hits, 1);
    let Some(program) = maps::PROGRAMS.get(site.probe) else { return };
    let stack_pointer = regs::entry_stack_pointer(ctx.regs);
    let Some(entered_ns) = returns::close(&site, stack_pointer) else {
        stats::add(&site, Counter::NoEntry, 1);
        let task = site.pid_tgid as u32;
        debug!(ctx, "task {} returned from a call of probe {} not seen", task, site.probe);
        return;
    };
    Emission::of_return(&site, ctx.regs, program, now_ns, now_ns.wrapping_sub(entered_ns));
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program reaches this.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
