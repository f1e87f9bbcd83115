//! Carries out the overhead budget's decisions, and reports back whether they succeeded.
//!
//! To take some probes out of a link that holds thousands, a link with the others is attached first, and
//! then the old one is retired and released: see [`kernel::exchange`](crate::kernel). Both steps wait for the kernel,
//! and so run on separate threads. Until both are done, the budget decides nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use faultline_plan::ProbeId;

use tokio::sync::oneshot;

use super::{
    Command, TracerError,
    engine::{Engine, Leaving},
    work::chain,
};
use crate::{
    kernel::{KernelError, Progress, process_time},
    limiter::{Correction, Costly, Key, Limiter, LimiterNotice},
    links::{self, LinkStore, Place, PlaceId, PlaceLinks, Wanted},
    notice::Notice,
    set::{ProbeSet, SetId},
};

/// How often to report a failure that stays the same.
const TELL_FAILURE_EVERY: Duration = Duration::from_secs(60);
/// How long until the next attempt to attach what a former limit has detached.
const MISSING_AGAIN: Duration = Duration::from_secs(1);

/// What to do at a place.
struct Item {
    place: PlaceId,
    set: SetId,
    /// Links that hold the probes to remove.
    old: PlaceLinks,
    /// What to attach: the probes that stay, or the new ones.
    wanted: Wanted,
}

impl Item {
    fn at(place: &Place, set: SetId, old: PlaceLinks, probes: Vec<ProbeId>) -> Self {
        let wanted = Wanted { probes, file: Arc::clone(&place.file), process: place.process };
        Self { place: place.id, set, old, wanted }
    }
}

/// What was done at a place.
pub(super) struct Replaced {
    place: PlaceId,
    set: SetId,
    old: PlaceLinks,
    new: PlaceLinks,
}

impl Replaced {
    /// An item that was left as it was.
    fn nothing(item: Item) -> Self {
        Self { place: item.place, set: item.set, old: item.old, new: PlaceLinks::default() }
    }
}

/// A correction whose links are attached, but whose old links are not yet released.
pub(crate) struct Corrected {
    correcting: Correcting,
    result: Result<(), KernelError>,
    replaced: Vec<Replaced>,
}

/// Probes that a caller wants detached, or attached again.
pub(crate) struct Adjustment {
    pub(super) keys: Vec<Key>,
    pub(super) attach: bool,
    pub(super) reply: Reply,
}

/// The caller that waits for an adjustment.
type Reply = oneshot::Sender<Result<(), TracerError>>;

/// A correction that is being carried out.
pub(super) struct Correcting {
    correction: Correction<Key>,
    /// The notice about it, shown once nothing can fail any more.
    notice: Option<Notice>,
    /// Probes of [`Engine::late`] that are removed with it.
    late: HashSet<Key>,
    /// Set if a caller asked for it, instead of the budget.
    reply: Option<Reply>,
    /// CPU time of this process at its start.
    before: Duration,
}

impl Engine {
    /// Checks what the probes cost, if it is time, and starts what has to be done.
    pub(super) fn keep_budget(&mut self) {
        let Some(limiter) = &mut self.limiter else { return };
        if !limiter.wait().is_zero() || self.correcting && !limiter.is_correcting() {
            // A caller's adjustment is in progress.
            return;
        }
        let mut correction = limiter.look(&self.sets);
        let mut notice = None;
        if correction == Correction::Nothing {
            self.late.retain(|(set, probe)| limiter.is_away(*set, *probe));
            if !self.correcting && !self.late.is_empty() {
                // They were being attached when the budget decided to detach them. That decision will not
                // be made again.
                correction = Correction::Detach(Vec::new());
            }
        } else if matches!(correction, Correction::Attach(_) | Correction::Resume)
            && self.leaving.iter().any(Leaving::is_held_up)
        {
            // Whatever is attached will have to be released again, and nothing can be released while a task
            // holds that up.
            limiter.failed(&correction, Duration::ZERO);
            correction = Correction::Nothing;
        } else {
            notice = limiter.notice(&correction, &self.sets).map(Notice::Limiter);
        }
        if correction != Correction::Nothing {
            self.correct(correction, notice, None);
        }
        self.options.observer.overhead(self.limiter.as_ref().map(Limiter::status));
    }

