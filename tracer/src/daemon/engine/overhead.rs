//! The overhead budget: decides by [`Budget`], and detaches and attaches what is to be.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    Command, Engine,
    group::{Group, GroupId, is_gone},
    named::{Attachment, HeldSets, Part},
};
use crate::daemon::config;
use faultline_engine::{
    guard::{Budget, Costly, Meter, OverheadLimit, StuckWatch, Wish},
    kernel::{HeldLinks, Holders, own_cpu_time},
};
use faultline_output::prometheus::{OverheadStatus, online_cpus};
use faultline_plan::ProbeId;

/// Looking takes so small a part of the time: it may be over a million counters.
const LOOK_PART: u32 = 50;
/// Functions that are named when they are detached; the rest is counted.
const NAMED: usize = 5;

/// A function of a group.
type Key = (GroupId, ProbeId);

/// Keeps the budget.
#[derive(Debug)]
pub(super) struct Overseer {
    budget: Budget<Key>,
    meters: BTreeMap<GroupId, Meter>,
    next: Instant,
    looked: Instant,
    /// How long probes were attached.
    attached: Duration,
    told_duty: bool,
    /// What is being done.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    wish: Wish<Key>,
    /// CPU time of this process when it was begun.
    before: Duration,
    /// Groups whose links are exchanged.
    exchanged: Vec<GroupId>,
}

impl Overseer {
    pub(super) fn new(limit: OverheadLimit) -> Self {
        let now = Instant::now();
        Self {
            budget: Budget::new(limit, online_cpus(), now),
            meters: BTreeMap::new(),
            next: now,
            looked: now,
            attached: Duration::ZERO,
            told_duty: false,
            pending: None,
        }
    }

    /// Whether a function is detached, and is to stay so.
    pub(super) fn is_away(&self, group: GroupId, probe: ProbeId) -> bool {
        self.budget.is_away(&(group, probe))
    }

    /// How long nobody needs to look.
    fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    fn look(&mut self, groups: &BTreeMap<GroupId, Group>) -> Wish<Key> {
        let began = Instant::now();
        self.meters.retain(|id, _| groups.contains_key(id));
        let mut spent = Duration::ZERO;
        for (id, group) in groups {
            let new = || Meter::new(group.source.costs.clone(), group.plan.probes.len());
            spent += self.meters.entry(*id).or_insert_with(new).read(&group.source.counters);
        }
        let now = Instant::now();
        if !self.budget.is_paused() {
            self.attached += now - self.looked;
        }
        self.looked = now;
        self.budget.forget(|(group, _)| !groups.contains_key(group));
        let meters = &self.meters;
        let wish = self.budget.look(now, spent, || {
            let of = |(id, meter): (&GroupId, &Meter)| {
                let id = *id;
                meter.costs().into_iter().map(move |(probe, spent)| ((id, probe), spent))
            };
            meters.iter().flat_map(of).collect()
        });
        self.next = now + self.budget.next_look().max(began.elapsed() * LOOK_PART);
        wish
    }

    fn status(&self) -> OverheadStatus {
        let figures = self.budget.figures();
        let limit = self.budget.limit();
        OverheadStatus {
            limit: limit.share(),
            policy: limit.policy().to_string(),
            hits: figures.hits,
            work: figures.work,
            exceeded: figures.exceeded,
            detached: figures.detached,
            attached_again: figures.attached_again,
            away: self.budget.away(),
            attached: self.attached,
        }
    }
}

impl Engine {
    /// How long the engine may wait for a wish of somebody.
    pub(super) fn patience(&self, most: Duration) -> Duration {
        self.overseer.as_ref().map_or(most, |overseer| overseer.wait().min(most))
    }

    /// Puts a budget in force. What the one before has detached is attached again.
    pub(super) fn limit_overhead(&mut self, config: &config::Overhead) {
        let limit = config.limit();
        if self.overseer.as_ref().map(|overseer| overseer.budget.limit()) == limit {
            return;
        }
        // What is being done is finished first; then this is asked again.
        if self.overseer.as_ref().is_some_and(|overseer| overseer.pending.is_some()) {
            return;
        }
        if self.overseer.take().is_some() {
            attach_where(self, |_, _| true);
        }
        self.overseer = limit.map(Overseer::new);
        self.shared.metrics.set_overhead(self.overseer.as_ref().map(Overseer::status));
    }

