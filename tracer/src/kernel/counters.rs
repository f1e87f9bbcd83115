//! Reads what the eBPF programs count.

use std::sync::Arc;

use tracer_common::counter::{COLUMNS, Counter};

use super::mapped::MappedArray;
use crate::plan::ProbeId;

/// The counters, live. Reading them costs no system call.
#[derive(Debug, Clone)]
pub struct Counters {
    slots: Arc<MappedArray<u64>>,
    cpus: usize,
    probes: usize,
}

/// One reading of a set of counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterSnapshot([u64; COLUMNS as usize]);

impl CounterSnapshot {
    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds another reading.
    pub fn add(&mut self, other: &Self) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum += value;
        }
    }
}

impl Counters {
    pub(super) fn new(slots: MappedArray<u64>, cpus: usize, probes: usize) -> Self {
        Self { slots: Arc::new(slots), cpus, probes }
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Number of probes.
    pub fn probes(&self) -> usize {
        self.probes
    }

    /// One counter of one probe, over all CPUs.
    pub fn sum(&self, probe: ProbeId, counter: Counter) -> u64 {
        (0..self.cpus).map(|cpu| self.load(cpu, probe, counter)).sum()
    }

    /// All counters of one probe on one CPU.
    pub fn read(&self, cpu: usize, probe: ProbeId) -> CounterSnapshot {
        CounterSnapshot(tracer_common::counter::ALL.map(|counter| self.load(cpu, probe, counter)))
    }

    fn load(&self, cpu: usize, probe: ProbeId, counter: Counter) -> u64 {
        let row = cpu * COLUMNS as usize + counter as usize;
        self.slots.load(row * self.probes + probe.0 as usize)
    }
}
