//! What a run counted: the last line of its output, or the last words to people.
//!
//! Takes figures that are final, counted after the last probe was detached; gives one line of JSON
//! (through [`json_line`](crate::json_line)) or some lines of text. It must not correct anything:
//! where figures do not add up, [`Summary::is_conserved`] says so, and the text does too.

mod overhead;
#[cfg(test)]
mod tests;

use std::{ops::AddAssign, time::Duration};

use serde::{Serialize, Serializer};

pub use self::overhead::{Overhead, Ppm};
use faultline_engine::collect::tables::Seen;

/// What a run counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "summary")]
pub struct Summary {
    /// In total.
    #[serde(flatten)]
    pub counts: Counts,
    /// By probe: those with hits. Empty if each has a line of its own before the summary.
    pub probes: Vec<ProbeSummary>,
    /// By CPU: those with hits.
    pub per_cpu: Vec<CpuSummary>,
    /// CPUs that the machine has, with hits or without.
    pub cpus: u32,
    /// How the probes were attached.
    pub attach: Attach,
    /// How they were detached.
    pub detach: Detach,
    /// Functions that match a probe and were not probed.
    pub skipped: Vec<SkippedProbe>,
    /// What works differently on this kernel, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the overhead budget did, if there was one.
    #[serde(rename = "overhead", skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
    /// How the traced command ended, if there was one and it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandEnd>,
    /// Why the run ended, in words: `the command ended`, `--duration is over`, …
    pub stopped_by: String,
    /// How long the probes were counting.
    pub duration_ms: Millis,
}

/// Where the hits went, and how their reads ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Entries and returns.
    pub hits: u64,
    /// Delivered to the user.
    pub delivered: u64,
    /// Excluded by the condition.
    pub filtered: u64,
    /// Left out by sampling.
    pub sampled_out: u64,
    /// Left out by the rate limit.
    pub throttled: u64,
    /// Lost.
    pub dropped: Dropped,
    /// Reads of memory.
    pub reads: Reads,
    /// Of the filtered hits, those with a value in the condition that could not be read.
    pub filtered_undecided: u64,
    /// Pages that were not resident when a probe read them.
    pub faults: Faults,
    /// Calls whose return is traced.
    pub returns: Returns,
    /// What the hits cost the traced programs.
    pub cost: Cost,
}

/// What hits cost the traced programs, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Spent in the eBPF programs, without waits for pages, measured at some of the hits. 0 if they
    /// only count, which costs next to nothing.
    pub handler_ns: u64,
    /// All of it, the breakpoints included: hits times what one costs on this machine, and
    /// `handler_ns`. An estimate; 0 if the cost of a hit was not measured.
    pub estimated_ns: u64,
}

/// Hits that were lost, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// No room in the ring buffer.
    pub ring_full: u64,
    /// The output could not be written.
    pub output: u64,
    /// Arrived after the last event that was requested.
    pub after_limit: u64,
    /// A return whose entry was not seen.
    pub no_entry: u64,
    /// The record could not be decoded. Its probe and CPU may be unknown.
    pub undecodable: u64,
    /// A duration for which the kernel had no memory.
    pub no_memory: u64,
    /// Still in its handler, or in the ring buffer, when the run ended without waiting.
    pub abandoned: u64,
}

/// Reads of memory, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reads {
    /// The memory was resident.
    pub resident: u64,
    /// A page had to be faulted in first.
    pub faulted: u64,
    /// Read, and cut at the limit.
    pub truncated: u64,
    /// Not read.
    pub failed: u64,
    /// The same, by reason.
    pub failed_by_errno: FailedByErrno,
}

/// Failed reads by errno; those that did not occur are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct FailedByErrno {
    /// The memory is not mapped, or not readable.
    #[serde(skip_serializing_if = "is_zero")]
    pub efault: u64,
    /// The length is negative.
    #[serde(skip_serializing_if = "is_zero")]
    pub einval: u64,
    /// The page is not resident and was not faulted in.
    #[serde(skip_serializing_if = "is_zero")]
    pub eagain: u64,
}

/// Page faults that probes took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Pages faulted in.
    pub count: u64,
    /// Nanoseconds that traced programs waited for them.
    pub wait_ns: u64,
}

/// Calls whose return is traced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Returns {
    /// Calls whose return was awaited.
    pub opened: u64,
    /// Those that returned.
    pub returned: u64,
    /// Those that never will: left by a jump, or their thread is gone.
    pub lost: u64,
    /// Those that had not returned when the run ended.
    pub unfinished: u64,
}

/// The figures of one probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProbeSummary {
    /// Its label.
    pub probe: String,
    /// Its figures.
    #[serde(flatten)]
    pub counts: Counts,
    /// Set if it was not attached all the time.
    #[serde(flatten)]
    pub seen: Option<SeenHits>,
}

/// A figure of a probe that was counted in a part of the time only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SeenHits {
    /// The share of the time that the probe was attached.
    attached_share: Ppm,
    /// What `hits` would be had it been attached all the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_hits: Option<u64>,
}

impl From<Seen> for SeenHits {
    fn from(seen: Seen) -> Self {
        let Seen { attached_ppm, estimated } = seen;
        Self { attached_share: Ppm::parts(attached_ppm), estimated_hits: estimated }
    }
}

