//! Drains records: from the ring buffer to whoever reads them.
//!
//! It runs on a thread of its own, because writing to a pipe may block; nothing else waits for it
//! longer than it wants to. It looks every few milliseconds instead of being woken: a wakeup would
//! cost the traced program more than all the rest of a hit.

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

/// Records that are taken before the reader is told that the batch is complete.
const BATCH: usize = 4096;
/// How long the thread sleeps after a batch, and at most while nothing comes: the buffer has to hold
/// what comes meanwhile, and a burst begins while nothing comes. An event shows
/// within the latter.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(4);

/// Who reads the records.
pub trait RecordReader: Send {
    /// A batch begins.
    fn begin(&mut self);
    /// One record.
    fn record(&mut self, record: &[u8], patience: &Patience);
    /// The batch is complete: what was read is to be shown.
    fn flush(&mut self, patience: &Patience);
}

/// Whether work that does not proceed is still worth waiting for.
#[derive(Debug, Default)]
pub struct Patience {
    given_up: AtomicBool,
    progress: AtomicU64,
    deadline: Option<Instant>,
}

impl Patience {
    /// One that ends after some time.
    pub fn of(time: Duration) -> Self {
        Self { deadline: Some(Instant::now() + time), ..Self::default() }
    }

    /// Nobody waits any more: what cannot be done at once is to be counted as lost.
    pub fn is_over(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
            || self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    /// From now on, nobody waits any more.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Something was done.
    pub fn renew(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running drain; its thread ends when this is dropped, which nobody waits for.
#[derive(Debug)]
pub struct Drain {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Nothing more comes: take what is there and end.
    finish: AtomicBool,
    /// Times that the thread has looked for records.
    looks: AtomicU64,
    patience: Patience,
}

impl Drain {
    /// Starts to hand records to their reader.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub fn start(records: Records, reader: Box<dyn RecordReader>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("drain".to_owned())
            .spawn(move || run(records, reader, &own))?;
        Ok(Self { thread, shared })
    }

    /// How often it has looked for records: a number that stands still is a thread that hangs.
    pub fn looks(&self) -> u64 {
        self.shared.looks.load(Ordering::Relaxed)
    }

    /// Has what is left drained, and waits for it; to be called when the probes are gone. A reader
    /// that does nothing for `patience` is given up. Whether every record was handed on.
    ///
    /// Blocks: not for the async threads.
    pub fn finish(self, patience: Duration) -> bool {
        self.shared.finish.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let mut progress = 0;
        let mut since = Instant::now();
        while !self.thread.is_finished() {
            thread::sleep(Duration::from_millis(2));
            let now = self.shared.patience.progress.load(Ordering::Relaxed);
            if now != progress {
                progress = now;
                since = Instant::now();
            } else if since.elapsed() > 2 * patience {
                // A write that blocks inside the kernel, to a file on a dead network mount. What
                // it holds is not counted as delivered.
                return false;
            } else if since.elapsed() > patience {
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
    let mut sleep = SHORTEST_SLEEP;
    loop {
        // Read first: what was there before the order to finish is drained after it.
        let finish = shared.finish.load(Ordering::Acquire);
        shared.looks.fetch_add(1, Ordering::Relaxed);
        reader.begin();
        let taken = records.drain(BATCH, |record| reader.record(record, patience));
        reader.flush(patience);
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
