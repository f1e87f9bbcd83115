//! Figures that were counted in a part of the time only.

use serde::Serialize;

use crate::summary::Ppm;
use faultline_engine::collect::tables::Seen;

/// In a line of `count`, and of a probe in the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SeenHits {
    /// The share of the time that the probe was attached.
    attached_share: Ppm,
    /// What `hits` would be had it been attached all the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_hits: Option<u64>,
}

/// In a line of `latency`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct SeenCount {
    attached_share: Ppm,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_count: Option<u64>,
}

impl From<Seen> for SeenHits {
    fn from(seen: Seen) -> Self {
        let Seen { attached_ppm, estimated } = seen;
        Self { attached_share: Ppm::parts(attached_ppm), estimated_hits: estimated }
    }
}

impl From<Seen> for SeenCount {
    fn from(seen: Seen) -> Self {
        let Seen { attached_ppm, estimated } = seen;
        Self { attached_share: Ppm::parts(attached_ppm), estimated_count: estimated }
    }
}

/// Makes the cells of a column.
pub(super) type Cell = Box<dyn Fn(Option<Seen>) -> String>;

/// A column of estimates, or else of shares of the time, for a table in which any row has one: its
/// head, and what makes its cells.
pub(super) fn column(rows: impl Iterator<Item = Option<Seen>> + Clone) -> (String, Cell) {
    let estimates = rows.clone().flatten().filter_map(|seen| seen.estimated);
    if let Some(most) = estimates.max() {
        let width = most.to_string().len().max("estimate".len()) + 1;
        let cell = move |seen: Option<Seen>| {
            let estimate = seen.and_then(|seen| seen.estimated);
            let text = estimate.map_or_else(|| "?".to_owned(), |estimate| format!("~{estimate}"));
            format!("  {text:>width$}")
        };
        return (format!("  {:>width$}", "estimate"), Box::new(cell));
    }
    if rows.flatten().next().is_some() {
        let cell = |seen: Option<Seen>| {
            let percent = seen.map_or(100.0, |seen| f64::from(seen.attached_ppm) / 1e4);
            format!("  {:>8}", format!("{percent:.1}%"))
        };
        return (format!("  {:>8}", "attached"), Box::new(cell));
    }
    (String::new(), Box::new(|_| String::new()))
}
