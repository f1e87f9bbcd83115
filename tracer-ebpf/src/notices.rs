//! Tells which processes begin something, so that user space looks whether it is to trace them.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};

use crate::maps::RECORDS;

/// A process executes a program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_executed(_ctx: RawTracePointContext) -> i32 {
    tell();
    0
}

/// A process forks, or starts a thread. It is the parent that is told: the child's id lies inside a
/// structure of the kernel, and `/proc` has it.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_forked(_ctx: RawTracePointContext) -> i32 {
    tell();
    0
}

/// A notice that finds no room is lost: user space looks at all processes from time to time.
#[inline(always)]
fn tell() {
    let tgid = bpf_get_current_pid_tgid() >> 32;
    let _ = RECORDS.output::<u64>(&tgid, 0);
}