    /// Looks, if it is time, and does what is to be done.
    pub(super) fn keep_budget(&mut self) {
        let Some(overseer) = &mut self.overseer else { return };
        if !overseer.wait().is_zero() {
            return;
        }
        let wish = overseer.look(&self.groups);
        if wish != Wish::Nothing {
            self.obey(wish);
        }
        self.shared.metrics.set_overhead(self.overseer.as_ref().map(Overseer::status));
    }

    fn obey(&mut self, wish: Wish<Key>) {
        self.tell_overhead(&wish);
        let before = own_cpu_time();
        let mut exchanged = Vec::new();
        let mut old = Vec::new();
        match &wish {
            Wish::Nothing => {}
            Wish::Detach(costly) => {
                let mut by_group: BTreeMap<GroupId, HashSet<ProbeId>> = BTreeMap::new();
                for Costly { probe: (group, probe), .. } in costly {
                    by_group.entry(*group).or_default().insert(*probe);
                }
                for (group, probes) in by_group {
                    old.extend(self.take_out(group, &probes, &mut exchanged));
                }
                let exchanged = exchanged.first().and_then(|id| self.groups.get(id));
                if let Some(Err(error)) = exchanged.map(|group| group.programs.outlast_hits()) {
                    tracing::warn!("over budget, and hits may be missing: {error}");
                }
            }
            Wish::Pause => {
                for named in self.named.values_mut() {
                    for part in &mut named.parts {
                        if let Some(group) = self.groups.get(&part.group) {
                            group.programs.close_gates(&part.ids);
                        }
                        let places = part.attachments.iter_mut();
                        old.extend(
                            places.flat_map(|place| std::mem::take(&mut place.links).into_links()),
                        );
                    }
                }
            }
            Wish::Resume => attach_where(self, |_, _| true),
            Wish::Attach(keys) => {
                let keys: HashSet<_> = keys.iter().copied().collect();
                attach_where(self, |group, probe| keys.contains(&(group, probe)));
            }
        }
        let changes_list = matches!(wish, Wish::Detach(_) | Wish::Attach(_));
        if let Some(overseer) = &mut self.overseer {
            overseer.pending = Some(Pending { wish, before, exchanged });
        }
        if old.is_empty() {
            self.overhead_settled();
        } else {
            self.release_old(old);
        }
        if changes_list {
            self.publish();
        }
    }

    /// Takes functions out of a group's links; what is to be released.
    fn take_out(
        &mut self,
        id: GroupId,
        probes: &HashSet<ProbeId>,
        exchanged: &mut Vec<GroupId>,
    ) -> Vec<HeldLinks> {
        let Some(group) = self.groups.get_mut(&id) else { return Vec::new() };
        group.programs.close_gates(probes);
        let mut old = Vec::new();
        let parts = self.named.values_mut().flat_map(|named| &mut named.parts);
        for part in parts.filter(|part| part.group == id) {
            for place in &mut part.attachments {
                let (touched, stays) = place.links.touched_by(probes);
                if touched.is_empty() {
                    continue;
                }
                let new = if stays.is_empty() {
                    Ok(HeldSets::default())
                } else {
                    if exchanged.last() != Some(&id) {
                        group.programs.begin_exchange();
                        exchanged.push(id);
                    }
                    group.attach_at(&stays, &place.file, place.traced, &mut self.holders)
                };
                match new {
                    Ok(new) => old.extend(place.links.exchange(&touched, new)),
                    Err(error) if is_gone(&error) => {
                        old.extend(place.links.exchange(&touched, HeldSets::default()));
                    }
                    Err(error) => {
                        group.programs.open_gates(probes);
                        tracing::error!(
                            "over budget, and failed to detach from {}: {error}",
                            place.file.shown_path().display()
                        );
                    }
                }
            }
        }
        old
    }

