//! Durations and sizes for people to read: three figures at most, in the unit that suits.
//!
//! Both honour the width and alignment of the format string, so that tables line up.

use std::fmt::{self, Display};

const SECOND_NS: u64 = 1_000_000_000;

/// A duration, as in `512ns`, `5.12µs`, `1.20ms`, `3.4s`, `2m 3s`, `5h 10m`, `1d 2h`.
///
/// Rounded to the nearest of what is shown.
pub fn duration_text(ns: u64) -> impl Display {
    let text = duration(ns);
    fmt::from_fn(move |f| f.pad(&text))
}

/// A size, as in `512B`, `4.0KiB`, `16.0MiB`.
///
/// Rounded to the nearest of what is shown.
pub fn size_text(bytes: u64) -> impl Display {
    let text = size(bytes);
    fmt::from_fn(move |f| f.pad(&text))
}

/// A number of things, as in `1 probe`, `2 probes`.
pub fn counted<N: Copy + Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A share in percent, as in `0.02 %`, `1.4 %`, `38 %`; `<0.01 %` if there is next to nothing.
pub fn percent_text(percent: f64) -> String {
    match percent {
        _ if percent >= 9.95 => format!("{percent:.0} %"),
        _ if percent >= 0.995 => format!("{percent:.1} %"),
        _ if percent >= 0.01 || percent == 0.0 => format!("{percent:.2} %"),
        _ => "<0.01 %".to_owned(),
    }
}

/// Appends what [`duration_text`] shows, for those that write a duration an event.
pub fn push_duration(ns: u64, out: &mut Vec<u8>) {
    if ns < 1_000 {
        push_number(ns, "ns", out);
        return;
    }
    for (unit_ns, name) in [(1_000, "µs"), (1_000_000, "ms")] {
        // 999.5 and above would round to 1000: that is one of the next unit.
        if round(ns, unit_ns) < 1_000 {
            push_three_figures(ns, unit_ns, name, out);
            return;
        }
    }
    let tenths = round(ns, SECOND_NS / 10);
    if tenths < 600 {
        push_number(tenths / 10, ".", out);
        push_number(tenths % 10, "s", out);
        return;
    }
    let seconds = round(ns, SECOND_NS);
    if seconds < 3_600 {
        push_number(seconds / 60, "m ", out);
        push_number(seconds % 60, "s", out);
        return;
    }
    let minutes = round(ns, 60 * SECOND_NS);
    if minutes < 24 * 60 {
        push_number(minutes / 60, "h ", out);
        push_number(minutes % 60, "m", out);
        return;
    }
    let hours = round(ns, 3_600 * SECOND_NS);
    push_number(hours / 24, "d ", out);
    push_number(hours % 24, "h", out);
}

fn duration(ns: u64) -> String {
    let mut text = Vec::with_capacity(16);
    push_duration(ns, &mut text);
    // Only digits and units are in it.
    String::from_utf8(text).unwrap_or_default()
}

fn size(bytes: u64) -> String {
    if bytes < 1_024 {
        return format!("{bytes}B");
    }
    let mut last = String::new();
    for (power, name) in (1..).zip(["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]) {
        let unit_bytes = 1_u128 << (10 * power);
        let tenths = (u128::from(bytes) * 10 + unit_bytes / 2) / unit_bytes;
        last = format!("{}.{}{name}", tenths / 10, tenths % 10);
        if tenths < 10_240 {
            break;
        }
    }
    last
}

/// `value` in units of `unit`, rounded half up.
fn round(value: u64, unit: u64) -> u64 {
    value / unit + u64::from(value % unit >= unit.div_ceil(2))
}

/// `value` in units of `unit`, with as many decimals as make three figures. At least one unit, less
/// than a thousand.
fn push_three_figures(value: u64, unit: u64, name: &str, out: &mut Vec<u8>) {
    let hundredths = round(value, unit / 100);
    let tenths = round(value, unit / 10);
    if hundredths < 1_000 {
        push_number(hundredths / 100, ".", out);
        push_number(hundredths / 10 % 10, "", out);
        push_number(hundredths % 10, name, out);
    } else if tenths < 1_000 {
        push_number(tenths / 10, ".", out);
        push_number(tenths % 10, name, out);
    } else {
        push_number(round(value, unit), name, out);
    }
}

fn push_number(number: u64, then: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(then.as_bytes());
}

/// A number with its thousands set apart: `10,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that each magnitude has its unit and its figures.
    #[test]
    fn durations() {
        for (percent, text) in
            [(0.0, "0.00 %"), (0.001, "<0.01 %"), (0.02, "0.02 %"), (1.44, "1.4 %"), (9.96, "10 %")]
        {
            assert_eq!(percent_text(percent), text);
        }
        for (ns, text) in [
            (0, "0ns"),
            (512, "512ns"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (5_120, "5.12µs"),
            (51_240, "51.2µs"),
            (512_400, "512µs"),
            (1_200_000, "1.20ms"),
            (3_400_000_000, "3.4s"),
            (59_900_000_000, "59.9s"),
            (123_000_000_000, "2m 3s"),
            (18_600_000_000_000, "5h 10m"),
            (93_600_000_000_000, "1d 2h"),
            (u64::MAX, "213504d 0h"),
        ] {
            assert_eq!(duration_text(ns).to_string(), text);
        }
    }

    /// Check that rounding up to the next unit is written in that unit.
    #[test]
    fn rounding_carries_into_the_next_unit() {
        for (ns, text) in [
            (9_994, "9.99µs"),
            (9_995, "10.0µs"),
            (99_950, "100µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (999_500_000, "1.0s"),
            (59_950_000_000, "1m 0s"),
            (119_500_000_000, "2m 0s"),
            (3_599_500_000_000, "1h 0m"),
            (86_399_000_000_000, "1d 0h"),
        ] {
            assert_eq!(duration_text(ns).to_string(), text);
        }
        assert_eq!(size_text((1 << 20) - 1).to_string(), "1.0MiB");
    }

    /// Check that sizes have one decimal, and bytes none.
    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.0KiB"),
            (1_536, "1.5KiB"),
            (16 << 20, "16.0MiB"),
            (5 << 40, "5.0TiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(size_text(bytes).to_string(), text);
        }
    }

    /// Check that both line up in a table.
    #[test]
    fn widths_are_honoured() {
        assert_eq!(format!("[{:>8}]", duration_text(5_120)), "[  5.12µs]");
        assert_eq!(format!("[{:<8}]", size_text(512)), "[512B    ]");
    }

    /// Check that thousands are set apart.
    #[test]
    fn grouped_digits() {
        let numbers = [0, 12, 123, 1_234, 123_456, 1_048_576];
        let expected = ["0", "12", "123", "1,234", "123,456", "1,048,576"];
        assert_eq!(numbers.map(grouped), expected);
    }
}
