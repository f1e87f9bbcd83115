//! Drains records from the ring buffer to a reader.
//!
//! It runs on its own thread because writing to a pipe may block; every wait for it is bounded. It polls
//! every few milliseconds instead of being woken: a wakeup would cost the traced program more than the rest
//! of a hit.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::kernel::Records;

/// Records in one batch, at most.
const BATCH: usize = 4096;
/// How long the thread sleeps after a batch, and at most while nothing arrives. The buffer must hold
/// everything that arrives during a sleep, and a burst can begin during the longest one: with small rings, both
/// are shorter. An event is shown within the longest time.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(4);
/// How often to look whether a reader makes progress before it may be given up. A machine that was stopped for a
/// while, as virtual ones are, shows that time at once, though its reader had none of it.
const LEAST_LOOKS: u32 = 100;

/// Reads the records.
pub trait RecordReader: Send {
    /// A batch begins.
    fn begin(&mut self);
    /// One record.
    fn record(&mut self, record: &[u8], patience: &Patience);
    /// The batch is complete: show what was read.
    fn flush(&mut self, patience: &Patience);
}

/// Decides whether stalled work is still worth waiting for.
#[derive(Debug, Default)]
pub struct Patience {
    given_up: AtomicBool,
    progress: AtomicU64,
    deadline: Option<Instant>,
}

impl Patience {
    /// Patience that runs out after some time.
    pub fn of(time: Duration) -> Self {
        Self { deadline: Some(Instant::now() + time), ..Self::default() }
    }

    /// Whether waiting is over: anything that cannot be done at once must be counted as lost.
    pub fn is_over(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
            || self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Ends the waiting.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Starts the time again, because there was progress.
    pub fn renew(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running drain. Dropping it ends its thread, without waiting for that.
#[derive(Debug)]
pub struct Drain {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// No more records will arrive: drain the rest and end.
    finish: AtomicBool,
    /// How often the thread has looked for records.
    looks: AtomicU64,
    patience: Patience,
}

impl Drain {
    /// Starts passing records to the reader.
    ///
    /// # Errors
    ///
    /// The system cannot start another thread.
    pub fn start(records: Records, reader: Box<dyn RecordReader>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("drain".to_owned())
            .spawn(move || run(records, reader, &own))?;
        Ok(Self { thread, shared })
    }

    /// How often it has looked for records: if this stops rising, the thread is stuck.
    pub fn looks(&self) -> u64 {
        self.shared.looks.load(Ordering::Relaxed)
    }

    /// Drains what is left and waits for that. Call it once the probes are gone. A reader that makes no
    /// progress for `patience` is given up. Returns whether every record was handed on.
    ///
    /// Blocks: do not call it from async code.
    pub fn finish(self, patience: Duration) -> bool {
        self.shared.finish.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let mut progress = 0;
        let (mut since, mut looks) = (Instant::now(), 0);
        while !self.thread.is_finished() {
            thread::sleep(Duration::from_millis(2));
            looks += 1;
            let now = self.shared.patience.progress.load(Ordering::Relaxed);
            if now != progress {
                progress = now;
                (since, looks) = (Instant::now(), 0);
            } else if since.elapsed() > 2 * patience && looks > 2 * LEAST_LOOKS {
                // A write may block inside the kernel, for example to a file on a dead network mount. Its
                // records are not counted as delivered.
                return false;
            } else if since.elapsed() > patience && looks > LEAST_LOOKS {
                self.shared.patience.give_up();
            }
        }
        true
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.shared.finish.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

fn run(mut records: Records, mut reader: Box<dyn RecordReader>, shared: &Shared) {
    let patience = &shared.patience;
    let half_full = records.half_full_after();
    let (shortest, longest) =
        (SHORTEST_SLEEP.min(half_full / 2), half_full.clamp(SHORTEST_SLEEP, LONGEST_SLEEP));
    let mut sleep = shortest;
    loop {
        // Read the flag first, so that everything written before the order to finish is still drained.
        let finish = shared.finish.load(Ordering::Acquire);
        shared.looks.fetch_add(1, Ordering::Relaxed);
        reader.begin();
        let taken = records.drain(BATCH, |record| reader.record(record, patience));
        reader.flush(patience);
        if taken == BATCH {
            continue;
        }
        if taken != 0 {
            sleep = shortest;
        } else if finish {
            return;
        } else {
            sleep = (sleep * 2).min(longest);
        }
        if !finish {
            thread::park_timeout(sleep);
        }
    }
}
