//! The outcomes of records that reached user space, by probe and by CPU.

use std::sync::atomic::{AtomicU64, Ordering};

use faultline_plan::ProbeId;

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written to the output.
    Delivered,
    /// Lost: the output could not be written (closed, full).
    OutputLost,
    /// Left out: it arrived after the last event that the user asked for.
    AfterLimit,
    /// Lost: the record could not be decoded.
    Undecodable,
}

const OUTCOMES: usize = 4;

/// Counts of outcomes. One thread writes; any thread may read.
#[derive(Debug)]
pub struct Tally {
    by_probe: Box<[[AtomicU64; OUTCOMES]]>,
    by_cpu: Box<[[AtomicU64; OUTCOMES]]>,
    /// Records so corrupt that not even their probe is known.
    unknown: AtomicU64,
}

impl Tally {
    /// A tally for this many probes and CPUs.
    pub fn new(probes: usize, cpus: usize) -> Self {
        let rows = |count| (0..count).map(|_| Default::default()).collect();
        Self { by_probe: rows(probes), by_cpu: rows(cpus), unknown: AtomicU64::new(0) }
    }

    /// Counts a record.
    pub fn count(&self, probe: ProbeId, cpu: u16, outcome: Outcome) {
        let rows = (self.by_probe.get(probe.0 as usize), self.by_cpu.get(usize::from(cpu)));
        let (Some(probe), Some(cpu)) = rows else {
            self.count_unknown();
            return;
        };
        for row in [probe, cpu] {
            // One writer: no need for a locked add.
            let slot = &row[outcome as usize];
            slot.store(slot.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Counts a record whose probe is not known.
    pub fn count_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// The count of a probe.
    pub fn of_probe(&self, probe: ProbeId, outcome: Outcome) -> u64 {
        get(&self.by_probe, probe.0 as usize, outcome)
    }

    /// The count of a CPU.
    pub fn of_cpu(&self, cpu: usize, outcome: Outcome) -> u64 {
        get(&self.by_cpu, cpu, outcome)
    }

    /// Records whose probe is not known.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }
}

fn get(rows: &[[AtomicU64; OUTCOMES]], row: usize, outcome: Outcome) -> u64 {
    rows.get(row).map_or(0, |row| row[outcome as usize].load(Ordering::Relaxed))
}
