//! Histograms for people, drawn in text.

use crate::{escape::shown, palette::Palette};
use faultline_engine::collect::tables::Bucket;
use faultline_spec::units::duration_text;

/// Most columns of a bar.
const BAR_COLUMNS: usize = 40;
/// Most rows of a picture: neighbouring buckets are drawn as one until it has no more.
const MOST_ROWS: usize = 16;

/// A histogram of one function's durations.
pub(super) fn durations(label: &str, buckets: &[Bucket], palette: Palette) -> String {
    let Palette { dim, probe: strong, string: bar_colour, reset, .. } = palette;
    let bars = bars(buckets);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    let width = most.to_string().len();
    let time = |ns| duration_text(ns).to_string();
    let mut text = format!("{strong}{}{reset}\n", shown(label));
    for Bucket { from_ns, to_ns, count } in bars {
        let (from, to) = (time(from_ns), if to_ns == u64::MAX { "…".into() } else { time(to_ns) });
        let bar = bar(count, most);
        let row = format!("  {dim}{from:>8} … {to:<8}{reset}  {count:>width$}");
        let bar = if count == 0 { bar } else { format!("  {bar_colour}{bar}{reset}") };
        text.push_str(&format!("{row}{bar}\n"));
    }
    text
}

/// The rows of a picture: buckets of equal logarithmic width from the first to the last that is not
/// empty, as fine as the rows allow.
fn bars(buckets: &[Bucket]) -> Vec<Bucket> {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else {
        return Vec::new();
    };
    // Bounds as the kernel side has them, in steps of 1, 2, 4 or 8 to a power of two.
    for every in [1, 2, 4, 8] {
        let bounds = bounds(first.from_ns, last.from_ns, every);
        if bounds.len() <= MOST_ROWS + 1 || every == 8 {
            let count = |from_ns, to_ns| {
                let inside = buckets
                    .iter()
                    .filter(|bucket| bucket.from_ns >= from_ns && bucket.from_ns < to_ns);
                inside.map(|bucket| bucket.count).sum()
            };
            return bounds
                .windows(2)
                .map(|pair| Bucket {
                    from_ns: pair[0],
                    to_ns: pair[1],
                    count: count(pair[0], pair[1]),
                })
                .collect();
        }
    }
    Vec::new()
}

/// Lower bounds of every `every`th bucket, from the one with `first_ns` to one past `last_ns`.
fn bounds(first_ns: u64, last_ns: u64, every: usize) -> Vec<u64> {
    use tracer_common::histogram::{BUCKETS, bucket, lower_bound_ns};
    let mut index = bucket(first_ns) / every * every;
    let mut bounds = vec![lower_bound_ns(index)];
    while bounds.last().is_some_and(|bound| *bound <= last_ns) {
        index += every;
        bounds.push(if index < BUCKETS { lower_bound_ns(index) } else { u64::MAX });
    }
    bounds
}

/// A bar of a length proportional to `count`, to an eighth of a column; at least one if not 0.
fn bar(count: u64, most: u64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (count as f64 / most as f64 * (BAR_COLUMNS * 8) as f64).round() as usize;
    let eighths = if count == 0 { 0 } else { eighths.max(1) };
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}
