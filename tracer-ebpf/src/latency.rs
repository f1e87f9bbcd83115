//! Durations into histograms.

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::{
    counter::Counter,
    histogram::{BUCKETS, Histogram, bucket, key},
};

use crate::{
    maps::{HISTOGRAMS, NO_HISTOGRAM},
    stats::{self, Site},
    verifier,
};

/// How often setting a new maximum is retried. Another CPU only interferes by setting a maximum of its
/// own. So the maximum ends up too small only if this many smaller ones interfered one after another.
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
    // If another CPU was faster, its histogram is as good.
    let _ = HISTOGRAMS.insert(&key, empty, u64::from(BPF_NOEXIST));
    HISTOGRAMS.get_ptr_mut(&key)
}

/// Other CPUs, and programs that preempt this one, add to the same histogram.
#[inline(always)]
fn add(histogram: *mut Histogram, duration_ns: u64) {
    // SAFETY: the pointer is to a live map element.
    let buckets = unsafe { (&raw mut (*histogram).buckets).cast::<u64>() };
    // No mask: 512 buckets would not fit into the 4 KiB that the kernel allocates for 353.
    let index = verifier::at_most::<{ BUCKETS as u64 - 1 }>(bucket(duration_ns) as u64);
    // SAFETY: the index is below the number of buckets.
    let place = unsafe { buckets.add(index as usize) };
    // SAFETY: as above, and aligned.
    unsafe { verifier::atomic_add(place, 1) };
    // SAFETY: the pointer is to a live map element.
    let sum_ns = unsafe { &raw mut (*histogram).sum_ns };
    // SAFETY: as above, and aligned.
    unsafe { verifier::atomic_add(sum_ns, duration_ns) };
    // SAFETY: the pointer is to a live map element.
    let max_ns = unsafe { &raw mut (*histogram).max_ns };
    // SAFETY: as above, and aligned.
    let mut known = unsafe { max_ns.read_volatile() };
    for _ in 0..MAX_TRIES {
        if duration_ns <= known {
            break;
        }
        // SAFETY: the pointer is to a live, aligned map element.
        let found = unsafe { verifier::compare_and_swap(max_ns, known, duration_ns) };
        if found == known {
            break;
        }
        known = found;
    }
}
