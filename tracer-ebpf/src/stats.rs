//! Counting: every outcome of every hit, per CPU and probe.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use tracer_common::counter::Counter;

use crate::maps;

/// Where and in whom a probe was hit.
pub(crate) struct Site {
    /// Index of the probe in the plan.
    pub(crate) probe: u32,
    /// The CPU; a uprobe program keeps it even if it sleeps.
    pub(crate) cpu: u32,
    /// Process (upper half) and task (lower half).
    pub(crate) pid_tgid: u64,
}

impl Site {
    /// The site of the running program.
    #[inline(always)]
    pub(crate) fn here(probe: u32, pid_tgid: u64) -> Self {
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        Self { probe, cpu, pid_tgid }
    }

    /// Process id.
    #[inline(always)]
    pub(crate) fn tgid(&self) -> u32 {
        (self.pid_tgid >> 32) as u32
    }
}

/// Adds to a counter of the site's probe and CPU.
///
/// The add is atomic although the slot is this CPU's own: the program can be preempted between
/// load and store by another one that counts in the same slot.
#[inline(always)]
pub(crate) fn add(site: &Site, counter: Counter, amount: u64) {
    let column = site.cpu * maps::counter_columns() + counter as u32;
    let index = column.wrapping_mul(maps::column_len()).wrapping_add(site.probe);
    if let Some(slot) = maps::COUNTERS.get_ptr_mut(index) {
        // `AtomicU64` has no `fetch_add` on this target, because it has no compare-and-swap.
        // SAFETY: the pointer is to a live, aligned array element.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(slot, amount) };
    }
}
