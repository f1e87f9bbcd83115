//! Times and sizes as people write them: `10s`, `64KiB`.
//!
//! Parsing takes a number with its unit and gives a [`Duration`] or bytes, exactly: what a unit
//! cannot hold without rounding is an error. Formatting goes the other way, and rounds, since its
//! reader wants a magnitude. Neither knows what a value is for, so limits are the caller's.

mod format;

use std::time::Duration;

pub use format::{counted, duration_text, grouped, percent_text, push_duration, size_text};

use super::text::shown;

/// Why a time or a size does not parse. Everything it quotes is safe to print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// There is no number where one was expected.
    #[error("expected a number with its unit, such as `{example}`, found `{found}`")]
    NoNumber {
        /// What stands there.
        found: String,
        /// What could.
        example: &'static str,
    },
    /// A duration is a bare number.
    #[error("a duration needs a unit: `{number}s`")]
    NoUnit {
        /// The number.
        number: String,
    },
    /// There is no such unit.
    #[error("unknown unit `{unit}` (units are {known})")]
    UnknownUnit {
        /// What stands after the number.
        unit: String,
        /// The units that there are.
        known: &'static str,
    },
    /// The value is not a whole number of nanoseconds or bytes.
    #[error("`{text}` is not a whole number of {smallest}")]
    TooFine {
        /// The value as written.
        text: String,
        /// The smallest unit.
        smallest: &'static str,
    },
    /// The value has more nanoseconds or bytes than 64 bits can count.
    #[error("`{text}` is too large")]
    TooLarge {
        /// The value as written.
        text: String,
    },
}

/// A kind of value: its units and how its errors speak.
struct Dimension {
    /// Each unit with its worth in the smallest one.
    units: &'static [(&'static str, u64)],
    known: &'static str,
    smallest: &'static str,
    example: &'static str,
}

const TIME: Dimension = Dimension {
    units: &[
        ("ns", 1),
        ("us", 1_000),
        // The micro sign and the Greek letter look the same; keyboards have either.
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60 * 1_000_000_000),
        ("h", 3_600 * 1_000_000_000),
        ("d", 86_400 * 1_000_000_000),
    ],
    known: "ns, us, ms, s, m, h, d",
    smallest: "nanoseconds",
    example: "10s",
};

const SIZE: Dimension = Dimension {
    units: &[
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ],
    known: "B, KiB, MiB, GiB, TiB, and KB, MB, GB, TB for powers of 1000",
    smallest: "bytes",
    example: "64KiB",
};

/// Reads a duration: `10s`, `500ms`, `1.5s`, `100us` or `100µs`, `10ns`, `1m`, `2h`, `1d`.
///
/// # Errors
///
/// Any [`UnitError`]; the longest duration is [`u64::MAX`] nanoseconds, 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    TIME.parse(text).map(Duration::from_nanos)
}

/// Reads a size in bytes: `4096`, `0x1000`, `64KiB`, `1.5MiB`, `64KB` (64000).
///
/// # Errors
///
/// Any [`UnitError`] but [`UnitError::NoUnit`]: a bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    if let Some(digits) = text.strip_prefix("0x")
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
    {
        // Digits alone can only be too many.
        return u64::from_str_radix(digits, 16)
            .map_err(|_| UnitError::TooLarge { text: text.to_owned() });
    }
    SIZE.parse(text)
}

impl Dimension {
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            let found = shown(text).to_string();
            return Err(UnitError::NoNumber { found, example: self.example });
        }
        let Some(&(_, worth)) = self.units.iter().find(|(name, _)| *name == unit) else {
            return Err(if unit.is_empty() {
                UnitError::NoUnit { number: number.to_owned() }
            } else {
                UnitError::UnknownUnit { unit: shown(unit).to_string(), known: self.known }
            });
        };
        let too_large = || UnitError::TooLarge { text: text.to_owned() };
        let whole = whole.parse::<u64>().map_err(|_| too_large())?;
        let part = part_of(fraction, worth)
            .ok_or(UnitError::TooFine { text: text.to_owned(), smallest: self.smallest })?;
        whole.checked_mul(worth).and_then(|sum| sum.checked_add(part)).ok_or_else(too_large)
    }
}

/// The decimal `fraction` (the digits after the point) of `worth`, if it is a whole number.
fn part_of(fraction: &str, worth: u64) -> Option<u64> {
    let digits = fraction.trim_end_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let scale = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let product = digits.parse::<u128>().ok()?.checked_mul(u128::from(worth))?;
    (product % scale == 0).then(|| u64::try_from(product / scale).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration_error(text: &str) -> String {
        parse_duration(text).unwrap_err().to_string()
    }

    fn size_error(text: &str) -> String {
        parse_size(text).unwrap_err().to_string()
    }

    /// Check that every unit of time has its worth, fractions included.
    #[test]
    fn durations() {
        for (text, ns) in [
            ("10ns", 10),
            ("100us", 100_000),
            ("100\u{b5}s", 100_000),
            ("100\u{3bc}s", 100_000),
            ("500ms", 500_000_000),
            ("10s", 10_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.000000001s", 1),
            ("1.50s", 1_500_000_000),
            ("1m", 60_000_000_000),
            ("2h", 7_200_000_000_000),
            ("0.5d", 43_200_000_000_000),
            ("0s", 0),
            ("18446744073709551615ns", u64::MAX),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    /// Check that a wrong duration says what is wrong with it.
    #[test]
    fn wrong_durations() {
        assert_eq!(duration_error("10"), "a duration needs a unit: `10s`");
        assert_eq!(duration_error("1.5"), "a duration needs a unit: `1.5s`");
        assert_eq!(
            duration_error("10sec"),
            "unknown unit `sec` (units are ns, us, ms, s, m, h, d)"
        );
        for text in ["", "s", "-1s", ".5s", "1.s", "1.2.3s", " 1s"] {
            let message = format!("expected a number with its unit, such as `10s`, found `{text}`");
            assert_eq!(duration_error(text), message);
        }
        assert_eq!(duration_error("1.5ns"), "`1.5ns` is not a whole number of nanoseconds");
        let long = format!("0.{}1s", "0".repeat(80));
        assert!(duration_error(&long).ends_with("is not a whole number of nanoseconds"));
        assert_eq!(
            duration_error("18446744073709551616ns"),
            "`18446744073709551616ns` is too large"
        );
        assert_eq!(duration_error("300000d"), "`300000d` is too large");
        assert!(duration_error("1\u{1b}[31m").starts_with(r"unknown unit `\u{1b}[31m`"));
    }

    /// Check that every unit of size has its worth, and that bare numbers are bytes.
    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0x1000", 4096),
            ("0", 0),
            ("16B", 16),
            ("64KiB", 65_536),
            ("64KB", 64_000),
            ("64kB", 64_000),
            ("1MiB", 1 << 20),
            ("1.5MiB", 3 << 19),
            ("1GiB", 1 << 30),
            ("2TB", 2_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    /// Check that a wrong size says what is wrong with it.
    #[test]
    fn wrong_sizes() {
        assert!(size_error("64K").starts_with("unknown unit `K` (units are B, KiB, MiB"));
        assert_eq!(size_error("1.3KiB"), "`1.3KiB` is not a whole number of bytes");
        assert_eq!(size_error("16777216TiB"), "`16777216TiB` is too large");
        assert_eq!(size_error("0x10000000000000000"), "`0x10000000000000000` is too large");
        assert!(size_error("0x").starts_with("unknown unit `x`"));
        assert!(size_error("KiB").starts_with("expected a number"));
    }
}