    /// Queues probes to be attached wherever they are not, once no other correction is in progress.
    pub(super) fn attach_later(&mut self, keys: Vec<Key>) {
        // There is no caller to answer.
        let (reply, _) = oneshot::channel();
        self.adjustments.push_back(Adjustment { keys, attach: true, reply });
    }

    /// Carries out a caller's adjustment, once no other correction is in progress.
    pub(super) fn adjust(&mut self) {
        if self.correcting {
            return;
        }
        let Some(Adjustment { keys, attach, reply }) = self.adjustments.pop_front() else { return };
        let correction = if attach {
            Correction::Attach(keys)
        } else {
            let costly = |probe| Costly { probe, share: 0.0, again_in: Duration::ZERO };
            Correction::Detach(keys.into_iter().map(costly).collect())
        };
        self.correct(correction, None, Some(reply));
    }

    fn correct(
        &mut self,
        correction: Correction<Key>,
        notice: Option<Notice>,
        reply: Option<Reply>,
    ) {
        let before = process_time();
        let mut late = HashSet::new();
        let items = match &correction {
            Correction::Nothing => return,
            Correction::Detach(costly) => {
                late = std::mem::take(&mut self.late);
                if self.limiter.as_ref().is_some_and(Limiter::is_paused) {
                    let ids: HashSet<_> = late.iter().map(|(set, _)| set).collect();
                    self.close_windows(|id| ids.contains(id));
                }
                let costly = costly.iter().map(|Costly { probe, .. }| *probe);
                let out: HashSet<Key> = costly.chain(late.iter().copied()).collect();
                self.take_out(&out)
            }
            Correction::Pause => {
                self.late.clear();
                self.close_windows(|_| true);
                self.take_all_out()
            }
            Correction::Resume => {
                self.late.clear();
                self.missing(|_| true)
            }
            Correction::Attach(keys) => {
                let keys: HashSet<_> = keys.iter().copied().collect();
                self.missing(|key| keys.contains(&key))
            }
        };
        self.correcting = true;
        let tell = self.teller();
        let (sets, store) = (self.sets.clone(), Arc::clone(&self.store));
        let correcting = Correcting { correction, notice, late, reply, before };
        // Sent to the thread once it exists: the links must not be lost with a thread that could not be
        // started.
        let (hand, take) = mpsc::sync_channel::<(Correcting, Vec<Item>)>(1);
        let work = move || {
            if let Ok((correcting, items)) = take.recv() {
                let corrected = correcting.run(items, &sets, &store);
                let _ = tell.send(Command::Corrected(Box::new(corrected)));
            }
        };
        match std::thread::Builder::new().name("limiter".to_owned()).spawn(work) {
            Ok(_) => drop(hand.send((correcting, items))),
            Err(source) => {
                let result = Err(KernelError::Thread { source });
                let replaced = items.into_iter().map(Replaced::nothing).collect();
                self.corrected(Corrected { correcting, result, replaced });
            }
        }
    }

    fn close_windows(&self, is_meant: impl Fn(&SetId) -> bool) {
        for (_, set) in self.sets.iter().filter(|(id, _)| is_meant(id)) {
            if let Some(mut presence) = set.presence() {
                presence.close(Instant::now(), &set.source.counters);
            }
        }
    }

    /// There is no limit any more: attaches what the budget has detached.
    pub(super) fn attach_missing(&mut self) {
        self.attach_missing_at = None;
        self.correct(Correction::Resume, None, None);
    }

