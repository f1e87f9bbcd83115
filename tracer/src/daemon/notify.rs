//! Reports the daemon's state to systemd: `sd_notify(3)`.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The socket of systemd; none if something else started the daemon.
#[derive(Debug)]
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    /// It was told that the daemon stops. A reload that ends afterwards does not make it ready again.
    stopping: Mutex<bool>,
}

impl Notify {
    /// From the environment.
    pub(super) fn from_env() -> Self {
        let to = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = address(name.as_bytes());
            let socket = UnixDatagram::unbound();
            match address.and_then(|address| Ok((socket?, address))) {
                Ok(to) => Some(to),
                Err(error) => {
                    tracing::warn!("cannot use NOTIFY_SOCKET: {error}");
                    None
                }
            }
        });
        Self { to, watchdog: watchdog(), stopping: Mutex::new(false) }
    }

    /// How often systemd expects a sign of life.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Ready.
    pub(super) fn ready(&self, status: &str) {
        self.send_unless_stopping(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// The configuration is being reloaded; [`ready`](Self::ready) must follow.
    pub(super) fn reloading(&self) {
        self.send_unless_stopping(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
    }

    /// About to stop.
    pub(super) fn stopping(&self) {
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        *stopping = true;
        self.send("STOPPING=1\nSTATUS=Releasing the probes");
    }

    /// What `systemctl status` shows.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", line(status)));
    }

    /// Alive.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send_unless_stopping(&self, message: &str) {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stopping {
            self.send(message);
        }
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!("failed to notify systemd: {error}");
        }
    }
}

/// A path, or an abstract name after `@`.
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        Some((b'/', _)) => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// `WATCHDOG_USEC`, if it is for this process.
fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let us = number("WATCHDOG_USEC").filter(|us| *us != 0)?;
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    is_ours.then(|| Duration::from_micros(us))
}

/// The text as one line, since each line of a message is a field.
fn line(text: &str) -> String {
    text.replace('\n', " ")
}

/// `CLOCK_MONOTONIC`, which systemd compares with its own.
fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that nothing that ends during the stop makes the daemon ready again.
    #[test]
    fn stopping_is_final() {
        let name = format!("faultline-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let to = Some((UnixDatagram::unbound().unwrap(), address));
        let notify = Notify { to, watchdog: None, stopping: Mutex::new(false) };
        notify.ready("a");
        notify.stopping();
        notify.reloading();
        notify.ready("b");
        notify.alive();
        let mut buffer = [0; 256];
        let told = std::iter::from_fn(|| {
            let length = systemd.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        });
        let told: Vec<_> = told.collect();
        let expected =
            ["READY=1\nSTATUS=a", "STOPPING=1\nSTATUS=Releasing the probes", "WATCHDOG=1"];
        assert_eq!(told, expected);
    }
}
