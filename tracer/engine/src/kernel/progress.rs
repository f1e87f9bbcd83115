//! How far attaching or detaching has got, for a progress display.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Breakpoints that are done, out of the total.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicUsize,
    total: AtomicUsize,
}

impl Progress {
    pub(super) fn begin(&self, total: usize) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn add(&self, points: usize) {
        self.done.fetch_add(points, Ordering::Relaxed);
    }

    /// Breakpoints that are done.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// The total; 0 before the work begins.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}
