//! Reads the durations that the eBPF programs sum up.

use aya::maps::{HashMap, MapData};
use tracer_common::histogram::{BUCKETS, Histogram};

use faultline_plan::ProbeId;

/// The durations of each probe's calls, live.
#[derive(Debug)]
pub struct Latencies(HashMap<MapData, u64, Histogram>);

impl Latencies {
    pub(super) fn new(histograms: HashMap<MapData, u64, Histogram>) -> Self {
        Self(histograms)
    }

    /// The durations of every probe that was called, summed over all CPUs.
    ///
    /// Takes a few microseconds per probe. Durations recorded during the read may or may not be included.
    pub fn read(&self) -> Vec<(ProbeId, Histogram)> {
        let mut by_probe = std::collections::BTreeMap::new();
        self.each(|id, histogram| {
            let sum = by_probe.entry(id).or_insert(Histogram {
                sum_ns: 0,
                max_ns: 0,
                buckets: [0; BUCKETS],
            });
            sum.sum_ns = sum.sum_ns.saturating_add(histogram.sum_ns);
            sum.max_ns = sum.max_ns.max(histogram.max_ns);
            for (sum, count) in sum.buckets.iter_mut().zip(histogram.buckets) {
                *sum += count;
            }
        });
        by_probe.into_iter().collect()
    }

    /// The same, a few CPUs at a time: a probe may be seen more than once.
    pub fn each(&self, mut see: impl FnMut(ProbeId, &Histogram)) {
        for (key, histogram) in self.0.iter().flatten() {
            see(ProbeId((key >> 32) as u32), &histogram);
        }
    }
}
