//! Children that traced processes fork: followed, or only counted.
//!
//! A child is known before it runs its first instruction: the kernel runs these programs inside `fork`,
//! and starts the child afterwards. So that a traced process is followed exactly, two tracepoints of `fork`
//! have the same program: the kernel runs a program only once at a time on each CPU, and another one that
//! is due meanwhile is skipped.

use aya_ebpf::{
    helpers::bpf_probe_read_kernel, macros::raw_tracepoint, programs::RawTracePointContext,
};

use crate::{maps, task};

/// Flags of `clone`, from `include/uapi/linux/sched.h`.
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;

/// A task has a new child, which does not run yet. Not for following: a child with a copy of its parent's
/// memory has copies of the breakpoints in it.
#[raw_tracepoint(tracepoint = "task_newtask")]
fn child_copied(ctx: RawTracePointContext) -> i32 {
    let flags: u64 = ctx.arg(1);
    if flags & (CLONE_VM | CLONE_THREAD) == 0 && task::is_traced(task::current()) {
        maps::count_forked();
    }
    0
}

/// A task has a new child, which does not run yet.
#[raw_tracepoint(tracepoint = "task_newtask")]
fn child_begins(ctx: RawTracePointContext) -> i32 {
    // If this fails, the next one tries again.
    let _ = follow(ctx.arg(0));
    0
}

/// The same a moment later, in case the other one was skipped.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn child_begins_too(ctx: RawTracePointContext) -> i32 {
    if follow(ctx.arg(1)).is_err() {
        maps::count_unfollowed();
    }
    0
}

/// A task ends. With the last task of a process, the process ends: its number may be used again.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn followed_ends(ctx: RawTracePointContext) -> i32 {
    let layout = maps::task_layout();
    let task: u64 = ctx.arg(0);
    let live =
        read::<u64>(task + layout.signal).and_then(|signal| read::<i32>(signal + layout.live));
    if live.is_some_and(|live| live <= 0) {
        let current = task::current();
        maps::forget_followed((current >> 32) as u32, (task::shown(current) >> 32) as u32);
    }
    0
}

#[inline(always)]
fn follow(child: u64) -> Result<(), ()> {
    let current = task::current();
    if !task::is_traced(current) {
        return Ok(());
    }
    let process = read::<u32>(child + maps::task_layout().tgid).ok_or(())?;
    // A thread belongs to a process that is known.
    if process == (current >> 32) as u32 { Ok(()) } else { maps::follow(process) }
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
