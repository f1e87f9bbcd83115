//! What signals and clients can do with a running daemon.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{config::Config, event_log::EventLog, notify::Notify, shared::Shared};
use faultline_engine::{Added, Change, Explained, Tracer, TracerError, request::Request};
use faultline_output::prometheus;
use faultline_spec::units::counted;

/// What a change did, as clients see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Changed {
    /// Probes that were added.
    pub(super) added: Vec<AddedProbe>,
    /// Probes that were removed.
    pub(super) removed: Vec<String>,
    /// Probes that were left alone.
    pub(super) kept: usize,
    /// How long attaching took.
    pub(super) attach_ms: f64,
    /// What did not take effect yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

/// A probe that was added.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct AddedProbe {
    /// Its name.
    pub(super) name: String,
    /// Functions that are probed.
    pub(super) functions: usize,
    /// Functions that cannot be probed.
    pub(super) skipped: usize,
    /// Why it is waiting for its target, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waiting: Option<String>,
}

impl From<faultline_engine::Changed> for Changed {
    fn from(changed: faultline_engine::Changed) -> Self {
        let added = changed.added.into_iter().map(|added| {
            let Added { name, functions, skipped, waiting } = added;
            AddedProbe { name, functions, skipped, waiting }
        });
        Self {
            added: added.collect(),
            removed: changed.removed,
            kept: changed.kept,
            attach_ms: changed.took.as_secs_f64() * 1e3,
            notes: Vec::new(),
        }
    }
}

/// The daemon's controls.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) notify: Notify,
    tracer: Tracer,
    /// The active configuration.
    config: Mutex<Config>,
    /// Serialises reloads.
    reloading: tokio::sync::Mutex<()>,
    /// Whether a reload waits for its turn; it will read the file as it is then.
    reload_waits: AtomicBool,
    /// Why the last reload failed, if it did.
    failure: Mutex<Option<String>>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, notify: Notify, tracer: Tracer, config: Config) -> Self {
        Self {
            shared,
            notify,
            tracer,
            config: Mutex::new(config),
            reloading: tokio::sync::Mutex::new(()),
            reload_waits: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Why probes have had no hits, and what else is to be known about hits.
    pub(super) async fn explain(&self) -> anyhow::Result<Vec<Explained>> {
        self.tracer.explain().await.map_err(|_| anyhow!("the daemon is stopping"))
    }

    async fn change(&self, change: Change) -> anyhow::Result<Changed> {
        let answer: oneshot::Receiver<Result<_, TracerError>> = self.tracer.change(change);
        let changed = answer.await.map_err(|_| anyhow!("the daemon is stopping"))?;
        Ok(changed?.into())
    }

    /// Attaches the probes of the configuration that the daemon was started with.
    pub(super) async fn start(&self) -> anyhow::Result<Changed> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changed = self.change(config.change()).await?;
        self.became_active();
        Ok(changed)
    }

    /// Reloads the configuration and applies the changes.
    ///
    /// # Errors
    ///
    /// The file is invalid, or its probes cannot be attached. Nothing is changed then.
    pub(super) async fn reload(&self) -> anyhow::Result<Changed> {
        let _alone = self.reloading.lock().await;
        self.reload_waits.store(false, Ordering::Relaxed);
        self.notify.reloading();
        let result = self.try_reload().await;
        let own = &self.shared.metrics.own;
        let label = if result.is_ok() { "success" } else { "failure" };
        own.reloads.get_or_create(&prometheus::Result { result: label }).inc();
        match &result {
            Ok(changed) => {
                self.became_active();
                tracing::info!(
                    "reloaded {}: {} added, {} removed, {} kept",
                    self.shared.config_path.display(),
                    counted(changed.added.len(), "probe"),
                    changed.removed.len(),
                    changed.kept
                );
            }
            Err(error) => {
                own.reload_successful.set(0);
                tracing::error!("failed to reload, nothing was changed: {error:#}");
            }
        }
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) =
            result.as_ref().err().map(|error| format!("; last reload failed: {error:#}"));
        // The old configuration is still active: ready either way.
        self.notify.ready(&self.status_line());
        result
    }

    /// Reloads as soon as possible, without waiting for it; a thousand signals cause one reload.
    pub(super) fn reload_soon(self: &Arc<Self>) {
        if !self.reload_waits.swap(true, Ordering::Relaxed) {
            let control = Arc::clone(self);
            tokio::spawn(async move { drop(control.reload().await) });
        }
    }

    async fn try_reload(&self) -> anyhow::Result<Changed> {
        let path = self.shared.config_path.clone();
        let config = tokio::task::spawn_blocking(move || Config::read(&path))
            .await
            .context("a thread ended early")??;
        EventLog::check(&config.events).with_context(|| config.events.failed_to_open())?;
        let before = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut changed = self.change(config.change()).await?;
        let mut note = |note: String| {
            tracing::warn!("{note}");
            changed.notes.push(note);
        };
        if config.control != before.control || config.metrics.listen != before.metrics.listen {
            note("a change of `control` or `metrics.listen` takes effect after a restart".into());
        }
        self.shared.metrics.limit_series(config.metrics.max_series);
        if let Err(error) = self.shared.log.reopen(&config.events) {
            note(format!("events still go to the old output: {error}"));
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(changed)
    }

    /// Notes when the configuration became active.
    fn became_active(&self) {
        let own = &self.shared.metrics.own;
        own.reload_successful.set(1);
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            own.reload_time.set(now.as_secs_f64());
        }
    }

    /// Attaches probes that are not in the configuration.
    pub(super) async fn attach(
        &self,
        requests: Vec<Request>,
        may_wait: bool,
    ) -> anyhow::Result<Changed> {
        self.change(Change::Add { requests, may_wait }).await
    }

    /// Detaches probes, from the configuration or not.
    pub(super) async fn detach(&self, names: Vec<String>) -> anyhow::Result<Changed> {
        self.change(Change::Remove { names }).await
    }

    /// Releases everything; returns whether that finished in time.
    pub(super) async fn stop(&self) -> bool {
        let within = {
            let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            config.limits.stop_timeout
        };
        let stopping = self.tracer.stop(Some(within), &Arc::default());
        // The tracer keeps to the time itself; this timeout is a backstop.
        let stopped = tokio::time::timeout(within + Duration::from_secs(1), stopping).await;
        matches!(stopped, Ok(Ok(stopped)) if stopped.complete)
    }

    /// The state, in one line.
    pub(super) fn status_line(&self) -> String {
        let catalog = self.shared.metrics.catalog();
        let waiting = match catalog.probes_waiting {
            0 => String::new(),
            waiting => format!(", {waiting} waiting for their target"),
        };
        let releasing = match self.shared.releasing.load(Ordering::Relaxed) {
            0 => "",
            _ => ", releasing",
        };
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "{} attached ({}, {}){waiting}{releasing}{}",
            counted(catalog.probes_attached, "probe"),
            counted(catalog.functions, "function"),
            counted(catalog.links, "link"),
            failure.as_deref().unwrap_or_default(),
        )
    }
}
