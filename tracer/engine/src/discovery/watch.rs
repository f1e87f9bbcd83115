//! Processes that begin: which ones executed a program or forked, as the kernel tells it.
//!
//! It is only to be quick: what is missed here is found by the next scan of everything.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use faultline_resolve::Pid;

use crate::kernel::ProcessNotices;

/// Most processes that are remembered until they are looked at; a scan finds the others.
const MOST: usize = 10_000;

/// The watch.
#[derive(Debug, Default)]
pub(crate) struct ProcessWatch {
    notices: Option<ProcessNotices>,
    begun: HashSet<Pid>,
    /// When the first of them began.
    since: Option<Instant>,
}

impl ProcessWatch {
    /// Watches from now on; where the kernel does not let us, scans have to do.
    pub(crate) fn start() -> Self {
        match ProcessNotices::start() {
            Ok(notices) => Self { notices: Some(notices), ..Self::default() },
            Err(error) => {
                tracing::warn!("new processes are found by scans only: {error}");
                Self::default()
            }
        }
    }

    /// Those that have begun, once the first of them had this long to map its files.
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
