//! Who listens to events as they come.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

/// Batches that wait for a listener; one is what came within some milliseconds.
const WAITING: usize = 256;
/// Most listeners at once.
const MAX_LISTENERS: usize = 32;

/// The listeners.
#[derive(Debug)]
pub(super) struct Tails {
    listeners: Mutex<Vec<Listener>>,
    /// How many there are: mostly none, and then nothing is done for them.
    count: AtomicUsize,
    dropped: Counter,
}

#[derive(Debug)]
struct Listener {
    /// Only events of this probe.
    name: Option<String>,
    send: mpsc::Sender<Vec<u8>>,
    /// Events that it was not sent since the last that it was.
    missed: u64,
}

impl Tails {
    pub(super) fn new(dropped: Counter) -> Self {
        Self { listeners: Mutex::default(), count: AtomicUsize::new(0), dropped }
    }

    /// Begins to listen; `None` if too many do.
    pub(super) fn listen(&self, name: Option<String>) -> Option<mpsc::Receiver<Vec<u8>>> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.send.is_closed());
        if listeners.len() >= MAX_LISTENERS {
            return None;
        }
        let (send, receive) = mpsc::channel(WAITING);
        listeners.push(Listener { name, send, missed: 0 });
        self.count.store(listeners.len(), Ordering::Relaxed);
        Some(receive)
    }

    /// Sends lines on; `lines` are their probes' names and themselves. A listener that reads too
    /// slowly misses some, and is told how many.
    pub(super) fn send<'a>(
        &self,
        lines: &(impl Iterator<Item = (&'a Arc<str>, &'a [u8])> + Clone),
    ) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain_mut(|listener| {
            let mut batch = Vec::new();
            if listener.missed != 0 {
                let missed = listener.missed;
                batch.extend_from_slice(
                    format!("{{\"type\":\"missed\",\"events\":{missed}}}\n").as_bytes(),
                );
            }
            let mut count = 0;
            for (name, line) in lines.clone() {
                if listener.name.as_deref().is_none_or(|wanted| wanted == &**name) {
                    batch.extend_from_slice(line);
                    count += 1;
                }
            }
            if count == 0 {
                return !listener.send.is_closed();
            }
            match listener.send.try_send(batch) {
                Ok(()) => listener.missed = 0,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    listener.missed += count;
                    self.dropped.inc_by(count);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
        self.count.store(listeners.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a listener gets the events of its probe, and is told how many it missed.
    #[test]
    fn slow_listeners_are_told() {
        let dropped = Counter::default();
        let tails = Tails::new(dropped.clone());
        let mut all = tails.listen(None).unwrap();
        let mut of_a = tails.listen(Some("a".to_owned())).unwrap();
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let lines = || names.iter().zip([&b"1\n"[..], &b"2\n"[..]]);
        tails.send(&lines());
        assert_eq!(of_a.try_recv().unwrap(), b"1\n");
        for _ in 0..WAITING + 2 {
            tails.send(&lines());
        }
        // The first and the next fill the channel; three sends of two events find no room.
        assert_eq!(dropped.get(), 3 * 2 + 2);
        assert_eq!(all.try_recv().unwrap(), b"1\n2\n");
        tails.send(&lines());
        let mut last = Vec::new();
        while let Ok(batch) = all.try_recv() {
            last = batch;
        }
        assert_eq!(last, b"{\"type\":\"missed\",\"events\":6}\n1\n2\n");
    }
}
