//! `faultline count`: calls per function, counted in the kernel.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tracer_common::Action;

use super::{
    Failure,
    session::Session,
    summed::{self, Figures, SummedArgs},
};
use faultline_engine::{
    ProbeSet,
    collect::tables::{Calls, calls},
};
use faultline_output::{Cell, Table};
use faultline_plan::{Costs, ProbeId};

/// Count the calls of functions, in the kernel
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    summed: SummedArgs,

    /// Also show functions that were not called
    #[arg(long)]
    all: bool,
}

const HELP: &str = "\
Examples:
  faultline count 'libc:*' -c 'ls /'            which libc functions does it call, and how often?
  faultline count -p 1234 './server:*' --top 20   the busiest functions of a process, live
  faultline count 'libssl:SSL_*' --duration 10s --json
  faultline count './app:handle_*' --all --duration 1h   which handlers are never used?

A probe is TARGET:FUNCTION[+OFFSET], as for `faultline trace`. The table goes to standard output,
everything else to standard error. A pattern may match up to a million functions.";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    summed::run(&args.summed, Action::Count, |session: &mut Session| {
        Ok(CountFigures {
            set: Arc::clone(&session.set),
            costs: session.host.costs(),
            all: args.all,
            before: HashMap::new(),
            at: Instant::now(),
        })
    })
}

struct CountFigures {
    set: Arc<ProbeSet>,
    costs: Option<Costs>,
    all: bool,
    /// The calls shown last, and when.
    before: HashMap<ProbeId, u64>,
    at: Instant,
}

impl Figures for CountFigures {
    fn read(&mut self, live: bool) -> Table {
        let mut calls = calls(&self.set, self.costs.as_ref());
        if !self.all {
            calls.truncate(calls.partition_point(|calls| calls.hits != 0));
        }
        let seconds = self.at.elapsed().as_secs_f64();
        let rate = |calls: &Calls| {
            let before = self.before.get(&calls.id).copied().unwrap_or(0);
            (calls.hits - before) as f64 / seconds
        };
        let table = table(&calls, live.then_some(&rate));
        if live {
            self.before = calls.iter().map(|calls| (calls.id, calls.hits)).collect();
            self.at = Instant::now();
        }
        table
    }
}

/// The calls of functions; with `rate`, which gives those of a second, that too.
fn table(calls: &[Calls], rate: Option<&dyn Fn(&Calls) -> f64>) -> Table {
    let filtered = |calls: &Calls| match calls.filtered {
        0 => Cell::None,
        filtered => Cell::Number(filtered),
    };
    let cost = |calls: &Calls| calls.cost_ns.map_or(Cell::None, Cell::EstimatedNs);
    let mut table = Table::new("count", calls.iter().map(|calls| Arc::clone(&calls.label)))
        .column(Some("hits"), Some("calls"), calls.iter().map(|calls| Cell::Number(calls.hits)))
        .summed()
        .seen("estimated_hits", calls.iter().map(|calls| calls.seen))
        .column(Some("filtered"), None, calls.iter().map(filtered));
    if let Some(rate) = rate {
        let rates = calls.iter().map(|calls| Cell::Rate(rate(calls)));
        table = table.column(None, Some("calls/s"), rates);
    }
    if calls.iter().any(|calls| calls.cost_ns.is_some()) {
        let costs = calls.iter().map(cost);
        table = table.column(Some("estimated_cost_ns"), Some("in probes"), costs).summed();
    }
    table
}

#[cfg(test)]
mod tests {
    use faultline_output::{JsonSink, Sink as _, TextSink};

    use super::*;

    fn row(id: u32, label: &str, hits: u64) -> Calls {
        Calls { id: ProbeId(id), label: label.into(), hits, filtered: 0, cost_ns: None, seen: None }
    }

    fn text(table: &Table) -> String {
        TextSink::new(false).table_in(table, usize::MAX)
    }

    /// Check that columns line up, what is left out is summed up, and names cannot command a terminal.
    #[test]
    fn tables() {
        let rows = [
            row(0, "t:f", 1_234_567),
            row(1, "t:\u{1b}[2J", 3),
            row(2, "t:g", 2),
            row(3, "t:h", 1),
        ];
        let costly = Calls { cost_ns: Some(1_500_000), ..row(0, "t:f", 7) };
        assert_eq!(
            text(&table(&[costly, row(1, "t:g", 1)], None)),
            "calls  in probes  function\n    7    ~1.50ms  t:f\n    1          ?  t:g\n"
        );
        assert_eq!(
            text(&table(&rows, None).top(Some(2))),
            "  calls  function\n\
             1234567  t:f\n\
             \x20     3  t:\\x1b[2J\n\
             \x20     3  in 2 more\n"
        );
        assert_eq!(
            text(&table(&rows[..1], Some(&|calls| calls.hits as f64 / 2.0))),
            "  calls     calls/s  function\n1234567      617284  t:f\n"
        );
        assert_eq!(text(&table(&[], None)), "calls  function\n");
    }

    /// Check that a line is the contract's, with more only where there is more to say.
    #[test]
    fn json() {
        let mut out = Vec::new();
        let some = Calls { filtered: 2, ..row(0, "many:fn_17", 20) };
        for table in [table(&[row(0, "many:fn_17", 20)], None), table(&[some], None).so_far()] {
            JsonSink::new().table(&table, &mut out).unwrap();
        }
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