    /// Removes the links that hold any of these probes from their places, along with everything else in
    /// those links.
    fn take_out(&mut self, out: &HashSet<Key>) -> Vec<Item> {
        let mut by_set: HashMap<SetId, HashSet<ProbeId>> = HashMap::new();
        for (set, probe) in out {
            by_set.entry(*set).or_default().insert(*probe);
        }
        let mut items = Vec::new();
        for part in self.requests.values_mut().flat_map(|probed| &mut probed.parts) {
            let Some(probes) = by_set.get(&part.set) else { continue };
            for place in &mut part.places {
                let old = place.links.take(probes);
                if old.is_empty() {
                    continue;
                }
                let stays = old.probes().filter(|probe| !probes.contains(probe)).collect();
                items.push(Item::at(place, part.set, old, stays));
            }
        }
        items
    }

    /// Removes all links.
    fn take_all_out(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        for part in self.requests.values_mut().flat_map(|probed| &mut probed.parts) {
            if let Some(set) = self.sets.get(&part.set) {
                set.programs().close_gates(&part.ids);
            }
            for place in &mut part.places {
                let old = std::mem::take(&mut place.links);
                items.push(Item::at(place, part.set, old, Vec::new()));
            }
        }
        items
    }

    /// What is missing where it could be attached. If places share a link, the first one has it.
    fn missing(&self, is_wanted: impl Fn(Key) -> bool) -> Vec<Item> {
        let mut items = Vec::new();
        for part in self.requests.values().flat_map(|probed| &probed.parts) {
            let Some(set) = self.sets.get(&part.set) else { continue };
            let alone = set.programs().filters_by_process();
            for (index, place) in part.places.iter().enumerate() {
                let earlier = &part.places[..index];
                let shares =
                    |other: &Place| crate::discovery::is_same_file(&other.file, &place.file);
                if !alone && earlier.iter().any(shares) {
                    continue;
                }
                let there: HashSet<_> = place.links.probes().collect();
                let probes = part
                    .ids
                    .iter()
                    .copied()
                    .filter(|id| !there.contains(id) && is_wanted((part.set, *id)));
                let probes: Vec<_> = probes.collect();
                if !probes.is_empty() {
                    items.push(Item::at(place, part.set, PlaceLinks::default(), probes));
                }
            }
        }
        items
    }

    /// Handles the result of attaching new links. On success they go to their places and the old ones are
    /// released; on failure the old ones are put back.
    pub(super) fn corrected(&mut self, corrected: Corrected) {
        let Corrected { mut correcting, result, replaced } = corrected;
        let failed = result.is_err();
        let mut places: HashMap<PlaceId, (PlaceLinks, PlaceLinks)> = replaced
            .into_iter()
            .map(|Replaced { place, old, new, .. }| (place, (old, new)))
            .collect();
        let mut links = Vec::new();
        for part in self.requests.values_mut().flat_map(|probed| &mut probed.parts) {
            for place in &mut part.places {
                let Some((old, new)) = places.remove(&place.id) else { continue };
                place.links.add(new);
                if failed {
                    place.links.add(old);
                } else {
                    links.extend(old.into_links());
                }
            }
        }
        // Places that have disappeared by now.
        for (old, new) in places.into_values() {
            links.extend(old.into_links().chain(new.into_links()));
        }
        if let Err(error) = result {
            self.correction_failed(correcting, error);
            self.release(links, None);
            return;
        }
        if let Some(notice) = correcting.notice.take() {
            self.notice(notice);
        }
        match &correcting.correction {
            Correction::Resume | Correction::Attach(_) => self.open_gates(&correcting.correction),
            _ => {}
        }
        let changes_list =
            matches!(correcting.correction, Correction::Detach(_) | Correction::Attach(_));
        if links.is_empty() {
            self.settled(correcting);
        } else {
            self.release(links, Some(correcting));
        }
        if changes_list {
            self.publish();
        }
    }

