//! Shows on a terminal how far attaching or detaching has come, if it takes long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::tell::tell;
use faultline_engine::kernel::Progress;

/// Shorter work gets no line.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// A line on standard error, if that is a terminal. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct ProgressLine {
    /// How far the work has come.
    pub(super) progress: Arc<Progress>,
    what: &'static str,
    /// When the work was first seen to have begun.
    since: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl ProgressLine {
    /// For work that begins now.
    pub(super) fn new(what: &'static str) -> Self {
        Self { progress: Arc::default(), what, since: None, bar: None }
    }

    /// Shows how far the work has come; to be called repeatedly.
    pub(super) fn show(&mut self) {
        let total = self.progress.total() as u64;
        if total == 0 || self.since.get_or_insert_with(Instant::now).elapsed() < SHOWN_AFTER {
            return;
        }
        // indicatif draws nothing if standard error is not a terminal.
        let bar = self.bar.get_or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{msg} {human_pos} of {human_len} breakpoints")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(self.what)
        });
        bar.set_length(total);
        bar.set_position(self.progress.done() as u64);
        bar.tick();
    }

    /// Prints a message above the line.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("{text}")),
            None => tell!("{text}"),
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
