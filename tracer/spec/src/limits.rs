//! Limits on how many calls are traced: `--sample 1/100` and `--rate 1000/s`.

use std::{str::FromStr, time::Duration};

use thiserror::Error;

/// A share of all calls, chosen at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    kept: u32,
    of: u32,
}

/// The most calls of a probe in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    calls: u32,
    per: Duration,
}

/// Why a share or a rate does not parse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// It is not a share.
    #[error("invalid sample: must be a share of the calls, such as `1/100`")]
    NotAShare,
    /// It is 0, or above 1.
    #[error("invalid sample: must be above 0 and at most 1, such as `1/100`")]
    ShareOutOfRange,
    /// It is not a rate.
    #[error("invalid rate: must be calls per second or minute, such as `1000/s` or `20/m`")]
    NotARate,
    /// It is 0, or so high that it limits nothing.
    #[error("invalid rate: must be from 1 to 1000000000 calls")]
    RateOutOfRange,
}

impl Sample {
    /// The calls whose random number of 32 bits is below this are kept.
    #[must_use]
    pub fn threshold(self) -> u64 {
        // At most 2^32, and never 0, which would keep none.
        ((u64::from(self.kept) << 32) / u64::from(self.of)).max(1)
    }
}

impl FromStr for Sample {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (kept, of) = text.split_once('/').ok_or(LimitError::NotAShare)?;
        let [kept, of] = [kept, of].map(|part| part.trim().parse::<u32>());
        let (Ok(kept), Ok(of)) = (kept, of) else { return Err(LimitError::NotAShare) };
        if kept == 0 || kept > of {
            return Err(LimitError::ShareOutOfRange);
        }
        Ok(Self { kept, of })
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kept, self.of)
    }
}

impl Rate {
    /// Nanoseconds between two calls at exactly this rate, rounded up so that no more calls pass than it
    /// allows.
    #[must_use]
    pub fn interval_ns(self) -> u64 {
        (self.per.as_nanos() as u64).div_ceil(u64::from(self.calls))
    }

    /// Calls that may pass at once after a pause: a tenth of the number, at least one.
    #[must_use]
    pub fn burst(self) -> u32 {
        (self.calls / 10).max(1)
    }

    /// How far calls may run ahead of the rate, in nanoseconds.
    #[must_use]
    pub fn ahead_ns(self) -> u64 {
        self.interval_ns() * u64::from(self.burst() - 1)
    }
}

impl FromStr for Rate {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (calls, unit) = text.split_once('/').ok_or(LimitError::NotARate)?;
        let per = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return Err(LimitError::NotARate),
        };
        match calls.trim().parse::<u64>() {
            Ok(calls @ 1..=1_000_000_000) => Ok(Self { calls: calls as u32, per }),
            Ok(_) => Err(LimitError::RateOutOfRange),
            Err(_) => Err(LimitError::NotARate),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = if self.per == Duration::from_secs(1) { "s" } else { "m" };
        write!(f, "{}/{unit}", self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that shares become thresholds, and anything else is refused.
    #[test]
    fn samples() {
        for (text, threshold) in
            [("1/1", 1 << 32), ("1/2", 1 << 31), ("3/4", 3 << 30), ("1/4294967295", 1)]
        {
            assert_eq!(text.parse::<Sample>().unwrap().threshold(), threshold, "{text}");
        }
        for text in ["", "1", "a/2", "1/", "0.5", "1%", "-1/2", "1/99999999999"] {
            assert_eq!(text.parse::<Sample>(), Err(LimitError::NotAShare), "{text}");
        }
        for text in ["0/5", "2/1", "0/0", "1/0"] {
            assert_eq!(text.parse::<Sample>(), Err(LimitError::ShareOutOfRange), "{text}");
        }
    }

    /// Check that rates become intervals and bursts, and anything else is refused.
    #[test]
    fn rates() {
        for (text, interval_ns, burst) in [
            ("1/s", 1_000_000_000, 1),
            ("1000/s", 1_000_000, 100),
            ("3/s", 333_333_334, 1),
            ("20/m", 3_000_000_000, 2),
            ("1000000000/s", 1, 100_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.interval_ns(), rate.burst()), (interval_ns, burst), "{text}");
            assert_eq!(rate.to_string(), text);
        }
        for text in ["", "10", "10/h", "10/ms", "x/s", "1.5/s", "-1/s"] {
            assert_eq!(text.parse::<Rate>(), Err(LimitError::NotARate), "{text}");
        }
        for text in ["0/s", "1000000001/s"] {
            assert_eq!(text.parse::<Rate>(), Err(LimitError::RateOutOfRange), "{text}");
        }
    }
}
