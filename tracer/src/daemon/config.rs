//! The configuration: from TOML to checked values.
//!
//! Takes text; gives a [`Config`], or an error with the line, the column and the key. Reads no file but
//! the configuration, and does not resolve its probes.

mod overhead;
mod units;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use faultline_engine::{
    Change, Settings,
    request::{Request, RequestText},
};
use serde::Deserialize;
use toml::Spanned;
use tracer_common::ring::LEAST_BYTES;

pub use self::overhead::Overhead;
use self::units::{seconds, size, time};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The named probes, in the order of the file.
    pub probes: Vec<Request>,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// The control socket.
    pub control: Control,
    /// Where events go.
    pub events: Events,
    /// Limits of the daemon itself.
    pub limits: Limits,
    /// How new and vanished targets are found.
    pub targets: Targets,
    /// How much of the host probes may take.
    pub overhead: Overhead,
}

impl Config {
    /// The tracer's settings, without the probes.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let buffer = self.events.buffer.max(LEAST_BYTES).next_power_of_two();
        Settings {
            limit: self.overhead.limit(),
            buffer_bytes: u32::try_from(buffer).unwrap_or(1 << 30).min(1 << 30),
            rescan_every: self.targets.rescan_every,
            settle: self.targets.settle,
            containers: self.targets.containers,
            max_functions: self.limits.max_functions,
        }
    }

    /// The change that applies it.
    #[must_use]
    pub fn change(&self) -> Change {
        Change::Configure { requests: self.probes.clone(), settings: self.settings() }
    }
}

/// Section `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// The address of `/metrics`, `/healthz` and `/readyz`; the empty string serves none.
    #[serde(deserialize_with = "units::address")]
    pub listen: Option<SocketAddr>,
    /// Most time series that probes may have; the rest is summed up in one.
    pub max_series: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 9464)));
        Self { listen, max_series: 10_000 }
    }
}

/// Section `[control]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// The socket's path.
    #[serde(deserialize_with = "socket_path")]
    pub socket: PathBuf,
    /// The group whose members may control the daemon, as root may; it need not exist.
    pub group: String,
}

/// The socket that `ctl` uses by default.
pub const DEFAULT_SOCKET: &str = "/run/faultline/control.sock";

impl Default for Control {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), group: "faultline".to_owned() }
    }
}

/// Section `[events]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// The file that events are appended to, one JSON object per line; without it, standard output (the
    /// journal, under systemd).
    pub file: Option<PathBuf>,
    /// The size at which the file is rotated.
    #[serde(deserialize_with = "rotation_size")]
    pub rotate_at: u64,
    /// Rotated files that are kept.
    #[serde(deserialize_with = "kept_files")]
    pub keep: u32,
    /// Kernel buffer for events that are not yet written, per group of probes, shared evenly by the CPUs.
    #[serde(deserialize_with = "buffer_size")]
    pub buffer: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { file: None, rotate_at: 64 << 20, keep: 4, buffer: 8 << 20 }
    }
}

impl Events {
    /// The error if the output cannot be opened.
    pub(super) fn failed_to_open(&self) -> String {
        match &self.file {
            Some(path) => format!("failed to open {} for events (events.file)", path.display()),
            None => "failed to open standard output for events".to_owned(),
        }
    }
}

/// Section `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Maximum number of functions probed at once.
    pub max_functions: usize,
    /// How long to wait at a stop for the kernel to release the probes.
    #[serde(deserialize_with = "seconds")]
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_functions: 200_000, stop_timeout: Duration::from_secs(10) }
    }
}

/// Section `[targets]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// How often all processes and files are examined again.
    #[serde(deserialize_with = "seconds")]
    pub rescan_every: Duration,
    /// How long after a program starts it is examined; programs that start together are examined together.
    #[serde(deserialize_with = "time")]
    pub settle: Duration,
    /// Whether copies of the targets' files inside containers are also probed.
    pub containers: bool,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            rescan_every: Duration::from_secs(30),
            settle: Duration::from_millis(200),
            containers: true,
        }
    }
}

/// The file as written; the probes keep their positions for errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default, rename = "probe")]
    probes: Vec<Spanned<RequestText>>,
    #[serde(default)]
    metrics: Metrics,
    #[serde(default)]
    control: Control,
    #[serde(default)]
    events: Events,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    targets: Targets,
    #[serde(default)]
    overhead: Overhead,
}

