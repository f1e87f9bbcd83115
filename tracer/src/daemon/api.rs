//! The control API: HTTP and JSON on the control socket. docs/api.md describes it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::{Body as _, Frame};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    control::{Changed, Control},
    tail::Heard,
};
use faultline_engine::{
    Explained,
    collect::catalog::{Catalog, CpuFigures, Durations, Kind, Reading},
    kernel::online_cpus,
    limiter::OverheadStatus,
    request::{RequestText, action},
};
use faultline_output::{json_text, prometheus::OwnUse, summary::ProbeCaveat};
use tracer_common::Action;

/// Largest body: some tens of thousands of probes.
const MAX_BODY: usize = 16 << 20;
/// How long a client may take to send it.
const BODY_TIME: Duration = Duration::from_secs(10);

type Controls = State<Arc<Control>>;

/// The routes.
pub(super) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/probes", get(probes).post(attach))
        .route("/v1/hints", get(hints))
        .route("/v1/detach", post(detach))
        .route("/v1/reload", post(reload))
        .route("/v1/figures", get(figures))
        .route("/v1/events", get(all_events))
        .route("/v1/events/{name}", get(events))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "no such path (see docs/api.md)"))
        .method_not_allowed_fallback(async || {
            let message = "this method is not allowed for this path (see docs/api.md)";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .with_state(control)
}

/// A body of JSON, with the escapes of every other JSON that faultline writes.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match json_text(&self.0) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// An error, sent as `{"error": "…"}`.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    /// The request is valid but failed.
    fn not_done(error: &anyhow::Error) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(serde_json::json!({ "error": self.error }))).into_response()
    }
}

async fn body<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let too_large = || {
        let message = format!("the body is longer than {MAX_BODY} bytes, or was cut off");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    // Do not read a body that announces itself as too long.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let bytes = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long"))?
        .map_err(|_| too_large())?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, shortened(&error.to_string())))
}

/// A message may repeat megabytes of wrong input.
fn shortened(message: &str) -> String {
    const MOST_CHARS: usize = 500;
    match message.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    pid: u32,
    ready: bool,
    uptime_ms: u64,
    config: String,
    probes_attached: usize,
    probes_waiting: usize,
    functions: usize,
    links: usize,
    skipped: usize,
    releasing: usize,
    hits: u64,
    events: u64,
    lost: u64,
    cpu_seconds: f64,
    resident_bytes: u64,
    open_fds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead: Option<Overhead>,
    /// What takes unusually long: a file system that does not answer, a lock of the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slow: Vec<String>,
}

/// What the overhead budget does.
#[derive(Serialize)]
struct Overhead {
    max_percent: f64,
    policy: String,
    /// CPU time that hits have cost, estimated.
    hits_seconds: f64,
    /// CPU time spent on attaching and detaching for the budget.
    work_seconds: f64,
    exceeded: u64,
    detached: u64,
    attached_again: u64,
    /// Functions that are detached now.
    away: usize,
    attached_seconds: f64,
}

impl From<OverheadStatus> for Overhead {
    fn from(status: OverheadStatus) -> Self {
        Self {
            max_percent: (status.limit * 1e8).round() / 1e6,
            policy: status.policy,
            hits_seconds: status.figures.hits.as_secs_f64(),
            work_seconds: status.figures.work.as_secs_f64(),
            exceeded: status.figures.exceeded,
            detached: status.figures.detached,
            attached_again: status.figures.attached_again,
            away: status.away,
            attached_seconds: status.attached.as_secs_f64(),
        }
    }
}

/// What is attached and what it has counted. Read on a blocking thread, since much of it takes time.
async fn reading(control: &Control) -> Result<(Arc<Catalog>, Reading), Refusal> {
    let catalog = control.shared.metrics.catalog();
    let read = move || {
        let reading = catalog.read();
        (catalog, reading)
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("a thread ended early: {error}"))
    })
}

async fn status(State(control): Controls) -> Result<Json<Status>, Refusal> {
    let shared = &control.shared;
    let (catalog, reading) = reading(&control).await?;
    let sum = |get: fn(&CpuFigures) -> u64| reading.cpus.iter().map(get).sum();
    let own = OwnUse::now();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        ready: shared.ready.load(Ordering::Relaxed),
        uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        config: shared.config_path.display().to_string(),
        probes_attached: catalog.probes_attached,
        probes_waiting: catalog.probes_waiting,
        functions: catalog.functions,
        links: catalog.links,
        skipped: catalog.skipped,
        releasing: shared.releasing.load(Ordering::Relaxed),
        hits: sum(|cpu| cpu.hits),
        events: sum(|cpu| cpu.events),
        lost: sum(|cpu| cpu.lost) + reading.undecodable,
        cpu_seconds: own.cpu_seconds,
        resident_bytes: own.resident_bytes,
        open_fds: own.open_fds,
        overhead: shared.metrics.overhead().map(Into::into),
        slow: shared.slow().iter().map(ToString::to_string).collect(),
    }))
}

async fn probes(State(control): Controls) -> Response {
    let probes = control.shared.probes();
    Json(serde_json::json!({ "probes": &*probes })).into_response()
}

/// What is to be known about the hits of a probe.
#[derive(Serialize)]
struct NamedCaveat {
    name: Arc<str>,
    #[serde(flatten)]
    caveat: ProbeCaveat,
}

