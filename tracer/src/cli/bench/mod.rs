//! `faultline bench`: what a probe costs on this host, per CPU.
//!
//! [`kernel::bench`] measures; this module chooses what to measure and shows the results.

mod advice;
mod json;
mod picture;
mod table;
mod text;

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Failure, colour, runtime,
    session::{Interrupts, blocking},
    tell::tell,
};
use faultline_engine::kernel::{
    bench::{Batches, Bench, Check, Effort, HitCost, Host, Stopped, Throughput, Watch},
    missing_privilege,
};
use faultline_spec::units::counted;

/// Show what a probe costs on this host, per CPU
///
/// Measures on faultline's own functions: what a hit costs, by the instruction under the breakpoint
/// and by action; how that scales with threads; how long attaching and detaching takes. Nothing else
/// on the host is touched. Takes about half a minute, and is most accurate on an idle host.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Measure for a few seconds only, less accurately
    #[arg(long)]
    quick: bool,

    /// Print one JSON object per line, the summary last
    #[arg(long)]
    json: bool,

    /// Also draw a chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Use up to N threads, instead of one per CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

const HELP: &str = "\
Examples:
  sudo faultline bench                       tables, and what they mean for this host
  sudo faultline bench --quick               the same in a few seconds, less accurate
  sudo faultline bench --svg overhead.svg    with a chart
  sudo faultline bench --json > host.json    to compare hosts and kernels

To estimate what a probe costs a program, multiply the cost of a hit by the hits per second (see
`faultline count`). Press Ctrl-C to stop; what was measured so far is shown. The exit status is 1 if
a probe was not hit exactly as often as its function was called.";

/// What was measured: everything, unless the run was interrupted.
struct Results {
    host: Host,
    hits: Option<Vec<HitCost>>,
    throughput: Option<Vec<Throughput>>,
    batches: Option<Batches>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(missing) = missing_privilege() {
        return Err(anyhow::anyhow!("{missing} (run it with sudo)").into());
    }
    // Fail now rather than in half a minute.
    let svg = args.svg.as_deref().map(create).transpose()?;
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let bench = Bench::new(effort, args.threads.map(usize::from))?;
    let runtime = runtime()?;
    let stop = Arc::new(AtomicBool::new(false));
    let result = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let stopped = Arc::clone(&stop);
        let json = args.json;
        let measuring = blocking("bench", move || measure(&bench, json, &stopped));
        tokio::pin!(measuring);
        loop {
            tokio::select! {
                results = &mut measuring => return results?,
                _ = interrupts.next() => {
                    if stop.swap(true, Ordering::Relaxed) {
                        return Err(anyhow::anyhow!("interrupted while the probes were being removed").into());
                    }
                }
            }
        }
    });
    runtime.shutdown_background();
    let results = result?;
    let advice = advice::of(&results);
    let text = if args.json {
        json::summary(&results, &advice)?
    } else {
        text::advice(&advice, results.is_complete(), colour(io::stdout().is_terminal()))
    };
    if let (Some(path), Some(mut file)) = (&args.svg, svg) {
        let picture = picture::draw(&results);
        let written = file.set_len(0).and_then(|()| file.write_all(picture.as_bytes()));
        written.with_context(|| format!("failed to write {}", path.display()))?;
    }
    print(&text, &stop)?;
    match results.checks().filter(|check| !check.holds()).count() {
        0 => Ok(()),
        failed => Err(anyhow::anyhow!(
            "the counted hits differ from the calls made in {}",
            counted(failed, "case")
        )
        .into()),
    }
}

/// The file for the chart. An existing file is kept until there is something to write.
fn create(path: &Path) -> Result<File, Failure> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    Ok(file.with_context(|| format!("failed to create {}", path.display()))?)
}

/// Measures, and shows each part as soon as it is done.
fn measure(bench: &Bench, json: bool, stop: &AtomicBool) -> Result<Results, Failure> {
    let colour = !json && colour(io::stdout().is_terminal());
    let mut results = Results { host: bench.host(), hits: None, throughput: None, batches: None };
    if !json {
        print(&text::host(&results.host, colour), stop)?;
        for note in bench.features().notes(true, false) {
            tell!("note: {note}");
        }
        if bench.threads() > results.host.cpus {
            tell!("note: there are more threads than CPUs, so they cannot scale");
        }
    }
    results.hits = part("what a hit costs", stop, |watch| bench.hit_costs(watch))?;
    if let Some(hits) = &results.hits {
        print(&if json { json::hits(hits)? } else { text::hits(hits, colour) }, stop)?;
        results.throughput = part("threads", stop, |watch| bench.throughput(watch))?;
    }
    if let Some(throughput) = &results.throughput {
        let shown =
            if json { json::throughput(throughput)? } else { text::throughput(throughput, colour) };
        print(&shown, stop)?;
        results.batches = part("attaching and detaching", stop, |watch| bench.batches(watch))?;
    }
    if let Some(batches) = &results.batches {
        print(&if json { json::batches(batches)? } else { text::batches(batches, colour) }, stop)?;
    }
    Ok(results)
}

/// Measures one part and shows its progress; `None` if it was stopped.
fn part<T>(
    what: &'static str,
    stop: &AtomicBool,
    measure: impl FnOnce(Watch<'_>) -> anyhow::Result<T>,
) -> Result<Option<T>, Failure> {
    let style = ProgressStyle::with_template("measuring {msg} {bar:30} {percent}%")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    // indicatif draws nothing where standard error is no terminal.
    let bar = ProgressBar::new(1).with_style(style).with_message(what);
    let progress = |done: usize, of: usize| {
        bar.set_length(of.max(1) as u64);
        bar.set_position(done as u64);
    };
    let result = measure(Watch { stop, progress: &progress });
    bar.finish_and_clear();
    match result {
        Ok(result) => Ok(Some(result)),
        Err(error) if error.is::<Stopped>() => Ok(None),
        Err(error) => Err(error.context(format!("failed to measure {what}")).into()),
    }
}

/// Writes to standard output. A closed pipe is a normal end, and stops the bench.
fn print(text: &str, stop: &AtomicBool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            stop.store(true, Ordering::Relaxed);
            Ok(())
        }
        result => Ok(result.context("failed to write the figures")?),
    }
}

impl Results {
    fn is_complete(&self) -> bool {
        self.batches.is_some()
    }

    /// Every comparison of calls and hits.
    fn checks(&self) -> impl Iterator<Item = Check> {
        let hits = self.hits.iter().flatten().filter_map(|hit| hit.check);
        let throughput = self.throughput.iter().flatten().filter_map(|found| found.check);
        let batches = self.batches.iter();
        let batches = batches.flat_map(|found| {
            let faulting = found.faulting.map(|faulting| faulting.check);
            found.batches.iter().map(|batch| batch.check).chain(faulting)
        });
        hits.chain(throughput).chain(batches)
    }
}
