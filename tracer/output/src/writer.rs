//! The end of the pipeline: has records decoded and formatted, writes them, and counts what became
//! of each.

use std::{io, sync::Arc};

use tokio::sync::mpsc::UnboundedSender;

use crate::{Outcome, Output, Sink, Tally};
use faultline_engine::{
    decode::{self, Clock},
    drain::{Patience, RecordReader},
};
use faultline_plan::{AttachPlan, ProbeId};

/// Formatted bytes that are kept before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// Why the writer wants the run to end.
#[derive(Debug)]
pub enum WriterEnd {
    /// As many events as the user wanted are written.
    LimitReached,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The output cannot be written.
    OutputFailed(io::Error),
}

/// Writes events.
pub struct EventWriter {
    plan: Arc<AttachPlan>,
    sink: Box<dyn Sink>,
    clock: Clock,
    writer: Writer,
}

impl EventWriter {
    /// Writes the events of `plan` through `sink` to `output`, at most `limit` of them, and counts
    /// in `tally`; `ended` is told once, when the writer wants the run to end.
    pub fn new(
        plan: Arc<AttachPlan>,
        sink: Box<dyn Sink>,
        output: Output,
        limit: Option<u64>,
        tally: Arc<Tally>,
        ended: UnboundedSender<WriterEnd>,
    ) -> Self {
        Self {
            plan,
            sink,
            clock: Clock::now(),
            writer: Writer {
                output,
                buffer: Vec::with_capacity(BUFFER_BYTES + 64 * 1024),
                pending: Vec::new(),
                tally,
                remaining: limit.unwrap_or(u64::MAX),
                failed: false,
                ended,
            },
        }
    }
}

impl RecordReader for EventWriter {
    fn begin(&mut self) {
        self.clock = Clock::now();
    }

    fn record(&mut self, record: &[u8], patience: &Patience) {
        let writer = &mut self.writer;
        let event = match decode::decode(record, &self.plan.probes, &self.clock) {
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
                writer.flush(patience);
            }
        }
    }

    fn flush(&mut self, patience: &Patience) {
        self.writer.flush(patience);
    }
}

impl std::fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventWriter").finish_non_exhaustive()
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
    ended: UnboundedSender<WriterEnd>,
}

impl Writer {
    /// Writes the buffer. An event counts as delivered when its last byte is written.
    fn flush(&mut self, patience: &Patience) {
        if self.buffer.is_empty() {
            return;
        }
        let (written, result) = self.output.write(&self.buffer, patience);
        for event in self.pending.drain(..) {
            let outcome =
                if event.end <= written { Outcome::Delivered } else { Outcome::OutputLost };
            self.tally.count(event.id, event.cpu, outcome);
        }
        self.buffer.clear();
        patience.renew();
        let end = match result {
            Err(error) => {
                self.failed = true;
                match error.kind() {
                    io::ErrorKind::BrokenPipe => WriterEnd::OutputClosed,
                    // The run is over, and its reader was waited for long enough.
                    io::ErrorKind::WouldBlock => return,
                    _ => WriterEnd::OutputFailed(error),
                }
            }
            Ok(()) if self.remaining == 0 => WriterEnd::LimitReached,
            Ok(()) => return,
        };
        // Nobody listens once the run is ending anyway.
        let _ = self.ended.send(end);
    }
}
