//! Counting: every outcome of every hit, per CPU and per probe.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::counter::{Counter, timing_weight};

use crate::{
    maps::{self, Live},
    verifier,
};

/// Where a probe was hit, and in which task.
#[repr(C)]
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
/// The addition is atomic although the slot belongs to this CPU: between load and store, the program can be
/// preempted by another one that adds to the same slot.
#[inline(always)]
pub(crate) fn add(site: &Site, counter: Counter, amount: u64) {
    if let Some(slot) = slot(site, counter) {
        // SAFETY: the pointer is to a live, aligned array element.
        unsafe { verifier::atomic_add(slot, amount) };
    }
}

/// Counts a hit; how many there were before.
#[inline(always)]
pub(crate) fn count(site: &Site, counter: Counter) -> u64 {
    match slot(site, counter) {
        // SAFETY: the pointer is to a live, aligned array element.
        Some(slot) => unsafe { verifier::fetch_add(slot, 1) },
        None => 0,
    }
}

#[inline(always)]
fn slot(site: &Site, counter: Counter) -> Option<*mut u64> {
    let column = site.cpu * maps::counter_columns() + counter as u32;
    let index = column.wrapping_mul(maps::column_len()).wrapping_add(site.probe);
    maps::COUNTERS.get_ptr_mut(index)
}

/// The value of a counter of the site's probe and CPU.
#[inline(always)]
pub(crate) fn seen(site: &Site, counter: Counter) -> u64 {
    match slot(site, counter) {
        // SAFETY: the pointer is to a live, aligned array element; others change it.
        Some(slot) => unsafe { slot.read_volatile() },
        None => 0,
    }
}

/// How long the program runs, measured at some hits.
///
/// Reading the clock is about a tenth of the cost of a hit, so few hits do it twice.
#[derive(Clone, Copy)]
pub(crate) struct Timer {
    /// When it began, minus the time spent waiting for pages until then.
    since_ns: u64,
    /// How many hits this one represents; 0: it is not timed.
    weight: u64,
}

impl Timer {
    /// Begins at `now_ns`, after `before` such hits.
    ///
    /// There is no branch that the kernel's verifier would have to follow both ways to the program's end:
    /// either way, it knows nothing about the resulting numbers.
    #[inline(always)]
    pub(crate) fn begin(site: &Site, live: Live, before: u64, now_ns: u64) -> Self {
        let weight = timing_weight(before);
        let mut since_ns = before;
        if weight != 0 {
            since_ns = now_ns.wrapping_sub(seen(site, Counter::FaultWaitNs));
        }
        // SAFETY: the pointer is to a live map element.
        let zero = unsafe { live.zero().read_volatile() };
        Self { since_ns, weight: weight.wrapping_add(zero) }
    }

    /// Ends here.
    #[inline(always)]
    pub(crate) fn end(self, site: &Site) {
        if self.weight == 0 {
            return;
        }
        // SAFETY: the helper has no preconditions.
        let now_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(seen(site, Counter::FaultWaitNs));
        let ran_ns = now_ns.wrapping_sub(self.since_ns);
        // Other hits of this probe on this CPU may have waited in the meantime, so it can be negative.
        if ran_ns as i64 > 0 {
            add(site, Counter::HandlerNs, ran_ns * self.weight);
        }
    }
}