    /// Nothing has changed: what should have been detached is still attached, and what should have been
    /// attached is not.
    fn correction_failed(&mut self, correcting: Correcting, error: KernelError) {
        let Correcting { correction, late, reply, before, .. } = correcting;
        self.correcting = false;
        self.late.extend(late);
        if correction == Correction::Pause {
            self.open_gates(&correction);
            self.open_windows();
        }
        if let Some(reply) = reply {
            let _ = reply.send(Err(TracerError::Kernel(error)));
            return;
        }
        let text = chain(&error);
        let is_told = self
            .told_correction
            .as_ref()
            .is_some_and(|(told, when)| *told == text && when.elapsed() < TELL_FAILURE_EVERY);
        if !is_told {
            self.notice(Notice::Limiter(LimiterNotice::Failed { error: text.clone() }));
            self.told_correction = Some((text, Instant::now()));
        }
        match &mut self.limiter {
            Some(limiter) => {
                limiter.failed(&correction, process_time().saturating_sub(before));
            }
            // There is no limit any more, so nothing else would retry this.
            None => self.attach_missing_at = Some(Instant::now() + MISSING_AGAIN),
        }
    }

    /// Continues although a task holds up the release of the replaced links: their breakpoints are gone,
    /// and only the kernel's own wait is left.
    pub(super) fn settle_held_up(&mut self) {
        let held_up = self.leaving.iter_mut().filter(|leaving| leaving.is_held_up());
        let corrections: Vec<_> = held_up.filter_map(|leaving| leaving.correction.take()).collect();
        for correction in corrections {
            self.settled(correction);
        }
        if !self.correcting && self.attach_missing_at.is_some_and(|at| Instant::now() >= at) {
            self.attach_missing();
        }
    }

    /// Starts counting calls of what was attached.
    fn open_gates(&self, correction: &Correction<Key>) {
        match correction {
            Correction::Attach(keys) => self.open_gates_of(keys.iter().copied()),
            Correction::Detach(costly) => {
                self.open_gates_of(costly.iter().map(|costly| costly.probe));
            }
            Correction::Pause | Correction::Resume => {
                for part in self.requests.values().flat_map(|probed| &probed.parts) {
                    if let Some(set) = self.sets.get(&part.set) {
                        set.programs().open_gates(&part.ids);
                    }
                }
            }
            Correction::Nothing => {}
        }
    }

    fn open_gates_of(&self, keys: impl Iterator<Item = Key>) {
        for (set, probe) in keys {
            if let Some(set) = self.sets.get(&set) {
                set.programs().open_gates(&[probe]);
            }
        }
    }

    fn open_windows(&self) {
        for set in self.sets.values() {
            if let Some(mut presence) = set.presence() {
                presence.open(Instant::now(), &set.source.counters);
            }
        }
    }

    /// A correction is done: the kernel has released what it replaced.
    pub(super) fn settled(&mut self, correcting: Correcting) {
        let Correcting { correction, reply, before, .. } = correcting;
        self.told_correction = None;
        let now = Instant::now();
        match &correction {
            Correction::Detach(costly) => {
                for Costly { probe: (set, probe), .. } in costly {
                    self.note_presence(*set, |presence| {
                        presence.detached(now, [*probe].into_iter());
                    });
                }
            }
            Correction::Attach(keys) => {
                for (set, probe) in keys {
                    self.note_presence(*set, |presence| {
                        presence.attached(now, [*probe].into_iter());
                    });
                }
            }
            Correction::Resume => self.open_windows(),
            Correction::Pause | Correction::Nothing => {}
        }
        self.correcting = false;
        match (reply, &mut self.limiter) {
            (Some(reply), _) => drop(reply.send(Ok(()))),
            (None, Some(limiter)) => {
                limiter.done(&correction, process_time().saturating_sub(before));
            }
            (None, None) => self.options.observer.overhead(None),
        }
        if self.options.changes {
            self.limit_overhead();
        }
    }

