//! Faulting a page in, with nothing held: no claim in a ring, no per-CPU memory.
//!
//! The fault may sleep for as long as the page takes to arrive (from a disk, FUSE or userfaultfd), so the
//! task is listed in the map `FAULTS` while it waits.

use aya_ebpf::helpers::generated::{bpf_copy_from_user, bpf_ktime_get_ns, bpf_probe_read_user};
use tracer_common::{counter::Counter, record::ReadStatus, task::FaultInProgress};

use crate::{
    maps,
    stats::{self, Site},
    task,
};

/// No process maps its first page (`vm.mmap_min_addr`), so a null pointer is not worth a fault.
const FIRST_ADDRESS: u64 = 4096;

/// The eight bytes at an address, if they are resident.
#[inline(always)]
pub(crate) fn resident_word(address: u64) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: the destination is eight bytes of our stack; the helper checks the address.
    let result = unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const _) };
    (result == 0).then_some(value)
}

/// Whether the byte at an address can be read now.
#[inline(always)]
pub(crate) fn is_resident(address: u64) -> bool {
    let mut byte = 0u8;
    // SAFETY: the destination is one byte of our stack; the helper checks the address.
    unsafe { bpf_probe_read_user((&raw mut byte).cast(), 1, address as *const _) == 0 }
}

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
    let tid = task::shown(site.pid_tgid) as u32;
    let progress = FaultInProgress { address, since_ns, probe: site.probe, tid };
    // If the map is full, the only consequence is that this task is not listed while it waits.
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
