//! HTTP to the daemon's socket.

use std::{io, path::PathBuf};

use anyhow::{Context as _, anyhow};
use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, signal::unix::SignalKind};

use crate::{cli::Failure, signals::Listener};

/// A connection to the daemon.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The resource at a path.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json("GET", path, Bytes::new()).await
    }

    /// The daemon's answer to a request.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json("POST", path, body.to_string().into()).await
    }

    /// Writes what arrives until it ends, or until the output is closed.
    pub(super) async fn stream(&self, path: &str, mut out: impl io::Write) -> Result<(), Failure> {
        let mut interrupt = Listener::new(SignalKind::interrupt())?;
        let mut response = self.send("GET", path, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await.into());
        }
        loop {
            let frame = tokio::select! {
                frame = response.frame() => frame,
                () = interrupt.recv() => return Ok(()),
            };
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.context("the daemon closed the connection")?;
            let Some(lines) = frame.data_ref() else { continue };
            match out.write_all(lines).and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => other.context("failed to write events")?,
            }
        }
    }

    async fn json(&self, method: &str, path: &str, body: Bytes) -> Result<Value, Failure> {
        let response = self.send(method, path, body).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await.into());
        }
        let body =
            response.into_body().collect().await.context("the daemon closed the connection")?;
        Ok(serde_json::from_slice(&body.to_bytes()).context("the daemon's answer is not JSON")?)
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    " (is the daemon running?)"
                }
                io::ErrorKind::PermissionDenied => {
                    " (run it as root, or as a member of the group `faultline`)"
                }
                _ => "",
            };
            anyhow!("failed to connect to {}: {error}{hint}", self.socket.display())
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "faultline")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        sender.send_request(request).await.context("the daemon did not answer")
    }
}

/// The reason that the daemon gives for a refusal.
async fn refusal(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return error.into(),
    };
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    let error = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| Some(value["error"].as_str()?.to_owned()));
    anyhow!("{}", error.unwrap_or_else(|| format!("{status}: {text}")))
}
