//! Releasing: on threads of its own, because the kernel waits until no task is inside a handler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use super::{
    Command, Engine,
    group::{Group, GroupId},
};
use crate::daemon::memory;
use faultline_engine::{
    guard::StuckWatch,
    kernel::{DetachReport, HeldLinks, Releasing},
};
use faultline_output::prometheus::{Catalog, Source};
use faultline_spec::units::counted;

/// How long a drain may take for what is left.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Longer than any handler takes that does not wait for a page.
const HANDLER_TIME: Duration = Duration::from_millis(2);
/// How often it is told whom a release waits for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked who that is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is being released.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Which release.
    id: u64,
    /// Programs of its groups: they still count.
    pub(super) sources: Vec<Arc<Source>>,
    /// Tasks that hang in a fault, and hold it up.
    in_fault: Arc<AtomicUsize>,
}

impl Leaving {
    pub(super) fn tasks_in_fault(&self) -> usize {
        self.in_fault.load(Ordering::Relaxed)
    }
}

/// What was released.
#[derive(Debug)]
pub(in crate::daemon) struct Released {
    id: u64,
    took: Duration,
    grace: Option<Duration>,
    links: usize,
}

impl Engine {
    /// Releases links, and groups that nobody is in any more.
    pub(super) fn release(&mut self, links: Vec<HeldLinks>) {
        let stuck =
            |group: &Group| group.watch.as_ref().is_some_and(|watch| !watch.waiting().is_empty());
        let hand_over = self.groups.values().any(stuck);
        self.release_or_hand_over(links, hand_over);
    }

    fn release_or_hand_over(&mut self, links: Vec<HeldLinks>, hand_over: bool) {
        let empty: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.members == 0).map(|(id, _)| *id).collect();
        let groups: Vec<Group> =
            empty.into_iter().filter_map(|id| self.groups.remove(&id)).collect();
        if links.is_empty() && groups.is_empty() {
            return;
        }
        for group in &groups {
            group.programs.enable(false);
        }
        let id = self.new_number();
        let in_fault = Arc::<AtomicUsize>::default();
        let sources = groups.iter().map(|group| Arc::clone(&group.source)).collect();
        self.leaving.push(Leaving { id, sources, in_fault: Arc::clone(&in_fault) });
        self.shared.releasing.fetch_add(1, Ordering::Relaxed);
        if !groups.is_empty() {
            self.publish();
        }
        let tell = self.tell.clone();
        let count = links.iter().map(HeldLinks::len).sum();
        let releasing = self.holders.release(links, hand_over);
        let work = move || {
            let report = release(releasing, groups, &in_fault);
            let DetachReport { took, grace } = report;
            let released = Released { id, took, grace, links: count };
            let _ = tell.send(Command::Released(Box::new(released)));
        };
        if let Err(error) = std::thread::Builder::new().name("release".to_owned()).spawn(work) {
            // What the thread was to own is dropped by now, which releases it just as well.
            tracing::error!("failed to start a thread: {error}");
            let released = Released { id, took: Duration::ZERO, grace: None, links: count };
            self.released(&released);
        }
    }

    /// Notes that it is done.
    pub(super) fn released(&mut self, released: &Released) {
        let Some(place) = self.leaving.iter().position(|leaving| leaving.id == released.id) else {
            return;
        };
        let done = self.leaving.swap_remove(place).sources;
        self.shared.releasing.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.detached(released.took, released.grace);
        tracing::info!(
            "{} released in {:.0} ms",
            counted(released.links, "link"),
            released.took.as_secs_f64() * 1e3
        );
        if !done.is_empty() {
            // Their counters stand still: they go into the sums for good.
            let last = Catalog {
                sources: done,
                retired: faultline_output::prometheus::Retired {
                    cpus: std::mem::take(&mut self.retired),
                },
                ..Catalog::default()
            };
            self.retired = last.read().cpus;
            self.publish();
            drop(last);
            memory::give_back();
        }
    }

    /// Releases everything; whether it was done in time.
    pub(super) fn stop(&mut self) -> bool {
        let deadline = Instant::now() + self.config.limits.stop_timeout;
        for group in self.groups.values() {
            group.programs.enable(false);
        }
        let mut links = Vec::new();
        for named in std::mem::take(&mut self.named).into_values() {
            links.extend(self.leave(named.parts));
        }
        for group in self.groups.values_mut() {
            group.members = 0;
        }
        // Who was inside a handler when counting stopped is inside a fault by now, or done.
        std::thread::sleep(HANDLER_TIME);
        let stuck = self.groups.values().filter_map(|group| group.watch.as_ref());
        let hand_over = stuck.clone().any(StuckWatch::anyone_inside);
        if hand_over {
            for report in stuck.flat_map(StuckWatch::waiting) {
                tracing::warn!(
                    "the probes are off, but the kernel cannot let go of them: {report}"
                );
            }
        }
        self.release_or_hand_over(links, hand_over);
        while self.shared.releasing.load(Ordering::Relaxed) != 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(left) {
                Ok(Command::Released(released)) => self.released(&released),
                Ok(Command::OverheadSettled) => self.overhead_released(),
                // Too late for any other wish: who sent it sees that nobody answers.
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout | mpsc::RecvTimeoutError::Disconnected) => {
                    return false;
                }
            }
        }
        true
    }
}

/// Waits until the kernel has let go, and then until what was recorded is written.
fn release(releasing: Releasing, mut groups: Vec<Group>, in_fault: &AtomicUsize) -> DetachReport {
    let watches: Vec<_> = groups.iter_mut().filter_map(|group| group.watch.take()).collect();
    let report = std::thread::scope(|scope| {
        let detach = scope.spawn(move || releasing.wait());
        let (mut told, mut looked) = (Instant::now(), Instant::now());
        while !detach.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            if looked.elapsed() > LOOK_EVERY {
                looked = Instant::now();
                let inside = watches.iter().map(StuckWatch::inside).sum();
                in_fault.store(inside, Ordering::Relaxed);
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                for report in watches.iter().flat_map(StuckWatch::waiting) {
                    tracing::warn!("releasing waits for {report}");
                }
            }
        }
        detach.join().unwrap_or_default()
    });
    for mut group in groups {
        if let Some(drain) = group.drain.take()
            && !drain.finish(DRAIN_PATIENCE)
        {
            tracing::warn!("not all events could be written before their probes went");
        }
    }
    report
}
