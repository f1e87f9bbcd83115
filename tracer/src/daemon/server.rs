//! HTTP for clients that may be slow, hostile or many.
//!
//! Each may take a limited time, and their number is limited. At the limit, the oldest idle
//! connection makes room for a new one: a thousand silent clients keep nobody out.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{Request, StatusCode},
};
use hyper::{body::Incoming, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::AbortHandle,
};

/// How long a client may take to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long to wait after a failed `accept`: mostly out of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a server allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections: usize,
    /// How long a connection may last; unlimited if `None`.
    pub(super) lifetime: Option<Duration>,
}

/// A source of connections.
pub(super) trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// The next one, and whether it is allowed to make requests.
    fn next(&mut self) -> impl Future<Output = io::Result<(Self::Io, bool)>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;
    async fn next(&mut self) -> io::Result<(TcpStream, bool)> {
        Ok((self.accept().await?.0, true))
    }
}

/// The control socket.
#[derive(Debug)]
pub(super) struct ControlListener {
    pub(super) listener: UnixListener,
    pub(super) socket: Arc<super::socket::ControlSocket>,
}

impl Listener for ControlListener {
    type Io = UnixStream;
    async fn next(&mut self) -> io::Result<(UnixStream, bool)> {
        let (stream, _) = self.listener.accept().await?;
        let allowed = self.socket.allows(&stream);
        Ok((stream, allowed))
    }
}

#[derive(Debug)]
struct Connection {
    abort: AbortHandle,
    /// A request is being answered.
    busy: Arc<AtomicBool>,
}

type Connections = Arc<Mutex<VecDeque<Connection>>>;

/// Serves until the future is dropped.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    evicted: prometheus_client::metrics::counter::Counter,
) {
    let connections = Connections::default();
    loop {
        let (stream, allowed) = match listener.next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("failed to accept a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        if make_room(&connections, limits.connections) {
            evicted.inc();
        }
        let busy = Arc::new(AtomicBool::new(false));
        let router = if allowed { router.clone() } else { Router::new().fallback(forbidden) };
        let answering = answer(stream, router, Arc::clone(&busy), limits.lifetime);
        let task = tokio::spawn(answering);
        lock(&connections).push_back(Connection { abort: task.abort_handle(), busy });
    }
}

async fn forbidden() -> impl axum::response::IntoResponse {
    let error = "only root and members of the daemon's group may control it";
    (StatusCode::FORBIDDEN, super::api::Json(serde_json::json!({ "error": error })))
}

fn lock(connections: &Connections) -> std::sync::MutexGuard<'_, VecDeque<Connection>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes a connection if there are too many; whether one was closed.
fn make_room(connections: &Connections, most: usize) -> bool {
    let mut connections = lock(connections);
    connections.retain(|connection| !connection.abort.is_finished());
    if connections.len() < most {
        return false;
    }
    let idle = connections.iter().position(|connection| !connection.busy.load(Ordering::Relaxed));
    // If all are busy, close the oldest.
    if let Some(connection) = connections.remove(idle.unwrap_or(0)) {
        connection.abort.abort();
    }
    true
}

async fn answer<I>(stream: I, router: Router, busy: Arc<AtomicBool>, lifetime: Option<Duration>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        busy.store(true, Ordering::Relaxed);
        router.call(request)
    });
    // One request per connection: nobody occupies a place without need.
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client's errors are its own affair.
    match lifetime {
        Some(lifetime) => drop(tokio::time::timeout(lifetime, connection).await),
        None => drop(connection.await),
    }
}
