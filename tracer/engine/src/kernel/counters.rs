//! Reads the eBPF programs' counters.

use std::{fs, io, num::NonZeroUsize, sync::Arc};

use tracer_common::counter::{ALL, COLUMNS, Counter, ENTRIES, RETURNS};

use super::{KernelError, mapped::MappedArray, programs::map_error};
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

/// Elements of a column of `COUNTERS`. No cache line, nor the pair of lines that some CPUs fetch at once,
/// may hold counters of two CPUs: they would slow each other down.
pub(super) fn column_len(probes: u32) -> u32 {
    const CACHE_LINES: u32 = 128 / size_of::<u64>() as u32;
    probes.max(1).next_multiple_of(CACHE_LINES)
}

/// Elements of `COUNTERS`.
pub(super) fn counters_len(cpus: usize, columns: u32, column: u32) -> Result<u32, KernelError> {
    let len = u64::try_from(cpus).unwrap_or(u64::MAX).saturating_mul(u64::from(columns));
    u32::try_from(len.saturating_mul(u64::from(column)))
        .map_err(|_| io::Error::other(format!("{column} probes on {cpus} CPUs are too many")))
        .map_err(map_error("size", "COUNTERS"))
}

/// Number of CPUs that can ever come online: the programs index by the id of the CPU they run on.
pub(super) fn cpus() -> Result<usize, KernelError> {
    one_more_than_highest("possible")
}

/// One more than the highest id of a CPU that is online now. One that comes online later may have a higher id.
pub(super) fn highest_online() -> Result<usize, KernelError> {
    one_more_than_highest("online")
}

fn one_more_than_highest(list: &str) -> Result<usize, KernelError> {
    let text = fs::read_to_string(format!("/sys/devices/system/cpu/{list}"))
        .map_err(map_error("size", "COUNTERS"))?;
    highest_cpu(&text)
        .map(NonZeroUsize::get)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
        .map_err(map_error("size", "COUNTERS"))
}

/// CPUs that are in use.
pub fn online_cpus() -> usize {
    // SAFETY: the call has no preconditions.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).unwrap_or(1).max(1)
}

/// One more than the highest id in a list such as `0-3,8-11`.
fn highest_cpu(list: &str) -> Option<NonZeroUsize> {
    let last = list.trim().rsplit([',', '-']).next()?;
    NonZeroUsize::new(last.parse::<usize>().ok()? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that counters of two CPUs share no cache line, however few the probes, and that each probe has
    /// its own. They once shared one, and slowed each other down.
    #[test]
    fn counters_of_two_cpus_share_no_cache_line() {
        for probes in [0, 1, 2, 16, 17, 10_000] {
            let bytes = column_len(probes) as usize * size_of::<u64>();
            assert!(bytes.is_multiple_of(128) && bytes >= 8 * probes as usize, "{probes}: {bytes}");
        }
    }

    /// Check that the number of CPUs is one more than the highest id, whatever form the list has.
    #[test]
    fn cpu_lists() {
        for (list, cpus) in [("0\n", 1), ("0-3\n", 4), ("0-3,8-11", 12), ("0,2", 3)] {
            assert_eq!(highest_cpu(list).map(NonZeroUsize::get), Some(cpus), "{list}");
        }
        assert_eq!(highest_cpu(""), None);
    }
}
