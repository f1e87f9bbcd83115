//! The figures of a CPU.

use tracer_common::counter::{Counter, LOST};

use super::super::{Outcome, Tally};
use crate::kernel::CounterSnapshot;

/// What was counted on a CPU, over all probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuFigures {
    /// Hits.
    pub hits: u64,
    /// Events that were written.
    pub events: u64,
    /// Events and durations that were lost.
    pub lost: u64,
    /// Pages faulted in.
    pub faults: u64,
    /// Nanoseconds that tasks waited for those pages.
    pub fault_wait_ns: u64,
    /// Nanoseconds in the programs, without those waits.
    pub handler_ns: u64,
    /// An estimate, in nanoseconds, of what hits cost the traced programs. The caller adds to it, because
    /// it knows what a hit of each probe costs.
    pub cost_ns: u64,
}

impl CpuFigures {
    /// Adds what a set of probes counted on that CPU.
    pub fn add(&mut self, counters: &CounterSnapshot, tally: Option<&Tally>, cpu: usize) {
        let get = |counter| counters.get(counter);
        let of_cpu = |outcome| tally.map_or(0, |tally| tally.of_cpu(cpu, outcome));
        self.hits += counters.hits();
        self.events += of_cpu(Outcome::Delivered);
        self.lost += counters.total(&LOST)
            + of_cpu(Outcome::OutputLost)
            + of_cpu(Outcome::AfterLimit)
            + of_cpu(Outcome::Undecodable);
        self.faults += get(Counter::Faults);
        self.fault_wait_ns += get(Counter::FaultWaitNs);
        self.handler_ns += get(Counter::HandlerNs);
    }
}
