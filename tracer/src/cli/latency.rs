//! `faultline latency`: how long the calls of functions take, summed up in the kernel.

use std::sync::Arc;

use tracer_common::Action;

use super::{
    Failure,
    session::Session,
    summed::{self, Figures, SummedArgs},
};
use faultline_engine::{
    ProbeSet,
    collect::tables::{Durations, durations},
};
use faultline_output::{Cell, Table};

/// Show how long calls take: percentiles and a histogram per function, in the kernel
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    summed: SummedArgs,
}

const HELP: &str = "\
Examples:
  faultline latency 'libssl:SSL_read' -p 1234
  faultline latency 'libc:/^(read|write|fsync)$/' --duration 10s
  faultline latency './server:handle_*' --top 10 --json
  faultline latency 'libc:malloc' -c 'ls -R /usr/share'

A duration is the wall-clock time from a function's entry to its return. The maximum is exact;
percentiles are off by at most 6.25 %. A call that never returns (exit, longjmp, nesting deeper
than 64) has no duration; the summary counts such calls.";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    summed::run(&args.summed, Action::Latency, |session: &mut Session| {
        Ok(LatencyFigures(Arc::clone(&session.set)))
    })
}

struct LatencyFigures(Arc<ProbeSet>);

impl Figures for LatencyFigures {
    fn read(&mut self, _live: bool) -> Table {
        table(&durations(&self.0))
    }
}

fn table(rows: &[Durations]) -> Table {
    let total = || rows.iter().map(|row| Cell::Ns(row.sum_ns));
    let percentile = |percent| rows.iter().map(move |row| Cell::Ns(row.percentile_ns(percent)));
    Table::new("latency", rows.iter().map(|row| Arc::clone(&row.label)))
        .column(Some("count"), Some("calls"), rows.iter().map(|row| Cell::Number(row.count)))
        .summed()
        .seen("estimated_count", rows.iter().map(|row| row.seen))
        .column(Some("sum_ns"), None, total())
        .column(Some("p50_ns"), Some("p50"), percentile(50.0))
        .column(Some("p90_ns"), Some("p90"), percentile(90.0))
        .column(Some("p99_ns"), Some("p99"), percentile(99.0))
        .column(Some("max_ns"), Some("max"), rows.iter().map(|row| Cell::Ns(row.max_ns)))
        .column(None, Some("total"), total())
        .summed()
        .column(Some("buckets"), None, rows.iter().map(|row| Cell::Durations(row.buckets.clone())))
}

#[cfg(test)]
mod tests {
    use faultline_engine::collect::tables::Bucket;
    use faultline_output::{JsonSink, Sink as _, TextSink};
    use faultline_plan::ProbeId;

    use super::*;

    fn row(id: u32, label: &str) -> Durations {
        let buckets = vec![
            Bucket { from_ns: 1024, to_ns: 1152, count: 9 },
            Bucket { from_ns: 2048, to_ns: 2304, count: 1 },
        ];
        let label = label.into();
        Durations {
            id: ProbeId(id),
            label,
            count: 10,
            sum_ns: 12_000,
            max_ns: 2100,
            buckets,
            seen: None,
        }
    }

    /// Check that a table has its percentiles, the rest is summed up, and pictures follow as long as
    /// there is room.
    #[test]
    fn tables() {
        let table = table(&[row(0, "t:f"), row(1, "t:g")]).top(Some(1));
        let text = TextSink::new(false);
        let rows = "calls       p50       p90       p99       max     total  function\n\
                    \x20  10    1.09µs    1.09µs    2.10µs    2.10µs    12.0µs  t:f\n\
                    \x20  10                                            12.0µs  in 1 more\n";
        assert_eq!(text.table_in(&table, 5), rows);
        let whole = text.table_in(&table, usize::MAX);
        let picture = whole.strip_prefix(rows).unwrap();
        assert!(picture.starts_with("\nt:f\n    1.02µs … 1.15µs    9  ████"), "{picture}");
        assert!(!picture.contains("t:g"), "{picture}");
    }

    /// Check that a line is the contract's.
    #[test]
    fn json() {
        let mut out = Vec::new();
        JsonSink::new().table(&table(&[row(0, "l:f")]), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"type":"latency","probe":"l:f","count":10,"sum_ns":12000,"p50_ns":1087,"#,
                r#""p90_ns":1087,"p99_ns":2100,"max_ns":2100,"buckets":["#,
                r#"{"from_ns":1024,"to_ns":1152,"count":9},{"from_ns":2048,"to_ns":2304,"count":1}]}"#,
                "\n"
            )
        );
    }
}
