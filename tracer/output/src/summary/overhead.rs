//! What an overhead budget did.

use serde::{Serialize, Serializer};

use super::Millis;

/// What an overhead budget did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Overhead {
    /// The limit: a share of all CPUs.
    pub max_percent: Ppm,
    /// What happens above the limit.
    pub policy: String,
    /// What the probes took on average, including attaching for the budget: an estimate, from what a
    /// hit costs on this machine.
    pub mean_percent: Ppm,
    /// The highest value that was seen.
    pub peak_percent: Ppm,
    /// CPU time spent on attaching and detaching for the budget.
    pub attach_work_ms: Millis,
    /// How often it was exceeded and acted on.
    pub exceeded: u64,
    /// Probes that were detached; one counts each time.
    pub detached: u64,
    /// Probes that were attached again.
    pub attached_again: u64,
    /// Probes that were detached at the end.
    pub away: u64,
    /// With the duty cycle: the share of the time in which the probes were attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_share: Option<Ppm>,
}

/// A number in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ppm(u64);

impl Ppm {
    /// A share of 1, in percent.
    #[must_use]
    pub fn percent(share: f64) -> Self {
        Self::share(share * 100.0)
    }

    /// A share of 1.
    #[must_use]
    pub fn share(share: f64) -> Self {
        Self((share * 1e6).round() as u64)
    }

    /// From millionths.
    #[must_use]
    pub fn parts(ppm: u32) -> Self {
        Self(u64::from(ppm))
    }

    pub(crate) fn number(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Serialize for Ppm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.number())
    }
}
