//! What is served over TCP: metrics and health, to anyone who can connect.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::time::Instant;

use super::shared::Shared;
use faultline_output::prometheus::Format;

/// The text of a scrape, shared by all clients that ask while it is written: a hundred cost as much as
/// two.
#[derive(Debug)]
pub(super) struct Scraped {
    shared: Arc<Shared>,
    open_metrics: Arc<Turn>,
    prometheus: Arc<Turn>,
}

/// Scrapes of one format, one after another.
#[derive(Debug, Default)]
struct Turn {
    writing: Arc<tokio::sync::Mutex<()>>,
    /// Clients that wait or write.
    wanted: AtomicUsize,
    /// The last text, as long as a client may need it, and when it was begun.
    last: Mutex<Option<(Instant, Bytes)>>,
}

/// A client that waits or writes.
struct Client<'a>(&'a Turn);

impl Scraped {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open_metrics: Arc::default(), prometheus: Arc::default() }
    }

    /// A text that was begun after the request.
    async fn text(&self, format: Format) -> Option<Bytes> {
        let asked = Instant::now();
        let turn = match format {
            Format::OpenMetrics => &self.open_metrics,
            Format::Prometheus => &self.prometheus,
        };
        let _client = turn.join();
        let alone = Arc::clone(&turn.writing).lock_owned().await;
        if let Some((begun, text)) = &*turn.last()
            && *begun >= asked
        {
            return Some(text.clone());
        }
        let (shared, turn) = (Arc::clone(&self.shared), Arc::clone(turn));
        // On a blocking thread, since a large scrape takes time, and to its end, even if the client
        // has gone: others wait for it.
        let write = move || {
            let begun = Instant::now();
            let text = Bytes::from(shared.metrics.encode(format).ok()?);
            *turn.last() = Some((begun, text.clone()));
            drop(alone);
            Some(text)
        };
        tokio::task::spawn_blocking(write).await.ok()?
    }
}

impl Turn {
    fn join(&self) -> Client<'_> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        Client(self)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Bytes)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        // Clients from now on need a newer one.
        if self.0.wanted.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.last() = None;
        }
    }
}

/// The routes.
pub(super) fn router(scraped: Scraped) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .fallback(async || (StatusCode::NOT_FOUND, "only /metrics, /healthz and /readyz\n"))
        .with_state(Arc::new(scraped))
}

async fn metrics(State(scraped): State<Arc<Scraped>>, headers: HeaderMap) -> Response {
    let accept: Vec<_> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let Some(format) = Format::accepted(&accept.join(",")) else {
        let offered = "only text/plain and application/openmetrics-text\n";
        return (StatusCode::NOT_ACCEPTABLE, offered).into_response();
    };
    match scraped.text(format).await {
        Some(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
            .into_response(),
    }
}

async fn readyz(State(scraped): State<Arc<Scraped>>) -> (StatusCode, &'static str) {
    if scraped.shared.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the probes are not attached yet\n")
    }
}
