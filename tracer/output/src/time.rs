//! Times as text. There are thousands of events per second, so the text of a second is kept.

use crate::digits::padded;
use faultline_engine::collect::decode::WallTime;

/// Text of a second, up to and including the point before its fraction.
pub(super) type SecondText<const N: usize> = fn(u64) -> [u8; N];

/// Writes moments; `N` bytes of each are the same within a second.
#[derive(Debug)]
pub(super) struct TimeText<const N: usize> {
    text_of: SecondText<N>,
    second: u64,
    text: [u8; N],
}

impl<const N: usize> TimeText<N> {
    pub(super) fn new(text_of: SecondText<N>) -> Self {
        Self { text_of, second: 0, text: text_of(0) }
    }

    /// Appends the moment, with `DIGITS` digits of its fraction (at most 9, the rest is cut).
    pub(super) fn push<const DIGITS: usize>(&mut self, time: WallTime, out: &mut Vec<u8>) {
        let second = time.0 / 1_000_000_000;
        if second != self.second {
            (self.second, self.text) = (second, (self.text_of)(second));
        }
        out.extend_from_slice(&self.text);
        let fraction_ns = (time.0 % 1_000_000_000) as u32;
        let cut = 10_u32.pow(9_u32.saturating_sub(DIGITS as u32));
        out.extend_from_slice(&padded::<DIGITS>(fraction_ns / cut));
    }
}

const DAY_SECONDS: u64 = 86_400;

/// `2026-01-02T03:04:05.`, in UTC.
pub(super) fn utc(second: u64) -> [u8; 20] {
    let (year, month, day) = civil(second / DAY_SECONDS);
    let mut text = *b"0000-00-00T00:00:00.";
    text[..4].copy_from_slice(&padded::<4>(year));
    text[5..7].copy_from_slice(&padded::<2>(month));
    text[8..10].copy_from_slice(&padded::<2>(day));
    text[11..].copy_from_slice(&utc_of_day(second));
    text
}

/// `03:04:05.`, in UTC.
pub(super) fn utc_of_day(second: u64) -> [u8; 9] {
    let of_day = (second % DAY_SECONDS) as u32;
    of_day_text(of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

/// `03:04:05.`, in the zone of this machine or `TZ`; UTC if the C library does not know it.
pub(super) fn local_of_day(second: u64) -> [u8; 9] {
    let Ok(time) = libc::time_t::try_from(second) else { return utc_of_day(second) };
    // SAFETY: all zeros is a `tm`: it holds integers and a pointer that may be null.
    let mut tm = unsafe { std::mem::zeroed::<libc::tm>() };
    // SAFETY: both point to live values of their types.
    if unsafe { libc::localtime_r(&raw const time, &raw mut tm) }.is_null() {
        return utc_of_day(second);
    }
    of_day_text(tm.tm_hour.unsigned_abs(), tm.tm_min.unsigned_abs(), tm.tm_sec.unsigned_abs())
}

fn of_day_text(hour: u32, minute: u32, second: u32) -> [u8; 9] {
    let mut text = *b"00:00:00.";
    text[..2].copy_from_slice(&padded::<2>(hour));
    text[3..5].copy_from_slice(&padded::<2>(minute));
    text[6..8].copy_from_slice(&padded::<2>(second));
    text
}

/// Year, month and day of a day since 1970-01-01, by the proleptic Gregorian calendar (Howard
/// Hinnant's `civil_from_days`). Nanoseconds in 64 bits end in 2554, so nothing overflows.
fn civil(days: u64) -> (u32, u32, u32) {
    // Years begin in March, so that the leap day is the last of its year.
    let days = days as u32 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u32::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc_text(ns: u64) -> String {
        let mut out = Vec::new();
        TimeText::new(utc).push::<9>(WallTime(ns), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Check that known moments have their text: leap days, ends of years, the last moment.
    #[test]
    fn known_moments() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_767_225_599, "2025-12-31T23:59:59"),
            (1_767_323_045, "2026-01-02T03:04:05"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(utc_text(second * 1_000_000_000 + 6), format!("{text}.000000006"));
        }
        assert_eq!(utc_text(u64::MAX), "2554-07-21T23:34:33.709551615");
    }

    /// Check that days follow each other through centuries.
    #[test]
    fn days_follow_each_other() {
        let mut before = civil(0);
        for day in 1..213_000 {
            let after = civil(day);
            let (year, month, day) = before;
            let follows = [(year, month, day + 1), (year, month + 1, 1), (year + 1, 1, 1)];
            assert!(follows.contains(&after), "{after:?} follows {before:?}");
            assert!(after > before && after.1 <= 12 && after.2 <= 31, "{after:?}");
            before = after;
        }
    }

    /// Check that the kept text is renewed with the second, forwards and back.
    #[test]
    fn seconds_change() {
        let mut time = TimeText::new(utc_of_day);
        let mut text = |ns| {
            let mut out = Vec::new();
            time.push::<6>(WallTime(ns), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(1_999_999_999), "00:00:01.999999");
        assert_eq!(text(2_000_000_000), "00:00:02.000000");
        assert_eq!(text(1_000_001_000), "00:00:01.000001");
    }

    /// Check that local time differs from UTC by whole minutes: the zone is not known here.
    #[test]
    fn local_time() {
        let second = 1_767_323_045;
        assert_eq!(local_of_day(second)[5..], utc_of_day(second)[5..]);
    }
}
