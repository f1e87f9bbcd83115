//! faultline's eBPF programs: the entry points. One file a concern:
//!
//! - `maps`: the maps and the constants that user space sets before it loads the programs
//! - `regs`: where each architecture keeps arguments, return value and stack pointer
//! - `stats`: counting
//! - `scratch`: memory that the stages of a hit use one after the other
//! - `choice`: which hits are delivered: condition, sample, rate
//! - `condition`: judges conditions
//! - `deaths`: what a traced process dies of
//! - `emit`: from a hit to a record in the ring buffer
//! - `read`: runs argument programs that read memory into a record
//! - `latency`: durations into histograms
//! - `fault`: faulting a page in, with nothing held
//! - `goroutine`: which goroutine of a Go program runs
//! - `exchange`: hits that reach two links
//! - `notices`: processes that execute or fork
//! - `children`: children of traced processes, followed or only counted
//! - `ring`: the ring buffer of records
//! - `returns`: the open calls of each task
//! - `task`: the numbers of the running task
//! - `verifier`: what the kernel's verifier needs and the source does not
//!
//! What can be done without a kernel is in [`tracer_common::interpret`], and is tested on the host.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the bpf target offers an atomic add only as an intrinsic")]

mod children;
mod choice;
mod condition;
mod deaths;
mod emit;
mod exchange;
mod fault;
mod goroutine;
mod latency;
mod maps;
mod notices;
mod read;
mod regs;
mod returns;
mod ring;
mod scratch;
mod stats;
mod task;
mod verifier;

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::generated::{bpf_get_attach_cookie, bpf_ktime_get_ns},
    macros::{raw_tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use tracer_common::{
    Action,
    counter::Counter,
    exchange::{AT_RETURN, GATE_CLOSED, LEAVES},
    interpret::choice::Choice,
    program::FLAG_TRACK_RETURN,
    task::Fate,
};

use crate::{
    emit::Emission,
    maps::Live,
    returns::{Ended, Entered},
    scratch::Scratch,
    stats::{Site, Timer},
};

/// A traced function is entered.
#[uprobe(sleepable, multi)]
fn entry_multi(ctx: ProbeContext) -> u32 {
    entered(&ctx)
}

/// A traced function is entered, and only the number of calls is needed.
///
/// Its stack frame is too small for a private stack (`verifier::stay_on_own_stack`).
#[uprobe(multi)]
fn count_multi(ctx: ProbeContext) -> u32 {
    counted(&ctx)
}

/// A traced function returns.
#[uretprobe(sleepable, multi)]
fn return_multi(ctx: RetProbeContext) -> u32 {
    returned(&ctx)
}

/// A traced function reaches an instruction at which its calls end.
#[uprobe(sleepable, multi)]
fn exit_multi(ctx: ProbeContext) -> u32 {
    exited(&ctx)
}

/// The same where a link takes one point: before 6.6.
#[uprobe(sleepable)]
fn entry_single(ctx: ProbeContext) -> u32 {
    entered(&ctx)
}

#[uretprobe(sleepable)]
fn return_single(ctx: RetProbeContext) -> u32 {
    returned(&ctx)
}

#[uprobe(sleepable)]
fn exit_single(ctx: ProbeContext) -> u32 {
    exited(&ctx)
}

#[uprobe]
fn count_single(ctx: ProbeContext) -> u32 {
    counted(&ctx)
}

/// The same where uprobe programs cannot sleep, with `MAY_FAULT` 0: before 6.0.
#[uprobe]
fn entry_unsleeping(ctx: ProbeContext) -> u32 {
    entered(&ctx)
}

#[uretprobe]
fn return_unsleeping(ctx: RetProbeContext) -> u32 {
    returned(&ctx)
}

#[uprobe]
fn exit_unsleeping(ctx: ProbeContext) -> u32 {
    exited(&ctx)
}

/// Does nothing, so that the cost is the kernel's part of a hit. For `faultline bench`.
#[uprobe(multi)]
fn empty_multi(_ctx: ProbeContext) -> u32 {
    0
}

#[uprobe(sleepable, multi)]
fn empty_multi_s(_ctx: ProbeContext) -> u32 {
    0
}

#[uprobe]
fn empty_single(_ctx: ProbeContext) -> u32 {
    0
}

#[uprobe(sleepable)]
fn empty_single_s(_ctx: ProbeContext) -> u32 {
    0
}

#[inline(always)]
fn entered(ctx: &ProbeContext) -> u32 {
    verifier::stay_on_own_stack(ctx.as_ptr());
    on_entry(ctx);
    0
}

#[inline(always)]
fn counted(ctx: &ProbeContext) -> u32 {
    let Some(live) = Live::new() else { return 0 };
    if let Some(site) = site(live, ctx.as_ptr(), regs::instruction_pointer(ctx.regs)) {
        stats::add(&site, Counter::PlainHits, 1);
    }
    0
}

#[inline(always)]
fn returned(ctx: &RetProbeContext) -> u32 {
    verifier::stay_on_own_stack(ctx.as_ptr());
    let place = regs::instruction_pointer(ctx.regs) | AT_RETURN;
    let Some(live) = Live::new() else { return 0 };
    let Some(site) = site(live, ctx.as_ptr(), place) else { return 0 };
    on_end(ctx, ctx.regs, live, &site, regs::entry_stack_pointer(ctx.regs), End::Returned);
    0
}

#[inline(always)]
fn exited(ctx: &ProbeContext) -> u32 {
    verifier::stay_on_own_stack(ctx.as_ptr());
    let place = regs::instruction_pointer(ctx.regs) | AT_RETURN;
    let Some(live) = Live::new() else { return 0 };
    let Some(mut site) = site(live, ctx.as_ptr(), place) else { return 0 };
    let end = if site.probe & LEAVES == 0 { End::Exit } else { End::Left };
    site.probe &= !LEAVES;
    on_end(ctx, ctx.regs, live, &site, regs::stack_pointer(ctx.regs), end);
    0
}

/// A task exits: its open calls will not return.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn task_exit(_ctx: RawTracePointContext) -> i32 {
    returns::abandon(task::current());
    0
}

