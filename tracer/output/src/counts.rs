//! Calls a function, as a table or as JSON.

use std::io;

use serde::Serialize;

use crate::{
    escape::shown,
    json_line,
    palette::Palette,
    seen::{SeenHits, column},
};
use faultline_engine::collect::tables::Calls;
use faultline_spec::units::duration_text;

/// A function's line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    so_far: bool,
    probe: &'a str,
    hits: u64,
    #[serde(skip_serializing_if = "is_zero")]
    filtered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_cost_ns: Option<u64>,
    #[serde(flatten)]
    seen: Option<SeenHits>,
}

pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Appends a line of JSON a function; `so_far` marks figures that are not the last.
///
/// # Errors
///
/// None that a count can cause.
pub fn json_counts(calls: &[Calls], so_far: bool, out: &mut Vec<u8>) -> io::Result<()> {
    for Calls { label, hits, filtered, cost_ns, seen, .. } in calls {
        let line = Line {
            r#type: "count",
            so_far,
            probe: label,
            hits: *hits,
            filtered: *filtered,
            estimated_cost_ns: *cost_ns,
            seen: seen.map(SeenHits::from),
        };
        json_line(&line, out)?;
    }
    Ok(())
}

/// A table of calls, a line a function, and one for those of `rest` together.
///
/// With `rate`, which gives the calls a second of a function, it has a column for them; and one for
/// the time that the calls have spent in probes, where that is known: an estimate.
pub fn count_table(
    rows: &[Calls],
    rest: &[Calls],
    rate: Option<&dyn Fn(&Calls) -> f64>,
    colour: bool,
) -> String {
    let Palette { dim, probe: strong, reset, .. } = Palette::new(colour);
    let hits_of_rest: u64 = rest.iter().map(|calls| calls.hits).sum();
    let digits = |number: u64| number.to_string().len();
    let most = rows.first().map_or(0, |most| most.hits);
    let width = digits(most).max(digits(hits_of_rest)).max("calls".len());
    let costs = rows.iter().any(|row| row.cost_ns.is_some());
    let cost = |ns: Option<u64>| match ns {
        _ if !costs => String::new(),
        Some(ns) => format!("  {:>9}", format!("~{}", duration_text(ns))),
        None => format!("  {:>9}", "?"),
    };
    let (seen_head, seen) = column(rows.iter().map(|row| row.seen));
    let rate_head = if rate.is_some() { "     calls/s" } else { "" };
    let cost_head = if costs { "  in probes" } else { "" };
    let mut text =
        format!("{dim}{:>width$}{seen_head}{rate_head}{cost_head}  function{reset}\n", "calls");
    for row in rows {
        let rate = rate.map_or_else(String::new, |rate| format!("  {:>10.0}", rate(row)));
        let (hits, cost, label) = (row.hits, cost(row.cost_ns), shown(&row.label));
        let seen = seen(row.seen);
        text.push_str(&format!("{hits:>width$}{seen}{rate}{cost}  {strong}{label}{reset}\n"));
    }
    if !rest.is_empty() {
        let blank = if rate.is_some() { "            " } else { "" };
        let seen = " ".repeat(seen_head.chars().count());
        let cost = cost(rest.iter().filter_map(|row| row.cost_ns).reduce(u64::saturating_add));
        let more = rest.len();
        text.push_str(&format!(
            "{hits_of_rest:>width$}{seen}{blank}{cost}  {dim}in {more} more{reset}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use faultline_plan::ProbeId;

    fn row(id: u32, label: &str, hits: u64) -> Calls {
        Calls { id: ProbeId(id), label: label.into(), hits, filtered: 0, cost_ns: None, seen: None }
    }

    /// Check that columns line up, what is left out is told, and names cannot command a terminal.
    #[test]
    fn tables() {
        let rows = [row(0, "t:f", 1_234_567), row(1, "t:\u{1b}[2J", 3)];
        let rest = [row(2, "t:g", 2), row(3, "t:h", 1)];
        let costly = Calls { cost_ns: Some(1_500_000), ..row(0, "t:f", 7) };
        assert_eq!(
            count_table(&[costly, row(1, "t:g", 1)], &[], None, false),
            "calls  in probes  function\n    7    ~1.50ms  t:f\n    1          ?  t:g\n"
        );
        assert_eq!(
            count_table(&rows, &rest, None, false),
            "  calls  function\n\
             1234567  t:f\n\
             \x20     3  t:\\x1b[2J\n\
             \x20     3  in 2 more\n"
        );
        assert_eq!(
            count_table(&rows[..1], &[], Some(&|calls| calls.hits as f64 / 2.0), false),
            "  calls     calls/s  function\n1234567      617284  t:f\n"
        );
    }

    /// Check that a line is the contract's, with more only where there is more to say.
    #[test]
    fn json() {
        let mut out = Vec::new();
        json_counts(&[row(0, "many:fn_17", 20)], false, &mut out).unwrap();
        let some = Calls { filtered: 2, ..row(0, "many:fn_17", 20) };
        json_counts(&[some], true, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"type":"count","probe":"many:fn_17","hits":20}"#,
                "\n",
                r#"{"type":"count","so_far":true,"probe":"many:fn_17","hits":20,"filtered":2}"#,
                "\n"
            )
        );
    }
}
