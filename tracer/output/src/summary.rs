//! What a run counted: the last line of its output, or the last words to people.
//!
//! Takes figures that are final, counted after the last probe was detached; gives one line of JSON
//! (through [`json_line`](crate::json_line)) or some lines of text. It must not correct anything:
//! where figures do not add up, [`Summary::is_conserved`] says so, and the text does too.

mod caveat;
mod children;
mod counts;
mod death;
mod overhead;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Serialize, Serializer};

use self::counts::Accounted as _;
pub use self::{
    caveat::ProbeCaveat,
    children::Children,
    counts::{Cost, Counts, Dropped, FailedByErrno, Faults, OfKernel, Reads, Returns},
    death::Death,
    overhead::{Overhead, Ppm},
};
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
    /// Traced processes that died of a signal while they were probed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deaths: Vec<Death>,
    /// What is to be known about the hits of some probes: above all why there were none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<ProbeCaveat>,
    /// What works differently on this kernel, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the overhead budget did, if there was one.
    #[serde(rename = "overhead", skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
    /// What became of children that traced processes have forked, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Children>,
    /// How the traced command ended, if there was one and it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandEnd>,
    /// Why the run ended, in words: `the command ended`, `--duration is over`, …
    pub stopped_by: String,
    /// How long the probes were counting.
    pub duration_ms: Millis,
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
    /// How returns were watched, if any were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns: Option<ReturnsWatched>,
    /// The whole time.
    pub ms: Millis,
    /// The file that took longest, where there was more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest: Option<SlowestFile>,
}

/// How many functions' returns were watched in each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReturnsWatched {
    /// At the functions' own `ret` instructions.
    pub ret: u64,
    /// By the kernel's return probe, which replaces the return address.
    pub uretprobe: u64,
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