/// The figures of one CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuSummary {
    /// Its number.
    pub cpu: u32,
    /// Its figures.
    #[serde(flatten)]
    pub counts: Counts,
}

/// How the probes were attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Attach {
    /// Probes that were attached.
    pub probes: u64,
    /// Links to the kernel that they needed.
    pub links: u64,
    /// Functions that were not probed.
    pub skipped: u64,
    /// The whole time.
    pub ms: Millis,
    /// The file that took longest, where there was more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest: Option<SlowestFile>,
}

/// The file that took longest to attach to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SlowestFile {
    /// Its path.
    pub file: String,
    /// Its share of the time.
    pub ms: Millis,
}

/// How the probes were detached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Detach {
    /// The whole time, including the kernel's grace period.
    pub ms: Millis,
    /// The grace period: the time of the link that was released fastest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<Millis>,
}

/// A function that matches a probe and was not probed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SkippedProbe {
    /// Its label.
    pub probe: String,
    /// Why.
    pub reason: String,
}

/// How the traced command ended: `{"exit_code":0}` or `{"signal":9}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CommandEnd {
    /// By itself, with this status.
    #[serde(rename = "exit_code")]
    Code(i32),
    /// By a signal.
    #[serde(rename = "signal")]
    Signal(i32),
}

/// A duration that is shown as milliseconds, exact to a microsecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub Duration);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let us = (self.0 + Duration::from_nanos(500)).as_micros();
        // 285 years fit into the 53 bits that a double has for microseconds.
        serializer.serialize_f64(us as f64 / 1_000.0)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Summary {
    /// Whether nothing is missing: all hits are accounted for, reads add up, and the figures by probe
    /// and by CPU add up to the total.
    ///
    /// A record that cannot be decoded is known to be lost, but its probe and CPU may not be: as many
    /// hits may be unaccounted for there.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.counts.is_conserved()
            && (self.probes.is_empty()
                || self.is_sum_of(self.probes.iter().map(|probe| &probe.counts)))
            && self.is_sum_of(self.per_cpu.iter().map(|cpu| &cpu.counts))
    }

    /// Removes the figures by probe, which have been shown elsewhere, after checking that they add up.
    pub fn check_probes(&mut self) {
        if !self.is_conserved() {
            tracing::error!("the figures by probe do not add up: {:?}", self.probes);
        }
        self.probes.clear();
    }

    fn is_sum_of<'a>(&self, parts: impl Iterator<Item = &'a Counts>) -> bool {
        let mut sum = Counts::default();
        for part in parts {
            if part.accounted() > u128::from(part.hits) || !part.reads.is_conserved() {
                return false;
            }
            sum += *part;
        }
        let total = &self.counts;
        // Undecodable records of no known part are the only difference allowed.
        let undecodable = sum.dropped.undecodable <= total.dropped.undecodable;
        sum.dropped.undecodable = total.dropped.undecodable;
        undecodable
            && sum.is_conserved()
            && (sum.hits, sum.delivered, sum.dropped, sum.reads)
                == (total.hits, total.delivered, total.dropped, total.reads)
    }
}

impl Counts {
    /// Whether all hits are accounted for, and reads add up.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.accounted() == u128::from(self.hits) && self.reads.is_conserved()
    }

    /// Hits that are unaccounted for. 0, unless the run ended without waiting.
    #[must_use]
    pub fn unaccounted(&self) -> u64 {
        let unaccounted = u128::from(self.hits).saturating_sub(self.accounted());
        u64::try_from(unaccounted).unwrap_or(u64::MAX)
    }

    fn accounted(&self) -> u128 {
        let kept = [self.delivered, self.filtered, self.sampled_out, self.throttled];
        kept.into_iter().map(u128::from).sum::<u128>() + u128::from(self.dropped.total())
    }
}

impl Dropped {
    /// All hits that were lost.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { ring_full, output, after_limit, no_entry, undecodable, no_memory, abandoned } =
            *self;
        [ring_full, output, after_limit, no_entry, undecodable, no_memory, abandoned]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Reads {
    /// All reads.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.resident, self.faulted, self.truncated, self.failed]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Whether each failed read has its reason.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        let FailedByErrno { efault, einval, eagain } = self.failed_by_errno;
        self.failed == [efault, einval, eagain].into_iter().fold(0, u64::saturating_add)
    }
}

/// Implements `+=` field by field. A struct with another field does not compile until it is added.
macro_rules! add_fields {
    ($($name:ident { $($field:ident),+ })+) => {$(
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                let Self { $($field),+ } = other;
                $(self.$field += $field;)+
            }
        }
    )+};
}

add_fields! {
    Counts {
        hits, delivered, filtered, filtered_undecided, sampled_out, throttled, dropped, reads, faults,
        returns, cost
    }
    Dropped { ring_full, output, after_limit, no_entry, undecodable, no_memory, abandoned }
    Reads { resident, faulted, truncated, failed, failed_by_errno }
    FailedByErrno { efault, einval, eagain }
    Faults { count, wait_ns }
    Returns { opened, returned, lost, unfinished }
    Cost { handler_ns, estimated_ns }
}