/// Why probes have had no hits: it may take some seconds to find out.
async fn hints(State(control): Controls) -> Result<Response, Refusal> {
    let explained = control.explain().await.map_err(|error| Refusal::not_done(&error))?;
    let hints = explained.into_iter().map(|Explained { name, caveat, probes }| NamedCaveat {
        name,
        caveat: ProbeCaveat::new(caveat, probes.iter().map(Arc::as_ref)),
    });
    let hints: Vec<_> = hints.collect();
    Ok(Json(serde_json::json!({ "hints": hints })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    probes: Vec<RequestText>,
    /// Whether probes may wait for a target that does not exist yet.
    #[serde(default)]
    wait: bool,
}

async fn attach(State(control): Controls, request: Body) -> Result<Json<Changed>, Refusal> {
    let Attach { probes, wait } = body(request).await?;
    let checked = probes.into_iter().map(|probe| {
        let name = probe.name.clone();
        let refused = |why: String| {
            let message = format!("probe `{}`: {why}", name.escape_debug());
            Refusal::new(StatusCode::BAD_REQUEST, shortened(&message))
        };
        let checked = probe.check().map_err(|wrong| refused(wrong.to_string()))?;
        // The client's current folder is unknown.
        if checked.spec.target.contains('/') && !checked.spec.target.starts_with('/') {
            return Err(refused("`probe`: the target's path must be absolute".to_owned()));
        }
        Ok(checked)
    });
    let checked = checked.collect::<Result<Vec<_>, _>>()?;
    control.attach(checked, wait).await.map(Json).map_err(|error| Refusal::not_done(&error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detach {
    names: Vec<String>,
}

async fn detach(State(control): Controls, request: Body) -> Result<Json<Changed>, Refusal> {
    let Detach { names } = body(request).await?;
    control.detach(names).await.map(Json).map_err(|error| Refusal::not_done(&error))
}

async fn reload(State(control): Controls) -> Result<Json<Changed>, Refusal> {
    control.reload().await.map(Json).map_err(|error| Refusal::not_done(&error))
}

#[derive(Serialize)]
struct Figures {
    /// Since the daemon was started: for rates.
    uptime_ms: u64,
    cpus: Vec<Cpu>,
    probes: Vec<Probe>,
    cpu_seconds: f64,
    resident_bytes: u64,
    /// Functions that the overhead budget keeps detached now: their calls are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    away: Option<usize>,
}

#[derive(Serialize)]
struct Cpu {
    cpu: usize,
    hits: u64,
    events: u64,
    lost: u64,
    faults: u64,
    fault_wait_ns: u64,
    handler_ns: u64,
    cost_ns: u64,
}

#[derive(Serialize)]
struct Probe {
    name: Arc<str>,
    probe: Arc<str>,
    action: &'static str,
    hits: u64,
    events: u64,
    lost: u64,
    cost_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sum_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ns: Option<u64>,
}

async fn figures(State(control): Controls) -> Result<Json<Figures>, Refusal> {
    let shared = &control.shared;
    let (catalog, reading) = reading(&control).await?;
    let online = online_cpus();
    let cpus = reading
        .cpus
        .iter()
        .enumerate()
        .filter(|(cpu, figures)| *cpu < online || figures.hits != 0)
        .map(|(cpu, figures)| Cpu {
            cpu,
            hits: figures.hits,
            events: figures.events,
            lost: figures.lost,
            faults: figures.faults,
            fault_wait_ns: figures.fault_wait_ns,
            handler_ns: figures.handler_ns,
            cost_ns: figures.cost_ns,
        });
    let probes =
        catalog.series.iter().zip(&reading.series).filter(|(_, figures)| figures.hits() != 0).map(
            |(series, figures)| {
                let durations = figures.durations.as_deref();
                Probe {
                    name: Arc::clone(&series.name),
                    probe: Arc::clone(&series.probe),
                    action: match series.kind {
                        Kind::Count => "count",
                        Kind::Latency => "latency",
                        Kind::Events { .. } => "events",
                    },
                    hits: figures.hits(),
                    events: figures.delivered,
                    lost: figures.lost(),
                    cost_ns: figures.cost_ns,
                    calls: durations.map(Durations::count),
                    sum_ns: durations.map(|durations| durations.sum_ns),
                    max_ns: durations.map(|durations| durations.max_ns),
                }
            },
        );
    let own = OwnUse::now();
    Ok(Json(Figures {
        uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        cpus: cpus.collect(),
        probes: probes.collect(),
        cpu_seconds: own.cpu_seconds,
        resident_bytes: own.resident_bytes,
        away: shared.metrics.overhead().map(|overhead| overhead.away),
    }))
}

async fn all_events(State(control): Controls) -> Result<Response, Refusal> {
    tail(&control, None)
}

async fn events(
    State(control): Controls,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(name) =
        name.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the probe's name is not UTF-8"))?;
    let probes = control.shared.probes();
    let Some(probe) = probes.iter().find(|probe| probe.text.name == name) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("no probe `{name}`")));
    };
    match probe.text.action {
        Action::Events => tail(&control, Some(name)),
        action => {
            let message =
                format!("`{name}` has no events: its action is `{}`", action::word(action));
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message))
        }
    }
}

/// Events as they arrive, one JSON object per line, until the client disconnects.
fn tail(control: &Control, name: Option<String>) -> Result<Response, Refusal> {
    let lines = control.shared.log.tails.listen(name).ok_or_else(|| {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many clients are reading events already")
    })?;
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::new(Lines(lines))).into_response())
}

/// A body that streams to a listener.
struct Lines(Heard);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll(context).map(|lines| Some(Ok(Frame::data(lines?.into()))))
    }
}
