//! `faultline count`: calls a function, counted in the kernel.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tracer_common::Action;

use super::{
    Failure,
    session::Session,
    summed::{self, Figures, SummedArgs, split},
};
use faultline_engine::{
    ProbeSet,
    collect::tables::{Calls, calls},
};
use faultline_output::{count_table, json_counts};
use faultline_plan::{Costs, ProbeId};

/// Count the calls of functions, in the kernel
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    summed: SummedArgs,

    /// Show functions that were not called, too
    #[arg(long)]
    all: bool,
}

const HELP: &str = "\
Examples:
  faultline count 'libc:*' -c 'ls /'            which functions of libc does it call, how often?
  faultline count -p 1234 './server:*' --top 20   the busiest functions of a process, live
  faultline count 'libssl:SSL_*' --duration 10s --json
  faultline count './app:handle_*' --all --duration 1h   which handlers are never used?

A probe is TARGET:FUNCTION[+OFFSET], as for `faultline trace`. The table goes to standard output,
everything else to standard error. There may be a million functions.";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    summed::run(&args.summed, Action::Count, |session: &mut Session, colour| {
        Ok(Box::new(CountFigures {
            set: Arc::clone(&session.set),
            costs: session.host.costs(),
            top: args.summed.top,
            all: args.all,
            colour,
            before: HashMap::new(),
            at: Instant::now(),
        }))
    })
}

struct CountFigures {
    set: Arc<ProbeSet>,
    costs: Option<Costs>,
    top: Option<usize>,
    all: bool,
    colour: bool,
    /// The calls that were shown last, and when.
    before: HashMap<ProbeId, u64>,
    at: Instant,
}

impl CountFigures {
    fn read(&self) -> Vec<Calls> {
        let mut calls = calls(&self.set, self.costs.as_ref());
        if !self.all {
            calls.truncate(calls.partition_point(|calls| calls.hits != 0));
        }
        calls
    }
}

impl Figures for CountFigures {
    fn json(&mut self, so_far: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
        let calls = self.read();
        json_counts(split(&calls, self.top, usize::MAX).0, so_far, out)
    }

    fn live(&mut self, lines: usize) -> String {
        let calls = self.read();
        let seconds = self.at.elapsed().as_secs_f64();
        let rate = |calls: &Calls| {
            let before = self.before.get(&calls.id).copied().unwrap_or(0);
            (calls.hits - before) as f64 / seconds
        };
        // Two for the head and for what is left out.
        let (rows, rest) = split(&calls, self.top, lines.saturating_sub(2));
        let text = count_table(rows, rest, Some(&rate), self.colour);
        self.before = calls.iter().map(|calls| (calls.id, calls.hits)).collect();
        self.at = Instant::now();
        text
    }

    fn text(&mut self) -> String {
        let calls = self.read();
        let (rows, rest) = split(&calls, self.top, usize::MAX);
        count_table(rows, rest, None, self.colour)
    }
}