/// A task executes another program: its open calls will not return. It takes over the id of the thread
/// group leader, so its old id is the second argument of the tracepoint.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn task_exec(ctx: RawTracePointContext) -> i32 {
    let now = task::current();
    let old_tid: u32 = ctx.arg(1);
    returns::abandon((now & !0xffff_ffff) | u64::from(old_tid));
    0
}

/// The traced command starts: it replaces the program that started it. Hits count from here on, so that
/// nothing of faultline itself is traced.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn command_begins(_ctx: RawTracePointContext) -> i32 {
    if task::is_named(task::current()) {
        maps::enable();
    }
    0
}

/// The site of a hit, if the hit counts. `place` distinguishes it from the task's next hit.
#[inline(always)]
fn site(live: Live, ctx: *mut core::ffi::c_void, place: u64) -> Option<Site> {
    if !live.enabled() {
        return None;
    }
    let pid_tgid = task::current();
    if !task::is_traced(pid_tgid) {
        return None;
    }
    // SAFETY: the context is the one the program was called with.
    let cookie = unsafe { bpf_get_attach_cookie(ctx) };
    exchange::takes(live, cookie, pid_tgid, place).then(|| Site::here(cookie as u32, pid_tgid))
}

#[inline(always)]
fn on_entry(ctx: &ProbeContext) {
    let place = regs::instruction_pointer(ctx.regs);
    let Some(live) = Live::new() else { return };
    let Some(site) = site(live, ctx.as_ptr(), place) else { return };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(program) = maps::PROGRAMS.get(site.probe) else { return };
    let stack_pointer = regs::stack_pointer(ctx.regs).wrapping_add(program.stack_bias);
    // Every hit is counted once: as a call opened or returned, as a return without an entry, or as a
    // plain hit.
    let is_plain = !maps::tracks_returns() || program.flags & FLAG_TRACK_RETURN == 0;
    if !is_plain && now_ns < maps::gate(site.probe) {
        return;
    }
    let before = if is_plain {
        stats::count(&site, Counter::PlainHits)
    } else {
        stats::seen(&site, Counter::CallsOpened)
    };
    let timer = Timer::begin(&site, live, before, now_ns);
    let mut scratch = Scratch::new();
    let choice = choice::at_entry(&site, ctx.regs, program, stack_pointer, &mut scratch);
    if !is_plain {
        let Choice { call, saved, .. } = choice;
        let entered = Entered { at_ns: now_ns, fate: u32::from(call), saved: u32::from(saved) };
        let followed = returns::open(&site, ctx.regs, program.flags, stack_pointer, entered);
        if !followed {
            let task = site.pid_tgid as u32;
            debug!(ctx, "a call of probe {} by task {} is not followed", site.probe, task);
        }
    }
    if choice.hit != Fate::Wanted as u8 {
        choice::count(&site, choice.hit);
    } else if maps::action_is(Action::Events) {
        Emission::of_entry(&site, ctx.regs, program, stack_pointer, now_ns, &mut scratch);
    } else {
        stats::add(&site, Counter::Aggregated, 1);
    }
    timer.end(&site);
}

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has returned through the kernel's return probe.
    Returned,
    /// It is about to return, at one of its function's exits.
    Exit,
    /// It is about to jump to another function, which returns in its place.
    Left,
}

/// A call ends that was entered with this stack pointer.
#[inline(always)]
fn on_end(
    ctx: &impl EbpfContext,
    regs: *const pt_regs,
    live: Live,
    site: &Site,
    stack_pointer: u64,
    end: End,
) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(program) = maps::PROGRAMS.get(site.probe) else { return };
    let timer = Timer::begin(site, live, stats::seen(site, Counter::CallsReturned), now_ns);
    let Some(entered) = returns::close(site, regs, program.flags, stack_pointer) else {
        if end != End::Returned {
            // Whoever has called something else comes along here, too.
            stats::add(site, Counter::ExitsPassed, 1);
            return;
        }
        if maps::gate(site.probe) & GATE_CLOSED != 0 {
            // Its entry did not count either.
            return;
        }
        stats::add(site, Counter::NoEntry, 1);
        let task = site.pid_tgid as u32;
        debug!(ctx, "task {} returned from a call of probe {} not seen", task, site.probe);
        return;
    };
    let duration_ns = now_ns.wrapping_sub(entered.at_ns);
    let mut scratch = Scratch::new();
    let knows_value = end != End::Left;
    let ended = Ended { regs, now_ns, duration_ns, knows_value };
    let fate = choice::at_return(site, &ended, program, &entered, &mut scratch);
    if fate != Fate::Wanted as u8 {
        choice::count(site, fate);
    } else if maps::action_is(Action::Latency) {
        latency::record(site, duration_ns);
    } else if maps::action_is(Action::Count) {
        stats::add(site, Counter::Aggregated, 1);
    } else {
        Emission::of_return(site, &ended, program, &mut scratch);
    }
    timer.end(site);
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
