//! The end of the pipeline of a group of probes: records to lines of JSON, and what became of each.

use std::sync::Arc;

use super::event_log::EventLog;
use faultline_engine::{
    decode::{self, Clock},
    drain::{Patience, RecordReader},
};
use faultline_output::{JsonSink, Outcome, Sink as _, Tally};
use faultline_plan::{AttachPlan, ProbeId};

/// Formatted bytes that are kept before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes the events of one group.
#[derive(Debug)]
pub(super) struct EventReader {
    plan: Arc<AttachPlan>,
    /// The name of each probe.
    names: Vec<Arc<str>>,
    sink: JsonSink,
    clock: Clock,
    tally: Arc<Tally>,
    log: Arc<EventLog>,
    buffer: Vec<u8>,
    /// Probe and CPU of each event in the buffer, and where its line ends.
    pending: Vec<(ProbeId, u16)>,
    ends: Vec<usize>,
}

impl EventReader {
    pub(super) fn new(
        plan: Arc<AttachPlan>,
        names: Vec<Arc<str>>,
        tally: Arc<Tally>,
        log: Arc<EventLog>,
    ) -> Self {
        Self {
            plan,
            sink: JsonSink::with_names(names.clone()),
            names,
            clock: Clock::now(),
            tally,
            log,
            buffer: Vec::with_capacity(BUFFER_BYTES + 64 * 1024),
            pending: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn write(&mut self) {
        if self.ends.is_empty() {
            return;
        }
        let written = self.log.write(&self.buffer, &self.ends);
        for (index, (id, cpu)) in self.pending.iter().enumerate() {
            let outcome = if index < written { Outcome::Delivered } else { Outcome::OutputLost };
            self.tally.count(*id, *cpu, outcome);
        }
        let lines = self.pending.iter().enumerate().filter_map(|(index, (id, _))| {
            let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
            Some((self.names.get(id.0 as usize)?, &self.buffer[begin..self.ends[index]]))
        });
        self.log.tails.send(&lines);
        self.buffer.clear();
        self.pending.clear();
        self.ends.clear();
    }
}

impl RecordReader for EventReader {
    fn begin(&mut self) {
        self.clock = Clock::now();
    }

    fn record(&mut self, record: &[u8], patience: &Patience) {
        match decode::decode(record, &self.plan.probes, &self.clock) {
            Ok(event) => {
                self.pending.push((event.id, event.cpu));
                self.sink.event(&event, &mut self.buffer);
                self.ends.push(self.buffer.len());
            }
            Err(error) => {
                tracing::warn!("undecodable record of {} bytes: {error}", record.len());
                self.tally.count_unknown();
            }
        }
        if self.buffer.len() >= BUFFER_BYTES {
            self.write();
            patience.renew();
        }
    }

    fn flush(&mut self, patience: &Patience) {
        self.write();
        patience.renew();
    }
}
