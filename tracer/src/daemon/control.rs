//! What may be done with a running daemon, whoever wants it: a signal or a client.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

use super::{
    config::{Config, ProbeConfig},
    engine::{Changed, Command, Shared},
    event_log::EventLog,
    notify::Notify,
};
use faultline_output::prometheus;
use faultline_spec::units::counted;

/// The daemon's controls.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) notify: Notify,
    commands: Mutex<mpsc::Sender<Command>>,
    /// What is in force.
    config: Mutex<Config>,
    /// One reload after another.
    reloading: tokio::sync::Mutex<()>,
    /// A reload waits for its turn, and will see the file as it is then.
    reload_waits: AtomicBool,
    /// Why the last reload changed nothing, if it did not.
    failure: Mutex<Option<String>>,
}

impl Control {
    pub(super) fn new(
        shared: Arc<Shared>,
        notify: Notify,
        commands: mpsc::Sender<Command>,
        config: Config,
    ) -> Self {
        Self {
            shared,
            notify,
            commands: Mutex::new(commands),
            config: Mutex::new(config),
            reloading: tokio::sync::Mutex::new(()),
            reload_waits: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        let stopping = || anyhow!("the daemon is stopping");
        {
            let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
            commands.send(command(reply)).map_err(|_| stopping())?;
        }
        answer.await.map_err(|_| stopping())
    }

    /// Attaches the probes of the configuration that the daemon was started with.
    pub(super) async fn start(&self) -> anyhow::Result<Changed> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changed = self.ask(|reply| Command::Reload(Box::new(config), reply)).await??;
        self.now_in_force();
        Ok(changed)
    }

    /// Reads the configuration anew and puts the difference in force.
    ///
    /// # Errors
    ///
    /// The file is wrong, or its probes cannot be attached; nothing has changed then.
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
                self.now_in_force();
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
                tracing::error!("nothing was reloaded: {error:#}");
            }
        }
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) =
            result.as_ref().err().map(|error| format!("; last reload failed: {error:#}"));
        // What was in force still is: ready either way.
        self.notify.ready(&self.status_line());
        result
    }

    /// Reloads when it can, and does not wait for it; a thousand signals are one wish.
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
        let mut changed =
            self.ask(|reply| Command::Reload(Box::new(config.clone()), reply)).await??;
        let mut note = |note: String| {
            tracing::warn!("{note}");
            changed.notes.push(note);
        };
        if config.control != before.control || config.metrics.listen != before.metrics.listen {
            note(
                "a change of `control` or `metrics.listen` is in force from the next start on"
                    .into(),
            );
        }
        self.shared.metrics.limit_series(config.metrics.max_series);
        if let Err(error) = self.shared.log.reopen(&config.events) {
            note(format!("events go where they went before: {error}"));
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(changed)
    }

    /// Tells since when the configuration is in force.
    fn now_in_force(&self) {
        let own = &self.shared.metrics.own;
        own.reload_successful.set(1);
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            own.reload_time.set(now.as_secs_f64());
        }
    }

    /// Attaches probes besides those of the configuration.
    pub(super) async fn attach(
        &self,
        probes: Vec<ProbeConfig>,
        may_wait: bool,
    ) -> anyhow::Result<Changed> {
        self.ask(|reply| Command::Attach { probes, may_wait, reply }).await?
    }

    /// Detaches probes, wherever they came from.
    pub(super) async fn detach(&self, names: Vec<String>) -> anyhow::Result<Changed> {
        self.ask(|reply| Command::Detach { names, reply }).await?
    }

    /// Releases everything; whether it was done in time.
    pub(super) async fn stop(&self) -> bool {
        let patience = {
            let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            // An engine that is in the middle of a change finishes it first.
            config.limits.stop_timeout + Duration::from_secs(5)
        };
        matches!(tokio::time::timeout(patience, self.ask(Command::Stop)).await, Ok(Ok(true)))
    }

    /// The state in a line.
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
