//! What `count` and `latency` share: a run whose figures are summed up in the kernel, and shown at its
//! end, or also while it lasts.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, UnboundedSender};
use tracer_common::Action;

use super::{
    Failure, colour, dry_run, open_output, report, runtime,
    screen::Screen,
    selection::{SelectionArgs, duration},
    session::{Interrupts, Session, blocking},
    tell::tell,
};
use faultline_engine::collect::drain::Patience;
use faultline_output::{Output, Table, TextSink, WriterEnd};

/// How often a terminal is refreshed by default.
const REFRESH: Duration = Duration::from_secs(1);

/// How the figures are shown.
#[derive(Debug, clap::Args)]
pub(super) struct SummedArgs {
    #[command(flatten)]
    pub(super) selection: SelectionArgs,

    /// Print interim results at this interval; a terminal is refreshed every second by default
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(super) interval: Option<Duration>,

    /// Show only the first N functions
    #[arg(long, value_name = "N")]
    pub(super) top: Option<usize>,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

/// How long the reader of the result may take before the user is told that the run waits for it.
const TELL_WAITING_AFTER: Duration = Duration::from_secs(1);
/// A shorter interval shows nothing more and keeps a CPU busy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST_INTERVAL {
        return Err("must be at least 1ms".to_owned());
    }
    Ok(interval)
}

/// Figures that can be read at any time.
pub(super) trait Figures: Send {
    /// Reads them; `live`: people see them change.
    fn read(&mut self, live: bool) -> Table;
}

/// Selects, attaches, runs, and shows what `figures` reads of the session.
pub(super) fn run<F: Figures + 'static>(
    args: &SummedArgs,
    action: Action,
    figures: impl FnOnce(&mut Session) -> Result<F, Failure>,
) -> Result<(), Failure> {
    let selected = args.selection.select(action)?;
    if args.selection.dry_run {
        return dry_run::run(&args.selection, selected, action);
    }
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let output = open_output(args.output.as_deref())?;
        let format = args.selection.format();
        let mut session = Session::attach(selected, 0, None).await?;
        let figures = Box::new(figures(&mut session)?);
        let (tell, mut output_ended) = mpsc::unbounded_channel();
        let show = Show::start(args, figures, output, tell)?;
        let ended =
            session.run(args.selection.duration, format.is_for_people(), &mut output_ended).await?;
        let (mut figures, output) = blocking("show", move || show.finish()).await??;

        let mut last = Vec::new();
        let sink = format.sink(colour(output.is_terminal()));
        sink.table(&figures.read(false).top(args.top), &mut last)?;
        let written = write_last(output, last).await?;
        let mut summary = report::summary(&ended);
        summary.check_probes();
        report::print(&summary, format, args.output.as_deref())?;
        written
    });
    // Do not wait for a thread that waits for a stuck task.
    runtime.shutdown_background();
    result
}

/// Writes the result, however long that takes: a pager may be left open until tomorrow. A signal ends
/// the wait.
async fn write_last(mut output: Output, text: Vec<u8>) -> Result<Result<(), Failure>, Failure> {
    let patience = Arc::new(Patience::default());
    let own = Arc::clone(&patience);
    let mut interrupts = Interrupts::new()?;
    let writing = blocking("write", move || output.write(&text, &own).1);
    tokio::pin!(writing);
    let mut told = false;
    let written = loop {
        tokio::select! {
            written = &mut writing => break written?,
            () = tokio::time::sleep(TELL_WAITING_AFTER), if !told => {
                told = true;
                tell!("waiting for the output to be read (press Ctrl-C to give up)");
            }
            _ = interrupts.next() => {
                patience.give_up();
                break writing.await?;
            }
        }
    };
    Ok(match written {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(anyhow::anyhow!("the output was not read to its end").into())
        }
        // `| head` is a normal end.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("failed to write the figures").into()),
        Ok(()) => Ok(()),
    })
}

/// Shows figures while a run lasts.
struct Show {
    thread: JoinHandle<(Box<dyn Figures>, Output)>,
    ended: Arc<AtomicBool>,
    patience: Arc<Patience>,
}

impl Show {
    fn start(
        args: &SummedArgs,
        mut figures: Box<dyn Figures>,
        mut output: Output,
        tell: UnboundedSender<WriterEnd>,
    ) -> Result<Self, Failure> {
        let format = args.selection.format();
        let on_screen = output.is_terminal() && format.is_for_people();
        let every = args.interval.or(on_screen.then_some(REFRESH));
        let ended = Arc::new(AtomicBool::new(false));
        let patience = Arc::new(Patience::default());
        let (is_over, own_patience) = (Arc::clone(&ended), Arc::clone(&patience));
        let (colour, top) = (colour(output.is_terminal()), args.top);
        let work = move || {
            // The run would end if this were dropped.
            let tell = tell;
            let mut screen = Screen::default();
            while wait(every, &is_over) {
                let table = figures.read(on_screen).top(top).so_far();
                let mut text = Vec::new();
                if on_screen {
                    let (columns, lines) = Screen::size();
                    let shown = TextSink::new(colour).table_in(&table, lines.saturating_sub(1));
                    text = screen.show(&shown, columns).into_bytes();
                } else {
                    let _ = format.sink(colour).table(&table, &mut text);
                }
                if let Err(error) = output.write(&text, &own_patience).1 {
                    let end = match error.kind() {
                        std::io::ErrorKind::WouldBlock => break,
                        std::io::ErrorKind::BrokenPipe => WriterEnd::OutputClosed,
                        _ => WriterEnd::OutputFailed(error),
                    };
                    let _ = tell.send(end);
                    wait(None, &is_over);
                    break;
                }
            }
            let _ = output.write(screen.clear().as_bytes(), &own_patience);
            (figures, output)
        };
        let thread = thread::Builder::new().name("show".to_owned()).spawn(work)?;
        Ok(Self { thread, ended, patience })
    }

    /// Stops showing; gives back the figures and the output.
    fn finish(self) -> Result<(Box<dyn Figures>, Output), Failure> {
        self.ended.store(true, Ordering::Release);
        // Nobody needs what is still on its way to a stopped screen.
        self.patience.give_up();
        self.thread.thread().unpark();
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that shows panicked").into())
    }
}

/// Waits for this time, or until the run is over; returns whether it goes on.
fn wait(time: Option<Duration>, is_over: &AtomicBool) -> bool {
    let begin = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        match time {
            None => thread::park(),
            Some(time) => match time.checked_sub(begin.elapsed()) {
                None | Some(Duration::ZERO) => return true,
                Some(left) => thread::park_timeout(left),
            },
        }
    }
    false
}
