//! What `count` and `latency` share: a run whose figures are summed up in the kernel, shown while it
//! lasts if that is wanted, and at its end.

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
use faultline_output::{Output, WriterEnd};

/// How often figures are shown anew on a terminal, if the user does not say.
const REFRESH: Duration = Duration::from_secs(1);

/// How the figures are shown.
#[derive(Debug, clap::Args)]
pub(super) struct SummedArgs {
    #[command(flatten)]
    pub(super) selection: SelectionArgs,

    /// Show the figures so far every so often; on a terminal, in place, every second
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(super) interval: Option<Duration>,

    /// Show only so many functions
    #[arg(long, value_name = "N")]
    pub(super) top: Option<usize>,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

/// How long the reader of the result may take before the user is told whom the run waits for.
const TELL_WAITING_AFTER: Duration = Duration::from_secs(1);
/// Shorter ones show nothing more, and keep a CPU busy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST_INTERVAL {
        return Err("at least 1ms".to_owned());
    }
    Ok(interval)
}

/// Figures that can be read at any time.
pub(super) trait Figures: Send {
    /// Appends them as JSON; `so_far`: they are not the last.
    fn json(&mut self, so_far: bool, out: &mut Vec<u8>) -> std::io::Result<()>;
    /// As text of at most so many lines, for a screen.
    fn live(&mut self, lines: usize) -> String;
    /// As text, whole.
    fn text(&mut self) -> String;
}

/// As many rows as are wanted and fit, and the rest.
pub(super) fn split<T>(rows: &[T], top: Option<usize>, most: usize) -> (&[T], &[T]) {
    rows.split_at(top.unwrap_or(usize::MAX).min(most).min(rows.len()))
}

/// Selects, attaches, runs, and shows what `figures` makes of the session.
pub(super) fn run(
    args: &SummedArgs,
    action: Action,
    figures: impl FnOnce(&mut Session, bool) -> Result<Box<dyn Figures>, Failure>,
) -> Result<(), Failure> {
    let selected = args.selection.select(action)?;
    if args.selection.dry_run {
        return dry_run::run(&args.selection, selected, action);
    }
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let output = open_output(args.output.as_deref())?;
        let json = args.selection.json;
        let mut session = Session::attach(selected, 0, None).await?;
        let figures = figures(&mut session, colour(output.is_terminal()))?;
        let (tell, mut output_ended) = mpsc::unbounded_channel();
        let show = Show::start(args, figures, output, tell)?;
        let ended = session.run(args.selection.duration, !json, &mut output_ended).await?;
        let (mut figures, output) = blocking("show", move || show.finish()).await??;

        let mut last = Vec::new();
        if json {
            figures.json(false, &mut last)?;
        } else {
            last.extend_from_slice(figures.text().as_bytes());
        }
        let written = write_last(output, last).await?;
        let mut summary = report::summary(&ended);
        summary.check_probes();
        report::print(&summary, json, args.output.as_deref())?;
        written
    });
    // A thread that waits for a stuck task must not keep us here.
    runtime.shutdown_background();
    result
}

/// Writes the result, as long as it takes: a pager may read on tomorrow. A signal ends the wait.
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
                tell!("waiting for the reader of the output (Ctrl-C: give up)");
            }
            _ = interrupts.next() => {
                patience.give_up();
                break writing.await?;
            }
        }
    };
    Ok(match written {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(anyhow::anyhow!("the reader of the output did not take it all").into())
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
        let json = args.selection.json;
        let on_screen = output.is_terminal() && !json;
        let every = args.interval.or(on_screen.then_some(REFRESH));
        let ended = Arc::new(AtomicBool::new(false));
        let patience = Arc::new(Patience::default());
        let (is_over, own_patience) = (Arc::clone(&ended), Arc::clone(&patience));
        let work = move || {
            // The run ends when nobody can tell it to any more: so it is kept until then.
            let tell = tell;
            let mut screen = Screen::default();
            while wait(every, &is_over) {
                let mut text = Vec::new();
                if json {
                    let _ = figures.json(true, &mut text);
                } else if on_screen {
                    let (columns, lines) = Screen::size();
                    let shown = figures.live(lines.saturating_sub(1));
                    text = screen.show(&shown, columns).into_bytes();
                } else {
                    text = figures.text().into_bytes();
                    text.push(b'\n');
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

    /// Shows no more; gives back what it was given.
    fn finish(self) -> Result<(Box<dyn Figures>, Output), Failure> {
        self.ended.store(true, Ordering::Release);
        // What is on its way to a screen that stands still is of no use any more.
        self.patience.give_up();
        self.thread.thread().unpark();
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that shows panicked").into())
    }
}

/// Waits for so long, or until it is over; whether it is not.
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
