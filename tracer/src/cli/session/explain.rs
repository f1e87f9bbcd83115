//! What a run looks at while it lasts, to explain at its end why probes had no hits, and what traced processes
//! died of.

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{EndedCommand, Session, WATCH_EVERY, blocking};
use faultline_engine::{caveats, death::DeathReport};
use faultline_plan::ProbeId;
use faultline_resolve::Caveat;

/// How long to look for the causes of probes without hits.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look at the mappings and children of a command.
const LOOK_EVERY_TICKS: u128 = 50;

impl Session {
    /// Looks at the traced processes, on a thread of its own: a process that is stuck may block it. `None`
    /// if no thread can be started.
    pub(super) fn look(&self) -> Option<oneshot::Receiver<()>> {
        let (done, looked) = oneshot::channel();
        let sightings = Arc::clone(&self.sightings);
        let look = move || {
            if let Ok(mut sightings) = sightings.try_lock() {
                sightings.look();
            }
            let _ = done.send(());
        };
        std::thread::Builder::new().name("look".to_owned()).spawn(look).ok()?;
        Some(looked)
    }

    /// Looks at a command once it has loaded its libraries, which takes a moment, and now and then later.
    pub(super) fn look_at_command(&self, ran: Duration) {
        let ticks = ran.as_millis() / WATCH_EVERY.as_millis();
        if ticks == 1 || ticks % LOOK_EVERY_TICKS == LOOK_EVERY_TICKS - 1 {
            self.look();
        }
    }

    /// What traced processes died of.
    pub(super) fn deaths(&self, command: Option<&EndedCommand>) -> Vec<DeathReport> {
        let signal = command.and_then(|command| command.status.signal());
        let (noted, hits) = (self.set.take_deaths(), self.set.all_hits());
        // It is only taken while a look is stuck.
        self.sightings.try_lock().map_or_else(
            |_| Vec::new(),
            |sightings| sightings.deaths(&self.set.plan, &hits, &noted, signal),
        )
    }

    /// Finds out why probes had no hits. The user can end it.
    pub(super) async fn explain(&mut self, command: Option<&EndedCommand>, deaths: &[DeathReport]) {
        let silent = self.set.silent();
        if silent.is_empty() {
            return;
        }
        let stat = command.map(|command| command.stat.clone());
        let (sightings, set) = (Arc::clone(&self.sightings), Arc::clone(&self.set));
        let explaining = blocking("explain", move || {
            let mut sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(stat) = stat {
                sightings.look_at_dead(&stat);
            }
            let no_hits = set.hits() == 0;
            caveats::explain(&set.plan, &silent, &|_| no_hits, &sightings)
        });
        tokio::select! {
            explained = tokio::time::timeout(EXPLAIN_PATIENCE, explaining) => {
                if let Ok(Ok(remarks)) = explained {
                    let has_copies: Vec<_> = self
                        .remarks
                        .iter()
                        .filter(|remark| matches!(remark.caveat, Caveat::Copies { .. }))
                        .flat_map(|remark| remark.probes.clone())
                        .collect();
                    let plan = Arc::clone(&self.set.plan);
                    let is_suspect = |id: &ProbeId| {
                        let label = plan.probes.get(id.0 as usize).map(|probe| &probe.label);
                        let mut suspects = deaths.iter().flat_map(|death| &death.suspects);
                        suspects.any(|of| of.probes().iter().any(|probe| Some(probe) == label))
                    };
                    self.remarks.extend(remarks.into_iter().filter_map(|mut remark| {
                        // The copies, or the call that ended the process, are the likelier cause.
                        if matches!(remark.caveat, Caveat::NotCalled { .. }) {
                            remark.probes.retain(|id| !has_copies.contains(id) && !is_suspect(id));
                        }
                        (!remark.probes.is_empty()).then_some(remark)
                    }));
                }
            }
            _ = self.interrupts.next() => {}
        }
    }
}
