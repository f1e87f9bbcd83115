//! Reads the eBPF programs' counters.

use std::sync::Arc;

use tracer_common::counter::{ALL, COLUMNS, Counter, ENTRIES, RETURNS};

use super::mapped::MappedArray;
use faultline_plan::{BreakpointCosts, ProbeId};

/// The counters, live. Reading them costs no system call.
#[derive(Debug, Clone)]
pub struct Counters {
    slots: Arc<MappedArray<u64>>,
    shape: CountersShape,
}

/// How the map is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountersShape {
    pub(super) cpus: usize,
    /// Counters per probe and CPU: all, or only the first, its hits.
    pub(super) columns: usize,
    /// Elements of a column: at least one per probe.
    pub(super) column_len: usize,
    pub(super) probes: usize,
}

/// One reading of a set of counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterSnapshot([u64; COLUMNS as usize]);

impl CounterSnapshot {
    /// An estimate of what the hits cost the traced programs, including our own programs' share.
    pub fn estimated_cost_ns(&self, costs: BreakpointCosts) -> u64 {
        let ends = self.total(&RETURNS) + self.total(&[Counter::ExitsPassed]);
        let hits = costs.of_hits(self.total(&ENTRIES), ends);
        hits.saturating_add(self.get(Counter::HandlerNs))
    }

    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// A reading of hits alone.
    #[cfg(any(test, feature = "testbed"))]
    #[doc(hidden)]
    pub fn of_hits(hits: u64) -> Self {
        let mut counters = [0; COLUMNS as usize];
        counters[Counter::PlainHits as usize] = hits;
        Self(counters)
    }

    /// What was counted since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        for (now, before) in since.0.iter_mut().zip(before.0) {
            *now = now.saturating_sub(before);
        }
        since
    }

    /// Hits, at entry or return, in processes that are traced.
    pub fn hits(&self) -> u64 {
        self.total(&ENTRIES) + self.total(&RETURNS)
    }

    /// Some counters, added up.
    pub fn total(&self, counters: &[Counter]) -> u64 {
        counters.iter().map(|counter| self.get(*counter)).sum()
    }

    /// Adds another reading.
    pub fn add(&mut self, other: &Self) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum += value;
        }
    }
}

impl Counters {
    pub(super) fn new(slots: MappedArray<u64>, shape: CountersShape) -> Self {
        Self { slots: Arc::new(slots), shape }
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> usize {
        self.shape.cpus
    }

    /// Number of probes.
    pub fn probes(&self) -> usize {
        self.shape.probes
    }

    /// Hits of one probe over all CPUs, at entry or return, in processes that are traced.
    pub fn hits(&self, probe: ProbeId) -> u64 {
        hit_counters().map(|counter| self.sum(probe, counter)).sum()
    }

    /// Hits of every probe, by [`ProbeId`].
    pub fn all_hits(&self) -> Vec<u64> {
        self.sums(&hit_counters().collect::<Vec<_>>())
    }

    /// Some counters of every probe, added up, by [`ProbeId`].
    pub fn sums(&self, counters: &[Counter]) -> Vec<u64> {
        // Column by column, in memory order.
        let CountersShape { cpus, columns, column_len, probes } = self.shape;
        let mut sums = vec![0; probes];
        for cpu in 0..cpus {
            for counter in counters.iter().filter(|counter| (**counter as usize) < columns) {
                let first = (cpu * columns + *counter as usize) * column_len;
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum += self.slots.load(first + index);
                }
            }
        }
        sums
    }

    /// One counter of one probe, over all CPUs.
    pub fn sum(&self, probe: ProbeId, counter: Counter) -> u64 {
        (0..self.shape.cpus).map(|cpu| self.load(cpu, probe, counter)).sum()
    }

    /// All counters of one probe on one CPU.
    pub fn read(&self, cpu: usize, probe: ProbeId) -> CounterSnapshot {
        CounterSnapshot(ALL.map(|counter| self.load(cpu, probe, counter)))
    }

    /// Adds to a counter what no program could count. Programs that count there at the same time also add
    /// atomically.
    pub(super) fn add(&self, probe: ProbeId, counter: Counter, amount: u64) {
        if (counter as usize) < self.shape.columns && (probe.0 as usize) < self.shape.probes {
            self.slots.add(self.index(0, probe, counter), amount);
        }
    }

    fn load(&self, cpu: usize, probe: ProbeId, counter: Counter) -> u64 {
        let columns = self.shape.columns;
        let counter = match counter {
            // Where only hits are counted, every hit was handled to its end.
            Counter::Aggregated if columns == 1 => Counter::PlainHits,
            counter => counter,
        };
        if counter as usize >= columns {
            return 0;
        }
        self.slots.load(self.index(cpu, probe, counter))
    }

    fn index(&self, cpu: usize, probe: ProbeId, counter: Counter) -> usize {
        let column = cpu * self.shape.columns + counter as usize;
        column * self.shape.column_len + probe.0 as usize
    }
}

/// The counters that together count every hit, once.
fn hit_counters() -> impl Iterator<Item = Counter> {
    ENTRIES.into_iter().chain(RETURNS)
}