/// An error in a configuration, and its position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
    /// The key at that place.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        match &self.key {
            Some(key) => write!(f, ": `{key}`: {}", self.message),
            None => write!(f, ": {}", self.message),
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or [`parse`](Self::parse) fails.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_regular(path).map_err(|error| ConfigError {
            file: path.to_owned(),
            place: None,
            key: None,
            message: format!("failed to read the configuration: {error}"),
        })?;
        Self::parse(&text, path)
    }

    /// Parses text; `path` is for error messages.
    ///
    /// # Errors
    ///
    /// The first error: not TOML, an unknown key, a value of the wrong type or that does not parse, two
    /// probes of the same name.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let place = Place { text, path };
        let raw: Raw = toml::from_str(text).map_err(|error| {
            place.error(error.span().map(|span| span.start), plain(error.message().trim()))
        })?;
        let mut probes: Vec<Request> = Vec::with_capacity(raw.probes.len());
        let mut names = std::collections::HashSet::new();
        for probe in raw.probes {
            let table = probe.span().start;
            let checked = probe.into_inner().check().map_err(|wrong| {
                place.error(Some(place.key_in(table, wrong.key)), wrong.message)
            })?;
            if !names.insert(checked.name.clone()) {
                let message = format!("there are two probes named `{}`", checked.name);
                return Err(place.error(Some(place.key_in(table, "name")), message));
            }
            probes.push(checked);
        }
        Ok(Self {
            probes,
            metrics: raw.metrics,
            control: raw.control,
            events: raw.events,
            limits: raw.limits,
            targets: raw.targets,
            overhead: raw.overhead,
        })
    }
}

/// Reads a regular file of a sensible size. A pipe might block.
fn read_regular(path: &Path) -> io::Result<String> {
    const MOST_BYTES: u64 = 64 << 20;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MOST_BYTES {
        return Err(io::Error::other(format!("too large ({} bytes)", metadata.len())));
    }
    std::fs::read_to_string(path)
}

/// A valid path for a socket: it must fit into `sun_path` of unix(7), with its NUL.
fn socket_path<'de, D: serde::Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    const MOST_BYTES: usize = 107;
    let path = PathBuf::deserialize(from)?;
    let bytes = path.as_os_str().len();
    if !(1..=MOST_BYTES).contains(&bytes) {
        let message = format!("invalid socket path of {bytes} bytes: must be 1 to {MOST_BYTES}");
        return Err(serde::de::Error::custom(message));
    }
    Ok(path)
}

/// A size within these bounds, each given with its text.
fn size_within<'de, D: serde::Deserializer<'de>>(
    from: D,
    least: (u64, &str),
    most: (u64, &str),
) -> Result<u64, D::Error> {
    let bytes = size(from)?;
    if !(least.0..=most.0).contains(&bytes) {
        let message = format!("must be from {} to {}", least.1, most.1);
        return Err(serde::de::Error::custom(message));
    }
    Ok(bytes)
}

fn rotation_size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    size_within(from, (4 << 10, "4KiB"), (1 << 50, "1024TiB"))
}

fn buffer_size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    size_within(from, (256 << 10, "256KiB"), (1 << 30, "1GiB"))
}

/// Limited because each file is renamed at every rotation.
fn kept_files<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let files = u32::deserialize(from)?;
    if files > 1000 {
        return Err(serde::de::Error::custom("must be at most 1000"));
    }
    Ok(files)
}

/// An error of the deserializer, in terms of TOML instead of Rust.
fn plain(message: &str) -> String {
    let message = match message.strip_suffix("invalid type: map, expected a sequence") {
        Some(before) => format!("{before}expected `[[probe]]`, as there may be several probes"),
        None => message.to_owned(),
    };
    message
        .replace(" as i128", "")
        .replace("expected usize", "expected a whole number")
        .replace("expected u32", "expected a whole number, at most 4294967295")
        .replace("wanted string or table", "expected one of `count`, `latency`, `events`")
}

/// Finds positions in the text.
struct Place<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Place<'_> {
    fn error(&self, at: Option<usize>, message: String) -> ConfigError {
        let before = at.and_then(|at| self.text.get(..at));
        let place = before.map(|before| {
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = before.matches('\n').count() + 1;
            (line, before[line_start..].chars().count() + 1, line_start)
        });
        let key = place.and_then(|(_, _, line_start)| {
            let line = self.text[line_start..].lines().next()?;
            let (key, _) = line.split_once('=')?;
            let key = key.trim();
            let is_key = |c: char| c.is_ascii_alphanumeric() || "_-.\"".contains(c);
            // Do not repeat a key that the message names, nor a line that is not `key = value`.
            (!key.is_empty() && key.chars().all(is_key) && !message.contains(&format!("`{key}`")))
                .then(|| key.to_owned())
        });
        ConfigError {
            file: self.path.to_owned(),
            place: place.map(|(line, column, _)| (line, column)),
            key,
            message,
        }
    }

    /// The position of the key in the table that begins there, or of the table itself.
    fn key_in(&self, table: usize, key: &str) -> usize {
        let mut at = table;
        let text = self.text.get(table..).unwrap_or_default();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let trimmed = line.trim_start();
            if number != 0 && trimmed.starts_with('[') {
                break;
            }
            let follows = |rest: &str| rest.trim_start().starts_with('=');
            if trimmed.strip_prefix(key).is_some_and(follows) {
                return at + (line.len() - trimmed.len());
            }
            at += line.len();
        }
        table
    }
}

#[cfg(test)]
mod tests;
