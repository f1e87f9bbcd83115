//! Durations of a function's calls, as a table with pictures or as JSON.

use std::io;

use serde::Serialize;

use crate::{
    counts::is_false,
    escape::shown,
    json_line,
    palette::Palette,
    seen::{SeenCount, column},
};
use faultline_engine::collect::tables::{Bucket, Durations};
use faultline_spec::units::duration_text;

/// Most columns of a bar.
const BAR_COLUMNS: usize = 40;
/// Most rows of a picture: neighbouring buckets are drawn as one until it has no more.
const MOST_ROWS: usize = 16;

/// A function's line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    so_far: bool,
    probe: &'a str,
    count: u64,
    #[serde(flatten)]
    seen: Option<SeenCount>,
    sum_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    buckets: Vec<BucketLine>,
}

#[derive(Serialize)]
struct BucketLine {
    from_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_ns: Option<u64>,
    count: u64,
}

/// Appends a line of JSON a function; `so_far` marks figures that are not the last.
///
/// # Errors
///
/// None that a duration can cause.
pub fn json_latencies(rows: &[Durations], so_far: bool, out: &mut Vec<u8>) -> io::Result<()> {
    for row in rows {
        let bucket = |bucket: &Bucket| BucketLine {
            from_ns: bucket.from_ns,
            to_ns: (bucket.to_ns != u64::MAX).then_some(bucket.to_ns),
            count: bucket.count,
        };
        let line = Line {
            r#type: "latency",
            so_far,
            probe: &row.label,
            count: row.count,
            seen: row.seen.map(SeenCount::from),
            sum_ns: row.sum_ns,
            p50_ns: row.percentile_ns(50.0),
            p90_ns: row.percentile_ns(90.0),
            p99_ns: row.percentile_ns(99.0),
            max_ns: row.max_ns,
            buckets: row.buckets.iter().map(bucket).collect(),
        };
        json_line(&line, out)?;
    }
    Ok(())
}

/// A table of durations, a line a function, and one for those of `rest` together.
pub fn latency_table(rows: &[Durations], rest: &[Durations], colour: bool) -> String {
    let Palette { dim, probe: strong, reset, .. } = Palette::new(colour);
    let all_calls: u64 = rest.iter().map(|row| row.count).sum();
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0).max(all_calls);
    let width = most.to_string().len().max("calls".len());
    let heads = ["p50", "p90", "p99", "max", "total"];
    let heads: String = heads.iter().map(|head| format!("  {head:>8}")).collect();
    let (seen_head, seen) = column(rows.iter().map(|row| row.seen));
    let mut text = format!("{dim}{:>width$}{seen_head}{heads}  function{reset}\n", "calls");
    for row in rows {
        let percentile = |percent| row.percentile_ns(percent);
        let times = [percentile(50.0), percentile(90.0), percentile(99.0), row.max_ns, row.sum_ns];
        let times: String = times.map(|ns| format!("  {:>8}", time(ns))).concat();
        let (count, seen, label) = (row.count, seen(row.seen), shown(&row.label));
        text.push_str(&format!("{count:>width$}{seen}{times}  {strong}{label}{reset}\n"));
    }
    if !rest.is_empty() {
        let total = rest.iter().fold(0_u64, |sum, row| sum.saturating_add(row.sum_ns));
        let (more, total) = (rest.len(), time(total));
        let seen = " ".repeat(seen_head.chars().count());
        text.push_str(&format!(
            "{all_calls:>width$}{seen}{:>40}  {total:>8}  {dim}in {more} more{reset}\n",
            ""
        ));
    }
    text
}

fn time(ns: u64) -> String {
    duration_text(ns).to_string()
}

/// A histogram of one function's durations, drawn in text.
pub fn latency_picture(row: &Durations, colour: bool) -> String {
    let Palette { dim, probe: strong, string: bar_colour, reset, .. } = Palette::new(colour);
    let bars = bars(row);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    let width = most.to_string().len();
    let mut text = format!("{strong}{}{reset}\n", shown(&row.label));
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
fn bars(row: &Durations) -> Vec<Bucket> {
    let (Some(first), Some(last)) = (row.buckets.first(), row.buckets.last()) else {
        return Vec::new();
    };
    // Bounds as the kernel side has them, in steps of 1, 2, 4 or 8 to a power of two.
    for every in [1, 2, 4, 8] {
        let bounds = bounds(first.from_ns, last.from_ns, every);
        if bounds.len() <= MOST_ROWS + 1 || every == 8 {
            let count = |from_ns, to_ns| {
                let inside = row
                    .buckets
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

/// Lower bounds of every so many buckets, from the one with `first_ns` to one past `last_ns`.
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

/// A bar whose length is `count` in proportion to `most`, to an eighth of a column; what is not
/// nothing is seen.
fn bar(count: u64, most: u64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (count as f64 / most as f64 * (BAR_COLUMNS * 8) as f64).round() as usize;
    let eighths = if count == 0 { 0 } else { eighths.max(1) };
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}
