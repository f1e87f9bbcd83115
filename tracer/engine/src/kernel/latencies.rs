//! Reads the durations that the eBPF programs sum up.

use aya::maps::{HashMap, MapData};
use tracer_common::histogram::Histogram;

use faultline_plan::ProbeId;

/// The durations of each probe's calls, live.
#[derive(Debug)]
pub struct Latencies(HashMap<MapData, u64, Histogram>);

impl Latencies {
    pub(super) fn new(histograms: HashMap<MapData, u64, Histogram>) -> Self {
        Self(histograms)
    }

    /// The durations of every probe that was called, a few CPUs at a time: a probe may be seen more than
    /// once.
    ///
    /// Takes a few microseconds per probe. Durations recorded during the read may or may not be included.
    pub fn each(&self, mut see: impl FnMut(ProbeId, &Histogram)) {
        for (key, histogram) in self.0.iter().flatten() {
            see(ProbeId((key >> 32) as u32), &histogram);
        }
    }
}
