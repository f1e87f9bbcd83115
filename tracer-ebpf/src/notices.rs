//! Notifies user space of processes that execute or fork, so that it can check whether to trace them.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{maps::NOTICES, task};

/// A process executes a program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_executed(_ctx: RawTracePointContext) -> i32 {
    notify();
    0
}

/// A process forks, or starts a thread. The notice names the parent: the child's id is inside a kernel
/// structure, and `/proc` has it.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_forked(_ctx: RawTracePointContext) -> i32 {
    notify();
    0
}

/// A notice is dropped if there is no room: user space rescans all processes from time to time.
#[inline(always)]
fn notify() {
    let tgid = task::shown(task::current()) >> 32;
    // A process without a number in faultline's PID namespace cannot be asked for.
    if tgid != 0 {
        let _ = NOTICES.output::<u64>(&tgid, 0);
    }
}
