//! The daemon: a set of probes that stays attached for months, changed while it runs.
//!
//! Takes a [`config::Config`] and runs until it is stopped. One thread, the engine, owns the probes;
//! all others send it requests, or read what it publishes.
//!
//! - [`config`]: the file, checked.
//! - `engine`: attaches, releases, follows targets as they appear and disappear.
//! - `find`, `processes`, `watch`: where on this machine to attach a probe.
//! - `events`, `event_log`, `tail`: from records to a file, the journal and listening clients.
//! - `control`: reload, attach, detach: by signal or by client.
//! - `api`, `scrape`, `server`, `socket`: HTTP for `ctl` and for Prometheus.
//! - `notify`, `privileges`: systemd, capabilities.

mod api;
mod check;
pub mod config;
mod control;
mod event_log;
mod memory;
mod notify;
mod privileges;
mod scrape;
mod server;
mod shared;
mod socket;
mod tail;

use std::{
    net::TcpListener,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::signal::unix::SignalKind;

pub use self::check::check;
use self::{
    config::Config,
    control::Control,
    event_log::EventLog,
    notify::Notify,
    server::{ControlListener, Limits},
    shared::Shared,
    socket::ControlSocket,
};
use crate::signals::Listener;
use faultline_engine::{
    Host, Options, Tracer,
    kernel::{Holding, missing_privilege},
};
use faultline_output::prometheus::Metrics;

/// How often the line in `systemctl status` is updated.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// Limits for clients of the control socket, and of the metrics.
const CONTROL_LIMITS: Limits = Limits { connections: 128, lifetime: None };
const SCRAPE_LIMITS: Limits = Limits { connections: 128, lifetime: Some(Duration::from_secs(30)) };

/// What is opened before privileges are given up.
struct Opened {
    socket: ControlSocket,
    control: std::os::unix::net::UnixListener,
    metrics: Option<TcpListener>,
}

/// Runs the daemon until it is stopped.
///
/// # Errors
///
/// The configuration is invalid, a privilege is missing, an address or the socket is taken, or the
/// kernel refuses to load the programs.
pub fn run(config_path: &Path) -> anyhow::Result<()> {
    let config = Config::read(config_path)?;
    let config_path = std::path::absolute(config_path)?;
    if let Some(missing) = missing_privilege() {
        bail!("{missing} (run it as root, or with this capability)");
    }
    privileges::raise_file_limit();
    memory::keep_small();
    let opened = Opened::open(&config)?;
    let metrics = Arc::new(Metrics::new(config.metrics.max_series));
    let log = EventLog::open(&config.events, metrics.own.clone())
        .with_context(|| config.events.failed_to_open())?;
    // Before privileges are given up: finding out needs them.
    let host = Host::detect();
    let features = host.features().context("failed to find out what this kernel supports")?;
    let kept =
        privileges::drop_unneeded(!features.batches()).context("failed to give up privileges")?;
    tracing::info!("keeping capabilities: {}", kept.join(", "));
    let shared = Arc::new(Shared::new(metrics, log, config_path));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start threads")?;
    let result = runtime.block_on(serve(config, opened, shared, host));
    // Do not wait for a thread that waits for a stuck task.
    runtime.shutdown_background();
    result
}

impl Opened {
    fn open(config: &Config) -> anyhow::Result<Self> {
        let metrics = match config.metrics.listen {
            Some(address) => {
                let context = || format!("failed to listen on {address} for metrics");
                let listener = TcpListener::bind(address).with_context(context)?;
                listener.set_nonblocking(true).with_context(context)?;
                Some(listener)
            }
            None => None,
        };
        let (socket, control) = ControlSocket::bind(&config.control.socket, &config.control.group)?;
        Ok(Self { socket, control, metrics })
    }
}

async fn serve(
    config: Config,
    opened: Opened,
    shared: Arc<Shared>,
    host: Host,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    for note in host.features()?.notes(true, false) {
        tracing::warn!("{note}");
    }
    let tracer = Tracer::start(Options {
        host,
        settings: config.settings(),
        holding: Holding::InThreads,
        helper: true,
        diagnostics: false,
        changes: true,
        handlers: Some(shared.handlers()),
        observer: Arc::clone(&shared) as Arc<_>,
    })?;
    let control = Arc::new(Control::new(Arc::clone(&shared), Notify::from_env(), tracer, config));
    let evicted = &shared.metrics.own.connections_evicted;
    if let Some(listener) = opened.metrics {
        tracing::info!("metrics on http://{}/metrics", listener.local_addr()?);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let router = scrape::router(scrape::Scraped::new(Arc::clone(&shared)));
        tokio::spawn(server::serve(listener, router, SCRAPE_LIMITS, evicted.clone()));
    }
    let socket = Arc::new(opened.socket);
    let listener = ControlListener {
        listener: tokio::net::UnixListener::from_std(opened.control)?,
        socket: Arc::clone(&socket),
    };
    let router = api::router(Arc::clone(&control));
    let control_server =
        tokio::spawn(server::serve(listener, router, CONTROL_LIMITS, evicted.clone()));
    let result = run_until_stopped(&control, &mut signals).await;
    control.notify.stopping();
    let started = Instant::now();
    let in_time = control.stop().await;
    if in_time {
        tracing::info!(
            "stopped; all probes released in {:.0} ms",
            started.elapsed().as_secs_f64() * 1e3
        );
    } else {
        tracing::error!(
            "stopped, but the kernel did not release all probes within {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
    control_server.abort();
    let _ = control_server.await;
    drop(socket);
    result
}

/// Attaches the configured probes, then acts on signals until one stops it.
async fn run_until_stopped(control: &Arc<Control>, signals: &mut Signals) -> anyhow::Result<()> {
    let starting = tokio::select! {
        changed = control.start() => Some(changed?),
        name = signals.stop.next() => {
            tracing::info!("{name} before the probes were attached: stopping");
            None
        }
    };
    let Some(changed) = starting else { return Ok(()) };
    for added in &changed.added {
        if let Some(problem) = &added.waiting {
            tracing::warn!("`{}` waits for its target: {problem}", added.name);
        }
    }
    let shared = &control.shared;
    shared.ready.store(true, Ordering::Relaxed);
    let status = control.status_line();
    tracing::info!("ready: {status}; attached in {:.0} ms", changed.attach_ms);
    control.notify.ready(&status);
    // Twice per timeout, as systemd advises.
    let watchdog_every = control.notify.watchdog().map(|time| time / 2);
    let mut watchdog =
        tokio::time::interval(watchdog_every.unwrap_or(STATUS_EVERY).max(Duration::from_millis(1)));
    let mut status = tokio::time::interval(STATUS_EVERY);
    let mut beats = 0;
    loop {
        tokio::select! {
            name = signals.stop.next() => {
                tracing::info!("received {name}, stopping");
                return Ok(());
            }
            () = signals.reload.recv() => control.reload_soon(),
            _ = watchdog.tick(), if watchdog_every.is_some() => {
                let now = shared.beats.load(Ordering::Relaxed);
                if now == beats {
                    tracing::warn!("watchdog: the engine or the event reader is stalled");
                } else {
                    beats = now;
                    control.notify.alive();
                }
            }
            _ = status.tick() => {
                control.notify.status(&control.status_line());
                memory::give_back();
            }
        }
    }
}

/// The signals that the daemon reacts to.
struct Signals {
    reload: Listener,
    stop: Stop,
}

struct Stop {
    interrupt: Listener,
    terminate: Listener,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| Listener::new(kind).context("failed to listen for signals");
        Ok(Self {
            reload: listen(SignalKind::hangup())?,
            stop: Stop {
                interrupt: listen(SignalKind::interrupt())?,
                terminate: listen(SignalKind::terminate())?,
            },
        })
    }
}

impl Stop {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = self.interrupt.recv() => "SIGINT",
            () = self.terminate.recv() => "SIGTERM",
        }
    }
}
