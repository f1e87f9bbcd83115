//! Section `[overhead]`.

use serde::{Deserialize, Deserializer, de::Error as _};

use faultline_engine::limiter::{OverheadLimit, OverheadPolicy};

/// The word for no limit.
const OFF: &str = "off";
/// The default limit.
const DEFAULT: &str = "2%";

/// Section `[overhead]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overhead {
    /// The share of all CPUs that probes may take; none if it is `off`.
    #[serde(deserialize_with = "limit")]
    pub max: Option<OverheadLimit>,
    /// What happens above the limit.
    pub policy: OverheadPolicy,
}

impl Default for Overhead {
    fn default() -> Self {
        Self { max: DEFAULT.parse().ok(), policy: OverheadPolicy::default() }
    }
}

impl Overhead {
    /// The limit with its policy.
    pub fn limit(&self) -> Option<OverheadLimit> {
        self.max.map(|max| max.with_policy(self.policy))
    }
}

fn limit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OverheadLimit>, D::Error> {
    let text = String::deserialize(from)?;
    if text == OFF {
        return Ok(None);
    }
    let wrong = |error| D::Error::custom(format!("{error} (or `off` for no limit)"));
    text.parse().map(Some).map_err(wrong)
}
