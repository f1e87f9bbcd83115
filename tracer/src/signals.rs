//! Signals that nobody misses.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for a signal, from the moment on at which it no longer ends the process.
///
/// tokio first sets the handler and then subscribes the listener. A signal that arrives in between is passed on
/// to no one: a Ctrl-C would be lost.
#[derive(Debug)]
pub(crate) struct Listener {
    signal: Signal,
    /// It arrived before there was a listener.
    early: bool,
}

impl Listener {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// As the system gives them.
    pub(crate) fn new(kind: SignalKind) -> io::Result<Self> {
        Self::subscribed(kind, || {})
    }

    /// Calls `between` once the process survives the signal and before tokio knows who listens.
    fn subscribed(kind: SignalKind, between: impl FnOnce()) -> io::Result<Self> {
        let arrived = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&arrived);
        let note = move || flag.store(true, Ordering::SeqCst);
        // SAFETY: the action only stores to an atomic, which may be done in a signal handler.
        let id = unsafe { signal_hook_registry::register(kind.as_raw_value(), note) }?;
        between();
        let signal = signal(kind);
        signal_hook_registry::unregister(id);
        Ok(Self { signal: signal?, early: arrived.load(Ordering::SeqCst) })
    }

    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        if !std::mem::take(&mut self.early) {
            self.signal.recv().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a signal is not lost that arrives while the listener is being made.
    #[test]
    fn an_early_signal_is_received() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let raise = || {
                // SAFETY: it has a handler by now.
                assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
            };
            let mut listener = Listener::subscribed(SignalKind::user_defined2(), raise).unwrap();
            listener.recv().await;
        });
    }
}
