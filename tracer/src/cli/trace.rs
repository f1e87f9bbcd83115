//! `faultline trace`: a line per call.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;
use tracer_common::{Action, ring::LEAST_BYTES};

use super::{
    Failure, colour, dry_run, open_output, report, runtime,
    selection::{Selected, SelectionArgs},
    session::{Reason, Session},
};
use faultline_engine::{
    collect::{
        Outcome,
        decode::Event,
        drain::Patience,
        events::{EventHandler, EventStream, HandlerFactory},
    },
    kernel::default_buffer_bytes,
};
use faultline_output::{EventWriter, FileOutput, Sink, WriterEnd};
use faultline_spec::{types::type_summaries, units};

/// Print a line per call
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,

    /// Stop after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_events: Option<u64>,

    /// Write events to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Kernel buffer for events that are not yet written, shared evenly by the CPUs: 256KiB to 1GiB,
    /// rounded up to a power of two [default: 16MiB, or 1MiB a CPU up to 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    buffer: Option<u64>,
}

fn size(text: &str) -> Result<u64, units::UnitError> {
    units::parse_size(text)
}

fn help() -> String {
    let types = type_summaries().join(", ");
    format!("{PROBES}\n  Types     {types}\n{CONDITIONS_AND_EXAMPLES}")
}

const PROBES: &str = r#"A probe is TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]
  TARGET    a path, a library (libc, libssl.so.3) or a command on PATH (bash)
  FUNCTION  a symbol, a glob (SSL_*) or /regex/; C++ and Rust names as you read them
  ARGS      by position: (fd: i32, buf: bytes[count], count: u64); _ skips one
  -> TYPE   also trace the return: value and duration"#;

const CONDITIONS_AND_EXAMPLES: &str = r#"
A condition (--where) compares arguments, ret, duration, pid, tid and comm with constants:
  size > 64KiB && path ^= "/etc/"     flags in {0, 0x10} || flags & 0x40 != 0
  ret < 0 && !(comm == "bash")        duration > 10ms

Examples:
  faultline trace 'libc:open*(path: str, flags: x32) -> i32' -c 'cat /etc/hostname'
  faultline trace 'bash:readline() -> str' --duration 1m
  faultline trace -p 1234 'libssl:SSL_write(_, buf: bytes[num], num: i32)' --json
  faultline trace './app:ns::Parser::parse' --max-events 10
  faultline trace 'libc:open64(path: str) -> i32' --where 'path ^= "/etc/" || ret < 0'
  faultline trace 'libc:malloc(size: u64)' --where 'size > 1MiB' --rate 100/s
  faultline trace 'libc:/^(read|write)$/(fd: i32)' --dry-run

Events go to standard output, everything else to standard error. Press Ctrl-C to stop; the run
also ends with the command, with the traced processes, or when the output is closed. The summary
accounts for every hit: hits = delivered + filtered + sampled out + throttled + dropped."#;

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let buffer_bytes = args.buffer.map_or_else(|| Ok(default_buffer_bytes()), ring_bytes)?;
    let selected = args.selection.select(Action::Events)?;
    if args.selection.dry_run {
        return dry_run::run(&args.selection, selected, Action::Events);
    }
    let runtime = runtime()?;
    let result = runtime.block_on(trace(args, selected, buffer_bytes));
    // Do not wait for a thread that waits for a stuck task.
    runtime.shutdown_background();
    result
}

/// A ring buffer's size is a power of two.
fn ring_bytes(wanted: u64) -> Result<u32, Failure> {
    let wrong = |why| Failure::Usage(format!("invalid --buffer: {wanted} bytes is too {why}"));
    if wanted < LEAST_BYTES {
        return Err(wrong("small (at least 256KiB)"));
    }
    u32::try_from(wanted)
        .ok()
        .filter(|bytes| *bytes <= 1 << 30)
        .map(u32::next_power_of_two)
        .ok_or_else(|| wrong("large (at most 1GiB)"))
}

async fn trace(args: &Args, selected: Selected, buffer_bytes: u32) -> Result<(), Failure> {
    let output = open_output(args.output.as_deref())?;
    let format = args.selection.format();
    let sink = format.sink(colour(output.is_terminal()));
    let (tell_ended, mut writer_ended) = mpsc::unbounded_channel();
    let output = FileOutput::new(output, args.max_events, tell_ended);
    let session = Session::attach(selected, buffer_bytes, Some(handler(sink, output))).await?;
    let ended =
        session.run(args.selection.duration, format.is_for_people(), &mut writer_ended).await?;
    let summary = report::summary(&ended);
    report::print(&summary, format, args.output.as_deref())?;
    // The output may also have failed on the last events, after the run had ended.
    let failed = match (ended.reason, writer_ended.try_recv()) {
        (Reason::OutputFailed(error), _) => Some(error),
        (_, Ok(WriterEnd::OutputFailed(error))) => Some(error.to_string()),
        _ => None,
    };
    match failed {
        Some(error) => Err(anyhow::anyhow!("failed to write events: {error}").into()),
        None => Ok(()),
    }
}

/// Writes the events of a run, which has one set of probes.
fn handler(sink: Box<dyn Sink>, output: FileOutput) -> HandlerFactory {
    let once = Mutex::new(Some((sink, output)));
    Arc::new(move |stream| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some((sink, output)) => Box::new(EventWriter::new(&stream, sink, Box::new(output))),
            None => Box::new(Unwritten(stream)),
        }
    })
}

/// Counts events as lost that nobody writes.
struct Unwritten(EventStream);

impl EventHandler for Unwritten {
    fn event(&mut self, event: &Event<'_>, _patience: &Patience) {
        self.0.tally.count(event.id, event.cpu, Outcome::OutputLost);
    }

    fn flush(&mut self, _patience: &Patience) {}
}
