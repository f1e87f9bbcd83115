//! Durations as Prometheus sees them: one bucket per power of two.
//!
//! The kernel side has eight buckets per power of two, 2.8 KiB per function. Ten thousand of those, kept
//! twice and copied at every scrape, would make up most of the daemon's memory.

use std::ops::Range;

use tracer_common::histogram::{self, Histogram, lower_bound_ns};

/// The ends of the buckets, as powers of two of nanoseconds: from a microsecond to more than a minute, each
/// twice as wide as the one before. They coincide with ends of the kernel side's buckets, so nothing is
/// estimated.
const EXPONENTS: Range<u32> = 10..37;

/// Number of buckets, including the last, which has no end.
pub const BUCKETS: usize = (EXPONENTS.end - EXPONENTS.start) as usize + 1;

/// The durations of a function's calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// How many fall into each bucket: shorter than its end, but not than the end of the one before.
    buckets: [u64; BUCKETS],
}

impl From<&Histogram> for Durations {
    fn from(kernel: &Histogram) -> Self {
        let mut durations =
            Self { sum_ns: kernel.sum_ns, max_ns: kernel.max_ns, ..Self::default() };
        for (count, bucket) in kernel.buckets.iter().zip(BUCKET_OF) {
            durations.buckets[usize::from(bucket)] += count;
        }
        durations
    }
}

/// The bucket that contains each of the kernel side's.
const BUCKET_OF: [u8; histogram::BUCKETS] = {
    let mut of = [0; histogram::BUCKETS];
    let (mut index, mut bucket) = (0, 0);
    while index < of.len() {
        while bucket + 1 < BUCKETS && lower_bound_ns(index) >= end_ns(bucket) {
            bucket += 1;
        }
        of[index] = bucket as u8;
        index += 1;
    }
    of
};

/// Where a bucket ends. The last bucket has no end.
const fn end_ns(bucket: usize) -> u64 {
    1 << (EXPONENTS.start + bucket as u32)
}

impl Durations {
    /// Adds another function's.
    pub fn add(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
    }

    /// What was added since `before`, an earlier reading of the same durations.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since.sum_ns = since.sum_ns.saturating_sub(before.sum_ns);
        for (now, before) in since.buckets.iter_mut().zip(before.buckets) {
            *now = now.saturating_sub(before);
        }
        since
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The end of each bucket in seconds, and how many are in it.
    pub fn buckets(&self) -> [(f64, u64); BUCKETS] {
        std::array::from_fn(|bucket| {
            let is_last = bucket + 1 == BUCKETS;
            let end = if is_last { f64::INFINITY } else { end_ns(bucket) as f64 / 1e9 };
            (end, self.buckets[bucket])
        })
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::histogram::bucket;

    use super::*;

    /// Check that each duration is in the bucket that ends just above it, and that none is missing.
    #[test]
    fn every_duration_has_its_bucket() {
        for ns in [0, 1, 1023, 1024, 1025, 2047, 2048, 1 << 35, (1 << 36) - 1, 1 << 36, u64::MAX] {
            let mut kernel = Histogram { sum_ns: ns, max_ns: ns, buckets: [0; histogram::BUCKETS] };
            kernel.buckets[bucket(ns)] = 3;
            let durations = Durations::from(&kernel);
            let (end, count) =
                durations.buckets().into_iter().find(|(_, count)| *count != 0).unwrap();
            assert!((ns as f64) / 1e9 < end, "{ns} is not below {end}");
            assert!(ns < 1024 || ns as f64 / 1e9 >= end / 2.0 || end.is_infinite(), "{ns}: {end}");
            assert_eq!((count, durations.count()), (3, 3));
        }
    }
}
