//! The end of the pipeline: formats events, has them written, and counts what became of each.

use std::{io, sync::Arc};

use tokio::sync::mpsc::UnboundedSender;

use faultline_engine::collect::{
    Outcome, Tally,
    decode::Event,
    drain::Patience,
    events::{EventHandler, EventStream},
};
use faultline_plan::ProbeId;

use super::{Output, Sink};

/// Formatted bytes that are kept before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// Events that are formatted and not written yet.
#[derive(Debug)]
pub struct Batch {
    text: Vec<u8>,
    events: Vec<Formatted>,
}

/// An event in a batch.
#[derive(Debug, Clone, Copy)]
struct Formatted {
    id: ProbeId,
    cpu: u16,
    /// Where its text ends.
    end: usize,
}

impl Batch {
    fn new() -> Self {
        Self { text: Vec::with_capacity(BUFFER_BYTES + 64 * 1024), events: Vec::new() }
    }

    /// All of the text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Where the text of each event ends.
    pub fn ends(&self) -> impl Iterator<Item = usize> + Clone {
        self.events.iter().map(|event| event.end)
    }

    /// The text of each event, and its probe.
    pub fn lines(&self) -> impl Iterator<Item = (ProbeId, &[u8])> + Clone {
        let begins = std::iter::once(0).chain(self.ends());
        self.events
            .iter()
            .zip(begins)
            .map(|(event, begin)| (event.id, &self.text[begin..event.end]))
    }

    /// Number of events that end within this many bytes.
    fn events_in(&self, bytes: usize) -> usize {
        self.events.partition_point(|event| event.end <= bytes)
    }
}

/// Where events are written.
pub trait EventOutput: Send {
    /// How many events are still wanted.
    fn wanted(&self) -> u64 {
        u64::MAX
    }

    /// Writes a batch; how many of its events are written to their last byte.
    fn write(&mut self, batch: &Batch, patience: &Patience) -> usize;
}

/// Formats events of one set, and writes them.
pub struct EventWriter {
    sink: Box<dyn Sink>,
    output: Box<dyn EventOutput>,
    batch: Batch,
    tally: Arc<Tally>,
}

impl EventWriter {
    /// Writes the events of a stream through `sink` to `output`, and counts what becomes of each.
    #[must_use]
    pub fn new(stream: &EventStream, sink: Box<dyn Sink>, output: Box<dyn EventOutput>) -> Self {
        Self { sink, output, batch: Batch::new(), tally: Arc::clone(&stream.tally) }
    }
}

impl EventHandler for EventWriter {
    fn event(&mut self, event: &Event<'_>, patience: &Patience) {
        let (id, cpu) = (event.id, event.cpu);
        let wanted = self.output.wanted();
        let waiting = self.batch.events.len() as u64;
        if waiting >= wanted {
            self.tally.count(id, cpu, Outcome::AfterLimit);
            return;
        }
        self.sink.event(event, &mut self.batch.text);
        let end = self.batch.text.len();
        self.batch.events.push(Formatted { id, cpu, end });
        if end >= BUFFER_BYTES || waiting + 1 == wanted {
            self.flush(patience);
        }
    }

    /// Writes the batch. An event counts as delivered when its last byte is written.
    fn flush(&mut self, patience: &Patience) {
        if self.batch.events.is_empty() {
            return;
        }
        let written = self.output.write(&self.batch, patience);
        for (index, event) in self.batch.events.drain(..).enumerate() {
            let outcome = if index < written { Outcome::Delivered } else { Outcome::OutputLost };
            self.tally.count(event.id, event.cpu, outcome);
        }
        self.batch.text.clear();
        patience.renew();
    }
}

impl std::fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventWriter").finish_non_exhaustive()
    }
}

/// Why an output wants the run to end.
#[derive(Debug)]
pub enum WriterEnd {
    /// As many events as the user wanted are written.
    LimitReached,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The output cannot be written.
    OutputFailed(io::Error),
}

/// A file, a pipe or a terminal that a run writes its events to.
#[derive(Debug)]
pub struct FileOutput {
    output: Output,
    /// Events that may still be written.
    remaining: u64,
    failed: bool,
    ended: UnboundedSender<WriterEnd>,
}

impl FileOutput {
    /// Writes at most `limit` events; `ended` gets one message, when the run is to end.
    #[must_use]
    pub fn new(output: Output, limit: Option<u64>, ended: UnboundedSender<WriterEnd>) -> Self {
        Self { output, remaining: limit.unwrap_or(u64::MAX), failed: false, ended }
    }
}

impl EventOutput for FileOutput {
    fn wanted(&self) -> u64 {
        self.remaining
    }

    fn write(&mut self, batch: &Batch, patience: &Patience) -> usize {
        if self.failed {
            return 0;
        }
        let (bytes, result) = self.output.write(batch.text(), patience);
        let written = batch.events_in(bytes);
        self.remaining -= written as u64;
        let end = match result {
            Err(error) => {
                self.failed = true;
                match error.kind() {
                    io::ErrorKind::BrokenPipe => WriterEnd::OutputClosed,
                    // The run is over, and its reader was waited for long enough.
                    io::ErrorKind::WouldBlock => return written,
                    _ => WriterEnd::OutputFailed(error),
                }
            }
            Ok(()) if self.remaining == 0 => WriterEnd::LimitReached,
            Ok(()) => return written,
        };
        // Nobody listens once the run is ending anyway.
        let _ = self.ended.send(end);
        written
    }
}
