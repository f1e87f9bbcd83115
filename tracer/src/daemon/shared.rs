//! What all parts of the daemon may read. Keeps, logs and counts what the tracer reports.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use faultline_engine::{
    Observer, Origin, RequestStatus, Vitals,
    collect::{
        catalog::Catalog,
        drain::Patience,
        events::{EventStream, HandlerFactory},
    },
    limiter::OverheadStatus,
    notice::{Level, Notice, Slow},
    request::RequestText,
};
use faultline_output::{Batch, EventOutput, EventWriter, JsonSink, prometheus::Metrics};
use serde::Serialize;

use super::{event_log::EventLog, memory};

/// Reasons that are listed; further ones are only counted.
const SHOWN_SKIPPED: usize = 20;

/// What all parts of the daemon may read.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<EventLog>,
    /// The named probes.
    probes: RwLock<Arc<Vec<ProbeStatus>>>,
    /// Sets of probes that are being released.
    pub(super) releasing: AtomicUsize,
    /// Whether the probes of the configuration are attached.
    pub(super) ready: AtomicBool,
    /// The configuration file.
    pub(super) config_path: PathBuf,
    /// How often the tracer and its event readers were seen alive.
    pub(super) beats: AtomicU64,
    pub(super) started: Instant,
    slow: Mutex<Vec<Slow>>,
}

/// A named probe, as `ctl list` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ProbeStatus {
    /// As written.
    #[serde(flatten)]
    pub(super) text: RequestText,
    /// `attached` or `waiting`.
    state: &'static str,
    /// Why it is waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// `config` or `control`.
    origin: &'static str,
    /// Functions that are probed now.
    functions: usize,
    /// Of these, functions that the overhead limiter has detached at the moment.
    detached: usize,
    /// Links.
    links: usize,
    /// Probed files, under the names that their processes use.
    files: Vec<String>,
    /// Processes that are probed, unless all are.
    processes: Vec<u32>,
    /// Functions that cannot be probed.
    skipped: usize,
    /// Some of them, with the reason.
    reasons: Vec<Skipped>,
}

/// A function that cannot be probed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Skipped {
    probe: String,
    reason: String,
}

impl From<RequestStatus> for ProbeStatus {
    fn from(status: RequestStatus) -> Self {
        let reasons = status.skipped.iter().take(SHOWN_SKIPPED).map(|skipped| Skipped {
            probe: skipped.label.to_string(),
            reason: skipped.reason.to_string(),
        });
        Self {
            text: status.request.text.clone(),
            state: if status.problem.is_none() { "attached" } else { "waiting" },
            problem: status.problem.as_deref().map(str::to_owned),
            origin: match status.origin {
                Origin::Config => "config",
                Origin::Control => "control",
            },
            functions: status.functions,
            detached: status.away,
            links: status.links,
            files: status.files,
            processes: status.processes,
            skipped: status.skipped.len(),
            reasons: reasons.collect(),
        }
    }
}

impl Shared {
    pub(super) fn new(metrics: Arc<Metrics>, log: EventLog, config_path: PathBuf) -> Self {
        Self {
            metrics,
            log: Arc::new(log),
            probes: RwLock::default(),
            releasing: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
            config_path,
            beats: AtomicU64::new(0),
            started: Instant::now(),
            slow: Mutex::default(),
        }
    }

    /// The named probes at the moment.
    pub(super) fn probes(&self) -> Arc<Vec<ProbeStatus>> {
        Arc::clone(&self.probes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Work that takes unusually long at the moment.
    pub(super) fn slow(&self) -> Vec<Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the events of each set to the log, one JSON object per line.
    pub(super) fn handlers(&self) -> HandlerFactory {
        let log = Arc::clone(&self.log);
        Arc::new(move |stream: EventStream| {
            let sink = Box::new(JsonSink::with_names(stream.names.to_vec()));
            let output = LogOutput { log: Arc::clone(&log), names: Arc::clone(&stream.names) };
            Box::new(EventWriter::new(&stream, sink, Box::new(output)))
        })
    }
}

impl Observer for Shared {
    fn notice(&self, notice: Notice) {
        match &notice {
            Notice::Stuck(_) => drop(self.metrics.own.tasks_stuck.inc()),
            Notice::Released { took, grace, .. } => {
                self.metrics.detached(*took, *grace);
                memory::give_back();
            }
            _ => {}
        }
        match notice.level() {
            Level::Info => tracing::info!("{notice}"),
            Level::Warning => tracing::warn!("{notice}"),
            Level::Error => tracing::error!("{notice}"),
        }
    }

    fn wants_catalog(&self) -> bool {
        true
    }

    fn published(&self, catalog: Catalog, requests: Vec<RequestStatus>) {
        self.metrics.publish(catalog);
        let probes = requests.into_iter().map(ProbeStatus::from).collect();
        *self.probes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(probes);
    }

    fn attached(&self, took: Duration) {
        self.metrics.attached(took);
    }

    fn overhead(&self, status: Option<OverheadStatus>) {
        self.metrics.set_overhead(status);
    }

    fn vitals(&self, vitals: &Vitals) {
        if vitals.drains_alive {
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
        let in_fault = i64::try_from(vitals.tasks_in_fault).unwrap_or(i64::MAX);
        self.metrics.own.tasks_in_fault.set(in_fault);
        self.releasing.store(vitals.releasing, Ordering::Relaxed);
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&vitals.slow);
    }
}

/// The log and its listeners.
struct LogOutput {
    log: Arc<EventLog>,
    /// The named probe of each probe of the set.
    names: Arc<[Arc<str>]>,
}

impl EventOutput for LogOutput {
    fn write(&mut self, batch: &Batch, _patience: &Patience) -> usize {
        let ends: Vec<_> = batch.ends().collect();
        let written = self.log.write(batch.text(), &ends);
        let lines =
            batch.lines().filter_map(|(id, line)| Some((self.names.get(id.0 as usize)?, line)));
        self.log.tails.send(&lines);
        written
    }
}
