//! The drain's thread.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{Outcome, Output, Tally};
use crate::{
    decode::{self, Clock},
    kernel::Records,
    plan::{AttachPlan, ProbeId},
    sink::Sink,
};

/// Records that are taken before the output is written.
const BATCH: usize = 4096;
/// Formatted bytes that are kept before they are written.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long the thread sleeps after a batch, and at most while nothing comes. An event shows
/// within the latter.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(16);

/// Why the drain wants the run to end.
#[derive(Debug)]
pub enum DrainEnd {
    /// As many events as the user wanted are written.
    LimitReached,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The output cannot be written.
    OutputFailed(io::Error),
}

/// A drain before it is started.
pub struct Drain {
    /// Where records come from.
    pub records: Records,
    /// What they mean.
    pub plan: Arc<AttachPlan>,
    /// How events are written.
    pub sink: Box<dyn Sink>,
    /// Where to.
    pub output: Output,
    /// Most events to write.
    pub limit: Option<u64>,
    /// Where outcomes are counted.
    pub tally: Arc<Tally>,
    /// Told once, when the drain wants the run to end.
    pub ended: UnboundedSender<DrainEnd>,
}

/// A running drain.
#[derive(Debug)]
pub struct DrainHandle {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Nothing more comes: take what is there and end.
    finish: AtomicBool,
    /// The output is not worth waiting for any more.
    give_up: AtomicBool,
    /// Grows as long as records are worked on.
    progress: AtomicU64,
}

impl Drain {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub fn start(self) -> io::Result<DrainHandle> {
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            shared: Arc::clone(&shared),
            sink: self.sink,
            writer: Writer {
                output: self.output,
                buffer: Vec::with_capacity(BUFFER_BYTES + 64 * 1024),
                pending: Vec::with_capacity(BATCH),
                tally: self.tally,
                remaining: self.limit.unwrap_or(u64::MAX),
                failed: false,
                ended: self.ended,
            },
            plan: self.plan,
        };
        let records = self.records;
        let thread =
            thread::Builder::new().name("drain".to_owned()).spawn(move || worker.run(records))?;
        Ok(DrainHandle { thread, shared })
    }
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}

impl DrainHandle {
    /// Has what is left drained, and waits for it; to be called when the probes are gone. An output
    /// that takes nothing for `patience` is given up.
    ///
    /// Blocks: not for the async threads.
    pub fn finish(self, patience: Duration) {
        self.shared.finish.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let mut progress = self.shared.progress.load(Ordering::Relaxed);
        let mut since = Instant::now();
        while !self.thread.is_finished() {
            thread::sleep(Duration::from_millis(2));
            let now = self.shared.progress.load(Ordering::Relaxed);
            if now != progress {
                progress = now;
                since = Instant::now();
            } else if since.elapsed() > patience {
                self.shared.give_up.store(true, Ordering::Relaxed);
                if since.elapsed() > 2 * patience {
                    // A write that blocks in the kernel, to a file on a dead network mount. What
                    // it holds is not counted as delivered.
                    return;
                }
            }
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    plan: Arc<AttachPlan>,
    sink: Box<dyn Sink>,
    writer: Writer,
}

impl Worker {
    fn run(mut self, mut records: Records) {
        let mut sleep = SHORTEST_SLEEP;
        loop {
            // Read first: what was there before the order to finish is drained after it.
            let finish = self.shared.finish.load(Ordering::Acquire);
            let clock = Clock::now();
            let taken = records.drain(BATCH, |record| {
                self.take(record, &clock);
            });
            self.writer.flush(&self.shared);
            if taken == BATCH {
                continue;
            }
            if taken != 0 {
                sleep = SHORTEST_SLEEP;
            } else if finish {
                return;
            } else {
                sleep = (sleep * 2).min(LONGEST_SLEEP);
            }
            if !finish {
                thread::park_timeout(sleep);
            }
        }
    }

    fn take(&mut self, record: &[u8], clock: &Clock) {
        let writer = &mut self.writer;
        let event = match decode::decode(record, &self.plan.probes, clock) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!("undecodable record of {} bytes: {error}", record.len());
                writer.tally.count_unknown();
                return;
            }
        };
        let (id, cpu) = (event.id, event.cpu);
        if writer.failed {
            writer.tally.count(id, cpu, Outcome::OutputLost);
        } else if writer.remaining == 0 {
            writer.tally.count(id, cpu, Outcome::AfterLimit);
        } else {
            writer.remaining -= 1;
            self.sink.event(&event, &mut writer.buffer);
            writer.pending.push(Pending { id, cpu, end: writer.buffer.len() });
            if writer.buffer.len() >= BUFFER_BYTES || writer.remaining == 0 {
                writer.flush(&self.shared);
            }
        }
    }
}

/// An event in the buffer.
struct Pending {
    id: ProbeId,
    cpu: u16,
    /// Where its text ends in the buffer.
    end: usize,
}

struct Writer {
    output: Output,
    buffer: Vec<u8>,
    pending: Vec<Pending>,
    tally: Arc<Tally>,
    /// Events that may still be written.
    remaining: u64,
    failed: bool,
    ended: UnboundedSender<DrainEnd>,
}

impl Writer {
    /// Writes the buffer. An event counts as delivered when its last byte is written.
    fn flush(&mut self, shared: &Shared) {
        if self.buffer.is_empty() {
            return;
        }
        let (written, result) = self.output.write(&self.buffer, &shared.give_up);
        for event in self.pending.drain(..) {
            let outcome =
                if event.end <= written { Outcome::Delivered } else { Outcome::OutputLost };
            self.tally.count(event.id, event.cpu, outcome);
        }
        self.buffer.clear();
        shared.progress.fetch_add(1, Ordering::Relaxed);
        let end = match result {
            Err(error) => {
                self.failed = true;
                match error.kind() {
                    io::ErrorKind::BrokenPipe => DrainEnd::OutputClosed,
                    _ => DrainEnd::OutputFailed(error),
                }
            }
            Ok(()) if self.remaining == 0 => DrainEnd::LimitReached,
            Ok(()) => return,
        };
        // Nobody listens once the run is ending anyway.
        let _ = self.ended.send(end);
    }
}
