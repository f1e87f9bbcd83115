//! The only way to release links: on a separate thread, because the kernel waits until no task is inside a
//! handler.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use crate::{
    kernel::{DetachReport, HeldLinks, Holding, Progress},
    links::LinkStore,
    notice::Notice,
    set::ProbeSet,
};

/// How long a drain may take for the remaining records.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Longer than any handler takes unless it waits for a page.
const HANDLER_TIME: Duration = Duration::from_millis(2);
/// After how long to report that a release is waiting for a task, and how often.
const TELL_AFTER: Duration = Duration::from_millis(500);
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Up to this many links, releasing them one after another is worth waiting for.
const FEW_LINKS: usize = 8;

/// What to release.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) links: Vec<HeldLinks>,
    /// Sets that end with it: their hits no longer count, and what they have recorded is written.
    pub(crate) ending: Vec<Arc<ProbeSet>>,
    pub(crate) progress: Arc<Progress>,
}

/// What was released.
#[derive(Debug, Clone, Copy, Default)]
pub struct Released {
    /// How many links.
    pub links: usize,
    /// How long it took, and the grace period.
    pub report: DetachReport,
    /// Every record of the ending sets was passed on.
    pub drained: bool,
}

impl Release {
    /// Releases the links and waits for the kernel, which may take for ever if a task stays inside a
    /// handler. Then writes what the ending sets have recorded.
    pub(crate) fn run(self, store: &LinkStore, tell: &dyn Fn(Notice)) -> Released {
        let Self { links, ending, progress } = self;
        let started = Instant::now();
        if !ending.is_empty() {
            // A task that was inside a handler when counting stopped is either in a fault by now or done.
            std::thread::sleep(HANDLER_TIME);
        }
        let count = links.iter().map(HeldLinks::len).sum();
        let report = if count == 0 {
            DetachReport::default()
        } else {
            // If each breakpoint has its own link, the kernel closes them one after another. A child does
            // that, so that the user need not wait.
            let slowly = store.holding() == Holding::Here
                && count > FEW_LINKS
                && store.sets().iter().any(|set| !set.features().batches());
            let releasing = store.release(links, slowly, &progress);
            let (done, released) = mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(move || done.send(releasing.wait()));
                let mut patience = TELL_AFTER;
                loop {
                    match released.recv_timeout(patience) {
                        Ok(report) => break report,
                        Err(mpsc::RecvTimeoutError::Disconnected) => break DetachReport::default(),
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                    }
                    patience = TELL_EVERY;
                    let sets = store.sets();
                    let all = sets.iter().flat_map(|set| set.waiting());
                    all.for_each(|report| tell(Notice::ReleaseWaits(report)));
                }
            })
        };
        let report = DetachReport { took: started.elapsed(), ..report };
        let unfinished = ending.iter().filter(|set| !set.finish(DRAIN_PATIENCE)).count();
        if unfinished != 0 {
            tell(Notice::EventsUnwritten);
        }
        for set in &ending {
            set.flush_diagnostics();
        }
        Released { links: count, report, drained: unfinished == 0 }
    }
}
