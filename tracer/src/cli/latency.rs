//! `faultline latency`: how long the calls of functions take, summed up in the kernel.

use std::sync::Arc;

use tracer_common::Action;

use super::{
    Failure,
    session::Session,
    summed::{self, Figures, SummedArgs, split},
};
use faultline_engine::{
    ProbeSet,
    collect::tables::{Durations, durations},
};
use faultline_output::{json_latencies, latency_picture, latency_table};

/// Functions whose histogram is drawn at the end, those with most time; all have their line.
const PICTURES: usize = 4;

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

A duration is the time from a function's entry to its return, in nanoseconds of real time. The
longest is exact; percentiles are the middle of a bucket, at most 6.25 % off. A call that does not
return (exit, longjmp, nested deeper than 64) has none: the summary counts it.";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    summed::run(&args.summed, Action::Latency, |session: &mut Session, colour| {
        Ok(Box::new(LatencyFigures { set: Arc::clone(&session.set), top: args.summed.top, colour }))
    })
}

struct LatencyFigures {
    set: Arc<ProbeSet>,
    top: Option<usize>,
    colour: bool,
}

impl LatencyFigures {
    fn read(&self) -> Vec<Durations> {
        durations(&self.set)
    }

    /// As many pictures as fit into so many lines.
    fn pictures(&self, rows: &[Durations], mut lines: usize) -> String {
        let mut text = String::new();
        for row in rows.iter().take(PICTURES) {
            let picture = latency_picture(row, self.colour);
            // And an empty line before it.
            let Some(left) = lines.checked_sub(picture.lines().count() + 1) else { break };
            lines = left;
            text.push('\n');
            text.push_str(&picture);
        }
        text
    }
}

impl Figures for LatencyFigures {
    fn json(&mut self, so_far: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
        let rows = self.read();
        json_latencies(split(&rows, self.top, usize::MAX).0, so_far, out)
    }

    fn live(&mut self, lines: usize) -> String {
        let rows = self.read();
        // Two for the head and for what is left out.
        let (shown, rest) = split(&rows, self.top, lines.saturating_sub(2));
        let table = latency_table(shown, rest, self.colour);
        let pictures = self.pictures(shown, lines.saturating_sub(table.lines().count()));
        table + &pictures
    }

    fn text(&mut self) -> String {
        let rows = self.read();
        let (shown, rest) = split(&rows, self.top, usize::MAX);
        latency_table(shown, rest, self.colour) + &self.pictures(shown, usize::MAX)
    }
}
