//! The running task, by the kernel's own numbers and by those that the user sees.
//!
//! In a container the two differ. The state of a task is stored under the kernel's own numbers, which are
//! unique. What the user writes and sees are the numbers of the PID namespace that faultline runs in. A
//! program can only find those out for tasks that run in that namespace itself. For a task of another
//! namespace, inside or outside of it, they are 0, as in `getppid` or `ucred`.

use aya_ebpf::{
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_comm, bpf_get_current_task_btf, bpf_get_ns_current_pid_tgid},
    },
};

use crate::maps;

/// Process (upper half) and task (lower half), as the kernel numbers them.
#[inline(always)]
pub(crate) fn current() -> u64 {
    bpf_get_current_pid_tgid()
}

/// The same as the user sees it; 0 for a task of another PID namespace. `current` is the running task.
#[inline(always)]
pub(crate) fn shown(current: u64) -> u64 {
    if maps::pid_namespace().1 == 0 { current } else { in_namespace() }
}

/// In a frame of its own, because the callers' frames have no byte to spare.
#[inline(never)]
fn in_namespace() -> u64 {
    let (device, inode) = maps::pid_namespace();
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the structure is as large as the helper is told.
    let result = unsafe {
        bpf_get_ns_current_pid_tgid(device, inode, &raw mut ids, size_of::<bpf_pidns_info>() as u32)
    };
    if result == 0 { (u64::from(ids.tgid) << 32) | u64::from(ids.pid) } else { 0 }
}

/// Whether hits of the running task count.
///
/// The link filters too, but kernels before 6.10 compared the thread, and a link has only one filter.
#[inline(always)]
pub(crate) fn is_traced(current: u64) -> bool {
    if maps::follows() { is_followed(current) } else { is_named(current) }
}

/// Whether the user asked for the process of the running task.
#[inline(always)]
pub(crate) fn is_named(current: u64) -> bool {
    !maps::filters() || maps::has_process((shown(current) >> 32) as u32)
}

/// In a frame of its own, because the callers' frames have no byte to spare.
#[inline(never)]
fn is_followed(current: u64) -> bool {
    maps::has_followed((current >> 32) as u32) || is_named(current)
}

/// Writes the running task's name, NUL-padded, to `place`.
///
/// Where the kernel keeps it, as the kernel's type information has it: a helper takes longer to fetch it.
#[inline(always)]
pub(crate) fn name(place: &mut [u64; 2]) {
    let comm = maps::task_comm();
    if comm == 0 {
        // The helper pads the name and can only fail without a current task.
        // SAFETY: the helper writes the 16 bytes.
        unsafe { bpf_get_current_comm(place.as_mut_ptr().cast(), 16) };
        return;
    }
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() }.cast::<u8>();
    // SAFETY: the verifier checks that this is inside of the task's structure, which lives as long as it runs.
    let name = unsafe { task.add(comm as usize) }.cast::<u64>();
    // SAFETY: as above; the task may be renamed meanwhile.
    *place = unsafe { [name.read_volatile(), name.add(1).read_volatile()] };
}
