//! The clients that listen to events as they arrive.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::mpsc;

use faultline_output::json_text;

/// Batches that wait for a listener; each holds the events of a few milliseconds.
const WAITING: usize = 256;
/// Most listeners at once.
const MAX_LISTENERS: usize = 32;

/// The listeners.
#[derive(Debug)]
pub(super) struct Tails {
    listeners: Mutex<Vec<Listener>>,
    /// How many there are: mostly none, which then costs nothing.
    count: AtomicUsize,
    dropped: Counter,
}

#[derive(Debug)]
struct Listener {
    /// Only events of this probe.
    name: Option<String>,
    send: mpsc::Sender<Vec<u8>>,
    missed: Arc<Missed>,
}

/// The line that says how many events a listener missed.
#[derive(Serialize)]
struct Line {
    r#type: &'static str,
    events: u64,
}

/// Events that a listener missed and does not know of yet.
#[derive(Debug, Default)]
struct Missed(AtomicU64);

impl Missed {
    fn add(&self, events: u64) {
        self.0.fetch_add(events, Ordering::SeqCst);
    }

    /// The line that reports them, if there are any.
    fn report(&self) -> Option<Vec<u8>> {
        match self.0.swap(0, Ordering::SeqCst) {
            0 => None,
            events => json_text(&Line { r#type: "missed", events }).ok().map(String::into_bytes),
        }
    }
}

/// What a listener gets.
#[derive(Debug)]
pub(super) struct Heard {
    batches: mpsc::Receiver<Vec<u8>>,
    missed: Arc<Missed>,
}

impl Heard {
    /// The next lines; `None` at the end.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        match self.batches.poll_recv(context) {
            // Everything sent before them has been read.
            Poll::Pending => {
                self.missed.report().map_or(Poll::Pending, |line| Poll::Ready(Some(line)))
            }
            ready => ready,
        }
    }
}

impl Tails {
    pub(super) fn new(dropped: Counter) -> Self {
        Self { listeners: Mutex::default(), count: AtomicUsize::new(0), dropped }
    }

    /// Begins to listen; `None` if too many do.
    pub(super) fn listen(&self, name: Option<String>) -> Option<Heard> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.send.is_closed());
        if listeners.len() >= MAX_LISTENERS {
            return None;
        }
        let (send, batches) = mpsc::channel(WAITING);
        let missed = Arc::<Missed>::default();
        listeners.push(Listener { name, send, missed: Arc::clone(&missed) });
        self.count.store(listeners.len(), Ordering::Relaxed);
        Some(Heard { batches, missed })
    }

    /// Sends lines, each with its probe's name. A listener that reads too slowly misses some, and is
    /// sent their number.
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
            match listener.send.try_reserve() {
                Ok(room) => {
                    let mut lines = listener.missed.report().unwrap_or_default();
                    lines.append(&mut batch);
                    room.send(lines);
                }
                Err(mpsc::error::TrySendError::Full(())) => {
                    listener.missed.add(count);
                    self.dropped.inc_by(count);
                    // It may have caught up meanwhile without seeing the number.
                    if let Ok(room) = listener.send.try_reserve()
                        && let Some(line) = listener.missed.report()
                    {
                        room.send(line);
                    }
                }
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            }
            true
        });
        self.count.store(listeners.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn next(heard: &mut Heard) -> Option<Vec<u8>> {
        match heard.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(lines) => lines,
            Poll::Pending => None,
        }
    }

    /// Check that a listener gets the events of its probe, and the number of those it missed.
    #[test]
    fn slow_listeners_know_what_they_missed() {
        let dropped = Counter::default();
        let tails = Tails::new(dropped.clone());
        let mut all = tails.listen(None).unwrap();
        let mut of_a = tails.listen(Some("a".to_owned())).unwrap();
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let lines = || names.iter().zip([&b"1\n"[..], &b"2\n"[..]]);
        tails.send(&lines());
        assert_eq!(next(&mut of_a).unwrap(), b"1\n");
        for _ in 0..WAITING + 2 {
            tails.send(&lines());
        }
        // The first and the next fill the channel; three sends of two events find no room.
        assert_eq!(dropped.get(), 3 * 2 + 2);
        assert_eq!(next(&mut all).unwrap(), b"1\n2\n");
        tails.send(&lines());
        let last = |heard: &mut Heard| std::iter::from_fn(|| next(heard)).last().unwrap();
        assert_eq!(last(&mut all), b"{\"type\":\"missed\",\"events\":6}\n1\n2\n");
        // Even if no more events arrive.
        assert_eq!(last(&mut of_a), b"{\"type\":\"missed\",\"events\":3}\n");
        assert_eq!(next(&mut of_a), None);
    }
}
