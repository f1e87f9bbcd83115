//! The limit, as users write it.

use std::{fmt, str::FromStr};

/// How much of all CPUs probes may use, and what to do when they use more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverheadLimit {
    share: f64,
    policy: OverheadPolicy,
}

/// What to do when probes use too much.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum OverheadPolicy {
    /// Detach the costliest probes and retry them later.
    #[default]
    Detach,
    /// Attach all probes for a part of the time.
    DutyCycle,
}

/// Why a limit is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// It is not a number with a percent sign.
    #[error("expected a share of all CPUs in percent, such as `2%`, found `{0}`")]
    NoPercent(String),
    /// It is zero, or all CPUs or more.
    #[error("invalid limit `{0}`: must be above 0 % and below 100 % of all CPUs")]
    OutOfRange(String),
}

impl OverheadLimit {
    /// The share of all CPUs, as a fraction of 1.
    pub fn share(self) -> f64 {
        self.share
    }

    /// The same in percent.
    pub fn percent(self) -> f64 {
        self.share * 100.0
    }

    /// What to do above it.
    pub fn policy(self) -> OverheadPolicy {
        self.policy
    }

    /// The same limit with another policy.
    #[must_use]
    pub fn with_policy(self, policy: OverheadPolicy) -> Self {
        Self { policy, ..self }
    }
}

impl FromStr for OverheadLimit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let shown = || text.escape_debug().to_string();
        let number = text.strip_suffix('%').map(str::trim_end);
        let is_number =
            |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let percent: f64 = number
            .filter(is_number)
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| LimitError::NoPercent(shown()))?;
        if percent > 0.0 && percent < 100.0 {
            Ok(Self { share: percent / 100.0, policy: OverheadPolicy::default() })
        } else {
            Err(LimitError::OutOfRange(shown()))
        }
    }
}

impl fmt::Display for OverheadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detach => "detach",
            Self::DutyCycle => "duty-cycle",
        })
    }
}
