//! Metrics for Prometheus.
//!
//! Takes a [`Catalog`], the list of what is attached, which the owner of the probes publishes whenever
//! it changes; gives text in either of Prometheus's formats. Counters are read at the scrape, from
//! memory that is shared with the kernel. Nothing is summed up beforehand, and no scrape asks the owner
//! of the probes for anything.

mod budget;
mod collector;
mod format;
mod overhead;
mod own;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use self::{budget::Budget, collector::ProbeCollector};
pub use self::{format::Format, own::OwnUse};
use faultline_engine::{collect::catalog::Catalog, limiter::OverheadStatus};

/// All metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    catalog: Arc<Published>,
    budget: Arc<Mutex<Budget>>,
    overhead: Arc<RwLock<Option<OverheadStatus>>>,
    /// The daemon's metrics about itself.
    pub own: OwnMetrics,
}

/// The catalog of the moment.
#[derive(Debug, Default)]
pub struct Published(RwLock<Arc<Catalog>>);

impl Published {
    /// The catalog of the moment.
    pub fn get(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, catalog: Catalog) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Result {
    /// `success` or `failure`.
    pub result: &'static str,
}

/// The daemon's metrics about itself, set by its parts.
#[derive(Debug, Clone)]
pub struct OwnMetrics {
    /// How long sets of probes took to attach.
    pub attach_seconds: Histogram,
    /// How long they took to be released.
    pub detach_seconds: Histogram,
    /// The last grace period that was seen.
    pub grace_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Tasks inside a page fault on our behalf.
    pub tasks_in_fault: Gauge,
    /// Tasks that were found stuck in one.
    pub tasks_stuck: Counter,
    /// Reloads of the configuration.
    pub reloads: Family<Result, Counter>,
    /// When the configuration was last applied, in seconds since 1970.
    pub reload_time: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Whether the last reload succeeded.
    pub reload_successful: Gauge,
    /// Failed writes of events.
    pub output_failures: Counter,
    /// Events that were not sent to a `tail` client that reads too slowly.
    pub tail_dropped: Counter,
    /// Connections that were closed because there were too many.
    pub connections_evicted: Counter,
}

impl OwnMetrics {
    fn new(registry: &mut Registry) -> Self {
        // From a link's own time to that of a stuck one.
        let seconds = || [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let own = Self {
            attach_seconds: Histogram::new(seconds()),
            detach_seconds: Histogram::new(seconds()),
            grace_seconds: Gauge::default(),
            tasks_in_fault: Gauge::default(),
            tasks_stuck: Counter::default(),
            reloads: Family::default(),
            reload_time: Gauge::default(),
            reload_successful: Gauge::default(),
            output_failures: Counter::default(),
            tail_dropped: Counter::default(),
            connections_evicted: Counter::default(),
        };
        for result in ["success", "failure"] {
            drop(own.reloads.get_or_create(&Result { result }));
        }
        let r = registry;
        r.register(
            "faultline_attach_duration_seconds",
            "Time to attach a set of probes",
            own.attach_seconds.clone(),
        );
        r.register(
            "faultline_detach_duration_seconds",
            "Time to release a set of probes",
            own.detach_seconds.clone(),
        );
        r.register(
            "faultline_grace_period_seconds",
            "Time the kernel took to release the fastest link of the last set",
            own.grace_seconds.clone(),
        );
        r.register(
            "faultline_tasks_in_fault",
            "Tasks inside a page fault that reading an argument caused",
            own.tasks_in_fault.clone(),
        );
        r.register(
            "faultline_tasks_stuck",
            "Tasks that were stuck in such a fault for more than a second",
            own.tasks_stuck.clone(),
        );
        r.register("faultline_config_reloads", "Reloads of the configuration", own.reloads.clone());
        r.register(
            "faultline_config_last_reload_success_timestamp_seconds",
            "When the configuration was last applied",
            own.reload_time.clone(),
        );
        r.register(
            "faultline_config_last_reload_successful",
            "Whether the last reload succeeded",
            own.reload_successful.clone(),
        );
        r.register(
            "faultline_event_output_failures",
            "Times that the event output began to fail",
            own.output_failures.clone(),
        );
        r.register(
            "faultline_tail_dropped",
            "Events not sent to clients of tail that read too slowly",
            own.tail_dropped.clone(),
        );
        r.register(
            "faultline_connections_evicted",
            "Idle connections closed to make room for others",
            own.connections_evicted.clone(),
        );
        own
    }
}

impl Metrics {
    /// Metrics without probes, with at most `max_series` series of probes later.
    pub fn new(max_series: usize) -> Self {
        let mut registry = Registry::default();
        let catalog = Arc::new(Published::default());
        let own = OwnMetrics::new(&mut registry);
        let budget = Arc::new(Mutex::new(Budget::new(max_series)));
        let collector =
            ProbeCollector { catalog: Arc::clone(&catalog), budget: Arc::clone(&budget) };
        registry.register_collector(Box::new(collector));
        registry.register_collector(Box::new(own::OwnCollector));
        let overhead = Arc::default();
        registry.register_collector(Box::new(overhead::OverheadCollector(Arc::clone(&overhead))));
        Self { registry: Mutex::new(registry), catalog, budget, overhead, own }
    }

    /// Changes how many series of probes there may be.
    pub fn limit_series(&self, max_series: usize) {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).max_series = max_series;
    }

    /// Publishes the state of the overhead budget; `None` if there is none.
    pub fn set_overhead(&self, status: Option<OverheadStatus>) {
        *self.overhead.write().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// The state of the overhead budget.
    pub fn overhead(&self) -> Option<OverheadStatus> {
        self.overhead.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what is attached now.
    pub fn publish(&self, catalog: Catalog) {
        self.catalog.set(catalog);
    }

    /// The catalog of the moment.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.get()
    }

    /// The text of a scrape. Concurrent scrapes run one after another.
    pub fn encode(&self, format: Format) -> std::result::Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::with_capacity(1 << 16);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Prometheus => format::to_prometheus(&text),
        })
    }

    /// Notes that probes were attached.
    pub fn attached(&self, took: Duration) {
        self.own.attach_seconds.observe(took.as_secs_f64());
    }

    /// Notes that probes were released.
    pub fn detached(&self, took: Duration, grace: Option<Duration>) {
        self.own.detach_seconds.observe(took.as_secs_f64());
        if let Some(grace) = grace {
            self.own.grace_seconds.set(grace.as_secs_f64());
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