    fn note_presence(&self, set: SetId, note: impl FnOnce(&mut crate::limiter::Presence)) {
        if let Some(mut presence) = self.sets.get(&set).and_then(|set| set.presence()) {
            note(&mut presence);
        }
    }
}

impl Correcting {
    /// Attaches what is missing. If that fails, nothing has changed.
    fn run(
        self,
        items: Vec<Item>,
        sets: &BTreeMap<SetId, Arc<ProbeSet>>,
        store: &LinkStore,
    ) -> Corrected {
        let is_exchange = |item: &&Item| !item.old.is_empty() && !item.wanted.probes.is_empty();
        let exchanged: BTreeSet<SetId> =
            items.iter().filter(is_exchange).map(|item| item.set).collect();
        let exchanged: Vec<_> = exchanged.iter().filter_map(|id| sets.get(id)).collect();
        for set in &exchanged {
            set.programs().begin_exchange();
        }
        let mut by_set: BTreeMap<SetId, Vec<Item>> = BTreeMap::new();
        for item in items {
            by_set.entry(item.set).or_default().push(item);
        }
        let mut replaced = Vec::new();
        let mut result = Ok(());
        for (id, items) in by_set {
            let wanted: Vec<_> = items.iter().map(|item| item.wanted.clone()).collect();
            let attached = match (&result, sets.get(&id)) {
                (Ok(()), Some(set)) => links::attach(set, &wanted, store, &Progress::default()),
                _ => Ok((Vec::new(), crate::kernel::AttachReport::default())),
            };
            let mut new = match attached {
                Ok((new, _)) => new,
                Err(error) => {
                    result = Err(error);
                    Vec::new()
                }
            };
            new.resize_with(items.len(), || None);
            let with_new = items.into_iter().zip(new);
            replaced.extend(with_new.map(|(item, new)| Replaced {
                place: item.place,
                set: id,
                old: item.old,
                // A process that has ended has no links.
                new: new.unwrap_or_default(),
            }));
        }
        if result.is_ok()
            && let Some(set) = exchanged.first()
        {
            // Hits that began earlier may have yet to meet the old links.
            result = set.programs().outlast_hits();
        }
        if result.is_ok() && !exchanged.is_empty() {
            result = retire(&replaced, sets);
        }
        if result.is_ok()
            && let Correction::Detach(costly) = &self.correction
        {
            // Only now, when nothing can fail any more: until then all their calls count.
            let costly = costly.iter().map(|Costly { probe, .. }| probe);
            for (set, probe) in costly.chain(&self.late) {
                if let Some(set) = sets.get(set) {
                    set.programs().close_gates([probe]);
                }
            }
        }
        if result.is_err() {
            let new = replaced.iter_mut().map(|replaced| std::mem::take(&mut replaced.new));
            store.undo(new.flat_map(PlaceLinks::into_links).collect());
        }
        for set in exchanged {
            set.programs().end_exchange();
        }
        Corrected { correcting: self, result, replaced }
    }
}

/// The links that were replaced, and those of what is only removed, ignore their hits from now on. If that
/// fails, none does.
fn retire(replaced: &[Replaced], sets: &BTreeMap<SetId, Arc<ProbeSet>>) -> Result<(), KernelError> {
    let mut by_set: BTreeMap<SetId, Vec<u32>> = BTreeMap::new();
    for Replaced { set, old, .. } in replaced {
        by_set.entry(*set).or_default().extend(old.numbers());
    }
    let with_sets = || by_set.iter().filter_map(|(id, links)| Some((sets.get(id)?, links)));
    let result = with_sets().try_for_each(|(set, links)| set.programs().retire(links));
    if result.is_err() {
        with_sets().for_each(|(set, links)| set.programs().reinstate(links));
    }
    result
}