    /// Releases links on a thread of its own, which tells when it is done.
    fn release_old(&mut self, old: Vec<HeldLinks>) {
        let stuck = |group: &Group| group.watch.as_ref().is_some_and(StuckWatch::anyone_inside);
        let hand_over = self.groups.values().any(stuck);
        self.shared.releasing.fetch_add(1, Ordering::Relaxed);
        let releasing = self.holders.release(old, hand_over);
        let tell = self.tell.clone();
        let work = move || {
            releasing.wait();
            let _ = tell.send(Command::OverheadSettled);
        };
        if let Err(error) = std::thread::Builder::new().name("release".to_owned()).spawn(work) {
            // What the thread was to own is dropped by now, which releases it just as well.
            tracing::error!("failed to start a thread: {error}");
            let _ = self.tell.send(Command::OverheadSettled);
        }
    }

    /// What the budget has detached is released.
    pub(super) fn overhead_released(&mut self) {
        self.shared.releasing.fetch_sub(1, Ordering::Relaxed);
        self.overhead_settled();
    }

    fn overhead_settled(&mut self) {
        let Some(overseer) = &mut self.overseer else { return };
        let Some(pending) = overseer.pending.take() else { return };
        let work = own_cpu_time().saturating_sub(pending.before);
        let now = Instant::now();
        overseer.budget.done(now, &pending.wish, work);
        overseer.next = now + overseer.budget.next_look();
        for id in pending.exchanged {
            if let Some(group) = self.groups.get(&id) {
                group.programs.end_exchange();
            }
        }
        self.limit_overhead(&self.config.overhead.clone());
    }

    fn tell_overhead(&mut self, wish: &Wish<Key>) {
        let Some(overseer) = &mut self.overseer else { return };
        let over = overseer.budget.over();
        match wish {
            Wish::Detach(costly) => {
                let label = |(group, probe): Key| {
                    let group = self.groups.get(&group)?;
                    group.plan.probes.get(probe.0 as usize).map(|probe| probe.label.escape_debug())
                };
                let named: Vec<_> = costly
                    .iter()
                    .take(NAMED)
                    .filter_map(|costly| {
                        let label = label(costly.probe)?;
                        Some(format!("`{label}` ({:.2} %)", costly.share * 100.0))
                    })
                    .collect();
                let more = match costly.len() - named.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let again = costly.iter().map(|costly| costly.again_in).min().unwrap_or_default();
                tracing::warn!(
                    "{over}: detached {}{more}; tried again in {:.1} s",
                    named.join(", "),
                    again.as_secs_f64()
                );
            }
            Wish::Attach(keys) => {
                tracing::info!(
                    "trying {} functions again that the budget had detached",
                    keys.len()
                );
            }
            Wish::Pause if !overseer.told_duty => {
                overseer.told_duty = true;
                tracing::warn!("{over}: probes are attached a part of the time from now on");
            }
            Wish::Pause | Wish::Resume | Wish::Nothing => {}
        }
    }
}

/// Attaches functions of a group wherever they are not attached and are to be.
fn attach_where(engine: &mut Engine, wanted: impl Fn(GroupId, ProbeId) -> bool) {
    let Engine { named, groups, holders, .. } = engine;
    for named in named.values_mut() {
        for Part { group: id, ids, attachments, .. } in &mut named.parts {
            let Some(group) = groups.get_mut(id) else { continue };
            for place in attachments {
                attach_missing(group, ids, place, holders, |probe| wanted(*id, probe));
            }
            group.programs.open_gates(ids.iter().filter(|probe| wanted(*id, **probe)));
        }
    }
}

fn attach_missing(
    group: &mut Group,
    ids: &[ProbeId],
    place: &mut Attachment,
    holders: &mut Holders,
    wanted: impl Fn(ProbeId) -> bool,
) {
    let there: HashSet<ProbeId> = place.links.probes().collect();
    let missing: Vec<_> =
        ids.iter().copied().filter(|probe| !there.contains(probe) && wanted(*probe)).collect();
    if missing.is_empty() {
        return;
    }
    match group.attach_at(&missing, &place.file, place.traced, holders) {
        Ok(sets) => place.links.add(sets),
        Err(error) if is_gone(&error) => {}
        Err(error) => tracing::error!(
            "failed to attach to {} again: {error}",
            place.file.shown_path().display()
        ),
    }
}
