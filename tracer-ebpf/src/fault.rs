//! Faulting a page in, with nothing held: no ring-buffer reservation, no per-CPU memory.
//!
//! The fault may sleep for as long as whoever serves the page likes (a disk, FUSE, userfaultfd),
//! so the task that waits is listed in the map `FAULTS` while it does.

use aya_ebpf::helpers::generated::{bpf_copy_from_user, bpf_ktime_get_ns};
use tracer_common::{counter::Counter, record::ReadStatus, task::FaultInProgress};

use crate::{
    maps,
    stats::{self, Site},
};

/// No process maps its first page (`vm.mmap_min_addr`): a null pointer is not worth a fault.
const FIRST_ADDRESS: u64 = 4096;

/// Brings the page of `address` into memory.
///
/// # Errors
///
/// [`ReadStatus::Efault`]: it cannot be read. [`ReadStatus::Eagain`]: it may not be faulted in.
#[inline(always)]
pub(crate) fn fault_in(site: &Site, address: u64) -> Result<(), ReadStatus> {
    if address < FIRST_ADDRESS {
        return Err(ReadStatus::Efault);
    }
    if !maps::may_fault(site.tgid()) {
        return Err(ReadStatus::Eagain);
    }
    // SAFETY: the helper has no preconditions.
    let since_ns = unsafe { bpf_ktime_get_ns() };
    let progress = FaultInProgress { address, since_ns, probe: site.probe, padding: 0 };
    // A full map only means that this task cannot be named while it waits.
    let listed = maps::FAULTS.insert(&site.pid_tgid, &progress, 0).is_ok();

    let mut byte = 0u8;
    // SAFETY: the destination is one byte of our stack; the helper checks the user address.
    let result = unsafe { bpf_copy_from_user((&raw mut byte).cast(), 1, address as *const _) };

    if listed {
        let _ = maps::FAULTS.remove(&site.pid_tgid);
    }
    // SAFETY: the helper has no preconditions.
    let waited_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(since_ns);
    stats::add(site, Counter::FaultWaitNs, waited_ns);
    if result == 0 {
        stats::add(site, Counter::Faults, 1);
        Ok(())
    } else {
        Err(ReadStatus::Efault)
    }
}
