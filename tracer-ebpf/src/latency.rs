//! Durations into histograms.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::{
    counter::Counter,
    histogram::{BUCKETS, Histogram, bucket, key},
};

use crate::{
    maps::{HISTOGRAMS, NO_HISTOGRAM},
    stats::{self, Site},
};

/// How often a new maximum is tried to be set. Another CPU gets in between only with a maximum of
/// its own, so it is not less than the last that was tried unless all this many were smaller.
const MAX_TRIES: u32 = 16;

/// Puts the duration of a call into its probe's histogram.
#[inline(always)]
pub(crate) fn record(site: &Site, duration_ns: u64) {
    let outcome = match histogram(site) {
        Some(histogram) => {
            add(histogram, duration_ns);
            Counter::Aggregated
        }
        None => Counter::NoMemory,
    };
    stats::add(site, outcome, 1);
}

#[inline(always)]
fn histogram(site: &Site) -> Option<*mut Histogram> {
    let key = key(site.probe, site.cpu);
    if let Some(histogram) = HISTOGRAMS.get_ptr_mut(&key) {
        return Some(histogram);
    }
    let empty = NO_HISTOGRAM.get(0)?;
    // Who was faster has made it just as well.
    let _ = HISTOGRAMS.insert(&key, empty, u64::from(BPF_NOEXIST));
    HISTOGRAMS.get_ptr_mut(&key)
}

/// Other CPUs and programs that preempt this one add to the same histogram.
#[inline(always)]
fn add(histogram: *mut Histogram, duration_ns: u64) {
    // SAFETY: the pointer is to a live map element.
    let buckets = unsafe { (&raw mut (*histogram).buckets).cast::<u64>() };
    let index = bounded(bucket(duration_ns));
    // SAFETY: the index is below the number of buckets.
    let place = unsafe { buckets.add(index) };
    // SAFETY: as above, and aligned.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(place, 1) };
    // SAFETY: the pointer is to a live map element.
    let sum_ns = unsafe { &raw mut (*histogram).sum_ns };
    // SAFETY: as above, and aligned.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum_ns, duration_ns) };
    // SAFETY: the pointer is to a live map element.
    let max_ns = unsafe { &raw mut (*histogram).max_ns };
    // SAFETY: as above, and aligned.
    let mut known = unsafe { max_ns.read_volatile() };
    for _ in 0..MAX_TRIES {
        if duration_ns <= known {
            break;
        }
        // SAFETY: the pointer is to a live, aligned map element.
        let found = unsafe { compare_and_swap(max_ns, known, duration_ns) };
        if found == known {
            break;
        }
        known = found;
    }
}

/// The index, as the verifier wants it: compared right before it is used.
#[inline(always)]
fn bounded(index: usize) -> usize {
    let mut index = index;
    // SAFETY: the instruction only reads its operand; it keeps the compiler from moving the
    // comparison.
    unsafe { asm!("{0} = {0}", inout(reg) index, options(pure, nomem, nostack)) };
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// Writes `new` where `old` stands; what stood there before.
///
/// # Safety
///
/// `place` is a live, aligned map element.
#[inline(always)]
unsafe fn compare_and_swap(place: *mut u64, old: u64, new: u64) -> u64 {
    let found: u64;
    // SAFETY: as the caller promises; the instruction takes and gives in r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place,
            new = in(reg) new,
            inout("r0") old => found,
            options(nostack),
        );
    }
    found
}
