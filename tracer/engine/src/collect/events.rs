//! Turns records into events and passes them to a handler.

use std::sync::{Arc, Mutex, PoisonError};

use faultline_plan::AttachPlan;

use super::{
    Outcome, Tally,
    decode::{self, Clock, Event},
    drain::{Patience, RecordReader},
};

/// Handles the events of one set of probes. It runs on the set's drain thread: while it blocks, events wait
/// in the ring buffer, and once that is full they are lost and counted.
///
/// It counts each event's outcome in [`EventStream::tally`] once that is known.
pub trait EventHandler: Send {
    /// One event.
    fn event(&mut self, event: &Event<'_>, patience: &Patience);
    /// No more events for the moment: show what was handled.
    fn flush(&mut self, patience: &Patience);
}

/// What a handler needs to know about its set.
#[derive(Debug, Clone)]
pub struct EventStream {
    /// The set's probes.
    pub plan: Arc<AttachPlan>,
    /// The request that each probe is for, by [`ProbeId`](faultline_plan::ProbeId).
    pub names: Arc<[Arc<str>]>,
    /// Counts the outcomes.
    pub tally: Arc<Tally>,
}

/// Makes the handler of each set whose action is events.
pub type HandlerFactory = Arc<dyn Fn(EventStream) -> Box<dyn EventHandler> + Send + Sync>;

/// Calls a function for each event: for programs whose handling is fast enough to keep up.
///
/// ```
/// let handlers = faultline_engine::collect::events::each(|event| println!("{:?}", event.kind));
/// ```
pub fn each(see: impl FnMut(&Event<'_>) + Send + 'static) -> HandlerFactory {
    let see = Arc::new(Mutex::new(see));
    Arc::new(move |stream| Box::new(Each { see: Arc::clone(&see), stream }))
}

struct Each<F> {
    see: Arc<Mutex<F>>,
    stream: EventStream,
}

impl<F: FnMut(&Event<'_>) + Send> EventHandler for Each<F> {
    fn event(&mut self, event: &Event<'_>, patience: &Patience) {
        (self.see.lock().unwrap_or_else(PoisonError::into_inner))(event);
        self.stream.tally.count(event.id, event.cpu, Outcome::Delivered);
        patience.renew();
    }

    fn flush(&mut self, _patience: &Patience) {}
}

/// Decodes records for a handler.
pub(crate) struct Decoder {
    stream: EventStream,
    clock: Clock,
    handler: Box<dyn EventHandler>,
}

impl Decoder {
    pub(crate) fn new(stream: EventStream, handler: Box<dyn EventHandler>) -> Self {
        Self { stream, clock: Clock::now(), handler }
    }
}

impl RecordReader for Decoder {
    fn begin(&mut self) {
        self.clock = Clock::now();
    }

    fn record(&mut self, record: &[u8], patience: &Patience) {
        match decode::decode(record, &self.stream.plan.probes, &self.clock) {
            Ok(event) => self.handler.event(&event, patience),
            Err(error) => {
                tracing::warn!("undecodable record of {} bytes: {error}", record.len());
                self.stream.tally.count_unknown();
            }
        }
    }

    fn flush(&mut self, patience: &Patience) {
        self.handler.flush(patience);
    }
}
