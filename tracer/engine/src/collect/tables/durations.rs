//! Durations per probe.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, PoisonError},
};

use tracer_common::histogram::{BUCKETS, Histogram, lower_bound_ns};

use super::Seen;
use crate::set::ProbeSet;
use faultline_plan::ProbeId;

/// How long the calls of a probe's function took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durations {
    /// The probe.
    pub id: ProbeId,
    /// Its label.
    pub label: Arc<str>,
    /// Calls.
    pub count: u64,
    /// The sum of their durations, in nanoseconds.
    pub sum_ns: u64,
    /// The longest, in nanoseconds, exactly.
    pub max_ns: u64,
    /// The buckets that are not empty, by rising duration.
    pub buckets: Vec<Bucket>,
    /// Set if the probe was not attached all the time.
    pub seen: Option<Seen>,
}

/// A bucket: durations that are not distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// The shortest, in nanoseconds.
    pub from_ns: u64,
    /// The end of the bucket, exclusive, in nanoseconds; at most an eighth more.
    pub to_ns: u64,
    /// How many durations it holds.
    pub count: u64,
}

impl Durations {
    fn new(id: ProbeId, label: Arc<str>, histogram: &Histogram) -> Self {
        let bucket = |(index, count): (usize, &u64)| Bucket {
            from_ns: lower_bound_ns(index),
            to_ns: if index + 1 < BUCKETS { lower_bound_ns(index + 1) } else { u64::MAX },
            count: *count,
        };
        let filled = histogram.buckets.iter().enumerate().filter(|(_, count)| **count != 0);
        Self {
            id,
            label,
            count: histogram.buckets.iter().sum(),
            sum_ns: histogram.sum_ns,
            max_ns: histogram.max_ns,
            buckets: filled.map(bucket).collect(),
            seen: None,
        }
    }

    /// Adds the durations of the same probe on other CPUs.
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.buckets.extend(other.buckets);
        self.buckets.sort_unstable_by_key(|bucket| bucket.from_ns);
        self.buckets.dedup_by(|next, bucket| {
            let same = next.from_ns == bucket.from_ns;
            if same {
                bucket.count += next.count;
            }
            same
        });
    }

    /// The duration, in nanoseconds, that `percent` of the calls did not exceed: the middle of its
    /// bucket, and so at most 6.25 % off. 0 if there were no calls.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        let rank = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut below = 0;
        for bucket in &self.buckets {
            below += bucket.count;
            if below >= rank {
                return bucket.middle_ns().min(self.max_ns);
            }
        }
        self.max_ns
    }
}

impl Bucket {
    fn middle_ns(&self) -> u64 {
        // The end is exclusive.
        self.from_ns + (self.to_ns - 1 - self.from_ns) / 2
    }
}

/// The durations of every probe that was called, most time first; empty for actions other than latency.
pub fn durations(set: &ProbeSet) -> Vec<Durations> {
    let Some(latencies) = &set.source.latencies else { return Vec::new() };
    let mut by_probe: BTreeMap<ProbeId, Durations> = BTreeMap::new();
    // A histogram is 2.8 KiB and mostly empty: what is kept of it is what is not.
    latencies.lock().unwrap_or_else(PoisonError::into_inner).each(|id, histogram| {
        let Some(probe) = set.plan.probes.get(id.0 as usize) else { return };
        let part = Durations::new(id, Arc::clone(&probe.label), histogram);
        match by_probe.entry(id) {
            Entry::Vacant(place) => {
                place.insert(part);
            }
            Entry::Occupied(mut whole) => whole.get_mut().add(part),
        }
    });
    let mut durations: Vec<_> = by_probe.into_values().collect();
    for durations in &mut durations {
        durations.seen = set.seen(durations.id, durations.count);
    }
    durations.sort_by(|a, b| b.sum_ns.cmp(&a.sum_ns).then_with(|| a.label.cmp(&b.label)));
    durations
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_common::histogram::bucket;

    use super::*;

    fn of(samples: &[u64]) -> Durations {
        let mut histogram = Histogram { sum_ns: 0, max_ns: 0, buckets: [0; BUCKETS] };
        for sample in samples {
            histogram.sum_ns += sample;
            histogram.max_ns = histogram.max_ns.max(*sample);
            histogram.buckets[bucket(*sample)] += 1;
        }
        Durations::new(ProbeId(0), "t:f".into(), &histogram)
    }

    proptest! {
        /// Check that what several CPUs have counted is what one would have counted.
        #[test]
        fn parts_add_up(
            one in proptest::collection::vec(1_u64..1 << 46, 0..30),
            other in proptest::collection::vec(1_u64..1 << 46, 0..30),
        ) {
            let mut sum = of(&one);
            sum.add(of(&other));
            prop_assert_eq!(sum, of(&[one, other].concat()));
        }

        /// Check that every percentile is within an eighth of the true one, from 1 ns to 19 h.
        #[test]
        fn percentiles_are_within_an_eighth(
            random in prop::collection::vec((0_u32..46, any::<u64>()), 1..200),
            percent in 0.0_f64..=100.0,
        ) {
            let mut samples: Vec<u64> = random
                .into_iter()
                .map(|(exponent, random)| (1 << exponent) | (random & ((1 << exponent) - 1)))
                .collect();
            let durations = of(&samples);
            samples.sort_unstable();
            let percent: f64 = percent;
            let rank = (samples.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
            let exact = samples[rank - 1];
            let found = durations.percentile_ns(percent);
            prop_assert!(found.abs_diff(exact) as f64 <= exact as f64 * 0.125, "{found} for {exact}");
            prop_assert_eq!(durations.count as usize, samples.len());
        }
    }

    /// Check that a duration beyond the last bucket is reported exactly.
    #[test]
    fn longest() {
        let durations = of(&[1 << 50]);
        assert_eq!(durations.percentile_ns(50.0), 1 << 50);
        assert_eq!(durations.buckets[0].from_ns, 1 << 46);
    }
}
