//! Watches for new processes: the kernel reports which ones executed a program or forked.
//!
//! This is only an optimisation for speed: the next full scan finds whatever is missed here.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use faultline_resolve::Pid;

use crate::kernel::ProcessNotices;

/// Maximum number of processes to remember until they are looked at; a scan finds the others.
const MOST: usize = 10_000;

/// The watch.
#[derive(Debug, Default)]
pub(crate) struct ProcessWatch {
    notices: Option<ProcessNotices>,
    begun: HashSet<Pid>,
    /// When the first of them started.
    since: Option<Instant>,
}

impl ProcessWatch {
    /// Starts to watch. If the kernel does not allow it, scans must suffice.
    pub(crate) fn start() -> Self {
        match ProcessNotices::start() {
            Ok(notices) => Self { notices: Some(notices), ..Self::default() },
            Err(error) => {
                tracing::warn!(
                    "cannot watch for new processes, only scans will find them: {error}"
                );
                Self::default()
            }
        }
    }

    /// The processes that have started, once the first of them has had this long to map its files.
    pub(crate) fn begun(&mut self, settle: Duration) -> HashSet<Pid> {
        if let Some(notices) = &mut self.notices {
            let begun = &mut self.begun;
            notices.drain(|pid| {
                if begun.len() < MOST {
                    begun.insert(pid);
                }
            });
        }
        if self.begun.is_empty() {
            return HashSet::new();
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < settle {
            return HashSet::new();
        }
        self.since = None;
        std::mem::take(&mut self.begun)
    }
}
