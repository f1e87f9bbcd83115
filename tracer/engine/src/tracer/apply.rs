//! Changes of requests: new probes are attached before old ones are released, and the ones that stay are
//! left alone.

use std::{collections::HashSet, sync::Arc};

use faultline_resolve::{Pid, Skipped};

use super::{
    Added, Attached, Change, Changed, TracerError,
    engine::{Engine, Pending},
    probed::{Origin, Part, Probed, into_links},
    work::{Attachments, Input, Worked, chain},
};
use crate::{
    discovery::{Scope, is_same_file},
    kernel::HeldLinks,
    limiter::Limiter,
    links::PlaceId,
    notice::Notice,
    request::Request,
};

/// How many file contents without a place a request may keep before the oldest is forgotten.
const KEPT_EMPTY: usize = 2;

impl Pending {
    /// Answers with a failure.
    pub(super) fn fail(self, error: TracerError) {
        // The requester may have gone.
        match self {
            Self::Change { reply, .. } => drop(reply.send(Err(error))),
            Self::Attach { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// What a change amounts to.
struct Difference {
    new: Vec<Request>,
    leaving: Vec<Arc<str>>,
    origin: Origin,
    may_wait: bool,
}

impl Engine {
    /// Queues a change; it starts when no other work is in progress.
    pub(super) fn enqueue(&mut self, pending: Pending) {
        self.queue.push_back(pending);
        self.next_pending();
    }

    /// Requeues a change that was given up, ahead of the others.
    pub(super) fn requeue(&mut self, pending: Option<Pending>) {
        if let Some(pending) = pending {
            self.queue.push_front(pending);
        }
        self.next_pending();
    }

    fn next_pending(&mut self) {
        while self.job.is_none()
            && let Some(pending) = self.queue.pop_front()
        {
            self.start(pending);
        }
    }

    fn start(&mut self, pending: Pending) {
        match pending {
            Pending::Attach { mut prepared, progress, reply } => {
                let combined = std::mem::take(&mut prepared.combined);
                for part in &combined.parts {
                    let request = &part.request;
                    let probed = Probed::new(Request::clone(request), Origin::Control);
                    self.requests.entry(Arc::clone(&request.name)).or_insert(probed);
                }
                let input = Input::Prepared {
                    combined: Box::new(combined),
                    progress: Arc::clone(&progress),
                };
                // The plan is with the job; the requester is answered with its result.
                self.start_job(input, Some(Pending::Attach { prepared, progress, reply }));
            }
            Pending::Change { change, reply } => match self.difference(&change) {
                Err(error) => drop(reply.send(Err(error))),
                Ok(Difference { new, leaving, .. }) if new.is_empty() => {
                    let changed = self.settle(&change, &leaving);
                    let _ = reply.send(Ok(changed));
                }
                Ok(Difference { new, leaving, origin, may_wait }) => {
                    let known =
                        new.into_iter().map(|request| Probed::new(request, origin).known(false));
                    let known: Vec<_> = known.collect();
                    let leaving: HashSet<_> =
                        leaving.iter().chain(known.iter().map(|of| &of.request.name)).collect();
                    let stays = self.requests.iter().filter(|(name, _)| !leaving.contains(name));
                    let live = stays.flat_map(|(_, probed)| probed.live_parts());
                    let staying = Some(live.map(|part| part.ids.len()).sum());
                    let scope = if may_wait { Scope::Whole } else { Scope::WholeOrNothing };
                    // The new configuration's settings already apply to its own requests.
                    let before = self.options.settings.clone();
                    if let Change::Configure { settings, .. } = &change {
                        self.options.settings = settings.clone();
                    }
                    let input = Input::Look { known, scope, staying };
                    self.start_job(input, Some(Pending::Change { change, reply }));
                    self.options.settings = before;
                }
            },
        }
    }

    /// What is added and what is removed.
    fn difference(&self, change: &Change) -> Result<Difference, TracerError> {
        match change {
            Change::Configure { requests, .. } => {
                let wanted: HashSet<_> = requests.iter().map(|request| &request.name).collect();
                let of_config = |(name, probed): (&Arc<str>, &Probed)| {
                    (probed.origin == Origin::Config && !wanted.contains(name))
                        .then(|| Arc::clone(name))
                };
                let is_new = |request: &&Request| !self.is_known(request);
                Ok(Difference {
                    new: requests.iter().filter(is_new).cloned().collect(),
                    leaving: self.requests.iter().filter_map(of_config).collect(),
                    origin: Origin::Config,
                    may_wait: true,
                })
            }
            Change::Add { requests, may_wait } => {
                let mut names = HashSet::new();
                for request in requests {
                    if self.requests.contains_key(&request.name) || !names.insert(&request.name) {
                        return Err(TracerError::Exists(Arc::clone(&request.name)));
                    }
                }
                Ok(Difference {
                    new: requests.clone(),
                    leaving: Vec::new(),
                    origin: Origin::Control,
                    may_wait: *may_wait,
                })
            }
            Change::Remove { names } => {
                let known = |name: &String| {
                    let known = self.requests.get_key_value(name.as_str());
                    known
                        .map(|(name, _)| Arc::clone(name))
                        .ok_or_else(|| TracerError::Unknown(name.clone()))
                };
                Ok(Difference {
                    new: Vec::new(),
                    leaving: names.iter().map(known).collect::<Result<_, _>>()?,
                    origin: Origin::Control,
                    may_wait: true,
                })
            }
        }
    }

    /// Releases what is removed, and applies settings, once nothing can fail any more.
    fn settle(&mut self, change: &Change, leaving: &[Arc<str>]) -> Changed {
        let (removed, links) = self.remove(leaving);
        let kept = self.requests.len();
        if let Change::Configure { settings, .. } = change {
            self.configure(settings.clone());
        }
        self.publish();
        self.release(links, None);
        Changed { removed, kept, ..Changed::default() }
    }

    /// Removes requests; their names, sorted, and the links that the caller must release.
    fn remove(&mut self, names: &[Arc<str>]) -> (Vec<String>, Vec<HeldLinks>) {
        let probed = |name: &Arc<str>| self.requests.remove_entry(name);
        let (mut removed, parts): (Vec<_>, Vec<_>) =
            names.iter().filter_map(probed).map(|(name, of)| (name.to_string(), of.parts)).unzip();
        removed.sort_unstable();
        (removed, into_links(parts.into_iter().flatten()))
    }

    fn configure(&mut self, settings: super::Settings) {
        self.options.settings = settings;
        self.limit_overhead();
    }

    /// Applies the budget of the settings. Probes that the previous budget has detached are attached again.
    pub(super) fn limit_overhead(&mut self) {
        let limit = self.settings().limit;
        if self.limiter.as_ref().map(Limiter::limit) == limit
            || self.correcting
            || self.attach_missing_at.is_some()
        {
            // The current correction is finished first; then this is called again.
            return;
        }
        if self.limiter.take().is_some() {
            // The status shows the former budget until everything that it has detached is attached again.
            self.attach_missing();
            return;
        }
        self.limiter = limit.map(|limit| Limiter::new(limit, &self.sets));
        self.options.observer.overhead(self.limiter.as_ref().map(Limiter::status));
    }

    /// Looks for new and lost targets: everywhere, or among new processes.
    pub(super) fn scan(&mut self, begun: Option<Vec<Pid>>) {
        let follows = |probed: &Probed| {
            let sets = probed.parts.iter().filter_map(|part| self.sets.get(&part.set));
            probed.request.follow && sets.into_iter().any(|set| set.has_followed())
        };
        let known = self.requests.values().map(|probed| probed.known(follows(probed))).collect();
        let scope = begun.map_or(Scope::Whole, Scope::Begun);
        self.start_job(Input::Look { known, scope, staying: None }, None);
    }

    /// Handles what a job has found and attached.
    pub(super) fn worked(&mut self, worked: Worked) {
        if !self.is_current(&worked) {
            // It was given up but has come back: its targets are looked at again.
            self.avoided.clear();
            if let Ok(attachments) = worked.result {
                self.discard(attachments);
            }
            return;
        }
        let pending = self.job.take().and_then(|job| job.pending);
        match pending {
            None => self.scanned(worked),
            Some(Pending::Change { change, reply }) => {
                let result = self.changed(&change, worked);
                let _ = reply.send(result);
            }
            Some(Pending::Attach { reply, .. }) => {
                let result = self.attached(worked);
                let _ = reply.send(result);
            }
        }
        self.next_pending();
    }

    /// Releases what a job has attached, because the tracer is stopping, and says so to whoever waits.
    pub(super) fn cancelled(&mut self, worked: Worked) {
        if self.is_current(&worked)
            && let Some(pending) = self.job.take().and_then(|job| job.pending)
        {
            pending.fail(TracerError::Stopping);
        }
        if let Ok(attachments) = worked.result {
            self.discard(attachments);
        }
    }

    /// Releases attachments that are no longer wanted.
    fn discard(&mut self, attachments: Attachments) {
        let Attachments { sets, parts, places, .. } = attachments;
        let mut links = into_links(parts.into_iter().map(|(_, part)| part));
        links.extend(places.into_iter().flat_map(|(_, _, place)| place.links.into_links()));
        let sets = sets.into_iter().map(|(_, set)| set).collect();
        self.release_ending(links, sets, None, Arc::default());
    }

    fn attached(&mut self, worked: Worked) -> Result<Attached, TracerError> {
        self.looker = Some(worked.looker);
        let mut attachments = worked.result?;
        let Some((id, set)) = attachments.sets.pop() else { return Err(TracerError::NoneAttached) };
        let report = std::mem::take(&mut attachments.report);
        let is_anywhere = attachments.parts.iter().any(|(_, part)| !part.places.is_empty());
        if !is_anywhere || self.requests.is_empty() {
            attachments.sets.push((id, set));
            self.discard(attachments);
            return Err(if is_anywhere {
                TracerError::Stopping
            } else {
                TracerError::ProcessesEnded
            });
        }
        self.sets.insert(id, Arc::clone(&set));
        for (name, part) in attachments.parts {
            if let Some(probed) = self.requests.get_mut(&name) {
                probed.parts.push(part);
            }
        }
        self.options.observer.attached(report.took);
        Ok(Attached { set, report })
    }

    fn changed(&mut self, change: &Change, worked: Worked) -> Result<Changed, TracerError> {
        // Only the budget can have changed anything in the meantime, so the names are still valid.
        let Difference { new, mut leaving, origin, .. } = self.difference(change)?;
        let Worked { looker, started, problems, found, skipped, result, .. } = worked;
        self.looker = Some(looker);
        let attachments = result?;
        let took_something = !attachments.sets.is_empty();
        leaving.extend(new.iter().map(|request| Arc::clone(&request.name)));
        // New probes count before old ones are released.
        let (removed, links) = self.remove(&leaving);
        let kept = self.requests.len();
        let names: Vec<_> = new.iter().map(|request| Arc::clone(&request.name)).collect();
        for request in new {
            self.requests.insert(Arc::clone(&request.name), Probed::new(request, origin));
        }
        self.take_in(attachments, skipped);
        for name in &names {
            if let Some(probed) = self.requests.get_mut(name) {
                probed.note_problem(problems.get(name), found.contains(name));
            }
        }
        if took_something {
            self.options.observer.attached(started.elapsed());
        }
        let added = names.iter().filter_map(|name| self.requests.get(name)).map(|probed| Added {
            name: probed.request.name.to_string(),
            functions: probed.parts.iter().map(|part| part.ids.len()).sum(),
            skipped: probed.skipped.len(),
            waiting: probed.problem.as_deref().map(str::to_owned),
        });
        let added = added.collect();
        self.settle(change, &[]);
        self.release(links, None);
        Ok(Changed { added, removed, kept, took: started.elapsed() })
    }

    /// Starts counting in new sets, and puts parts and places where they belong.
    fn take_in(&mut self, attachments: Attachments, skipped: Vec<(Arc<str>, Skipped)>) {
        let Attachments { sets, parts, places, report, failures } = attachments;
        for refused in report.refused.into_iter().chain(report.differing) {
            self.notice(Notice::Refused(refused));
        }
        for (id, set) in sets {
            set.begin();
            self.sets.insert(id, set);
        }
        let mut homeless = Vec::new();
        let is_paused = self.limiter.as_ref().is_some_and(Limiter::is_paused);
        for (name, part) in parts {
            if is_paused {
                // Everything is detached at the moment; these will be attached together with the others.
                let probes = part.places.iter().flat_map(|place| place.links.probes());
                self.late.extend(probes.map(|id| (part.set, id)));
            }
            match self.requests.get_mut(&name) {
                Some(probed) => probed.parts.push(part),
                None => homeless.extend(into_links([part])),
            }
        }
        let mut came_back = Vec::new();
        for (name, id, place) in places {
            let probed = self.requests.get_mut(&name);
            let part = probed.and_then(|of| of.parts.iter_mut().find(|part| part.id == id));
            match part {
                Some(part) => {
                    if let Some(limiter) = &self.limiter {
                        let set = part.set;
                        let away = place.links.probes().filter(|id| limiter.is_away(set, *id));
                        self.late.extend(away.map(|id| (set, id)));
                    }
                    // Also those that came back while this was being attached without them.
                    let there: HashSet<_> = place.links.probes().collect();
                    let is_away =
                        |id| self.limiter.as_ref().is_some_and(|of| of.is_away(part.set, id));
                    let ids = part.ids.iter().copied();
                    let missing = ids.filter(|id| !there.contains(id) && !is_away(*id));
                    came_back.extend(missing.map(|id| (part.set, id)));
                    part.places.push(place);
                }
                None => homeless.extend(place.links.into_links()),
            }
        }
        for (name, skipped) in skipped {
            if let Some(probed) = self.requests.get_mut(&name) {
                probed.skipped.insert(Arc::clone(&skipped.label), skipped);
            }
        }
        for failure in failures {
            self.notice(Notice::TargetsFailed(failure));
        }
        if !homeless.is_empty() {
            self.release(homeless, None);
        }
        came_back.retain(|(set, id)| {
            self.sets.get(set).is_some_and(|set| !set.acceptable(&[*id]).is_empty())
        });
        if !came_back.is_empty() {
            self.attach_later(came_back);
        }
    }

    /// Handles what a scan has found.
    fn scanned(&mut self, worked: Worked) {
        let Worked { looker, started, problems, found, skipped, gone, whole, result, .. } = worked;
        self.looker = Some(looker);
        if whole {
            // Whatever failed is looked for again.
            self.requests.values_mut().for_each(|probed| probed.problem = None);
        }
        let mut added = 0;
        match result {
            Ok(attachments) => {
                if whole {
                    self.told_failure.clear();
                }
                let places = attachments.parts.iter().map(|(_, part)| part.places.len());
                added = places.sum::<usize>() + attachments.places.len();
                self.take_in(attachments, skipped);
                for (name, probed) in &mut self.requests {
                    probed.note_problem(problems.get(name), found.contains(name));
                }
            }
            Err(error) => {
                let text = chain(&error);
                // It is retried at each look.
                if self.told_failure != text {
                    self.notice(Notice::TargetsFailed(text.clone()));
                    self.told_failure.clone_from(&text);
                }
                let placeless = |probed: &&mut Probed| probed.places().next().is_none();
                for probed in self.requests.values_mut().filter(placeless) {
                    let why = || format!("failed to attach: {text}").into();
                    probed.problem.get_or_insert_with(why);
                }
            }
        }
        let removed = gone.len();
        let mut links = self.drop_places(&gone);
        for probed in self.requests.values_mut() {
            if probed.problem.is_none() && probed.places().next().is_none() {
                probed.problem = Some("the target has disappeared".into());
            }
        }
        links.extend(self.forget_empty());
        if added != 0 || removed != 0 {
            let took = started.elapsed();
            self.options.observer.attached(took);
            self.notice(Notice::TargetsChanged { added, removed, took });
        }
        if added != 0 || removed != 0 || whole {
            self.publish();
        }
        self.release(links, None);
    }

    /// Removes places whose target is gone; the caller must release their links.
    fn drop_places(&mut self, gone: &[(Arc<str>, PlaceId)]) -> Vec<HeldLinks> {
        let mut links = Vec::new();
        let mut ended = HashSet::new();
        for (name, id) in gone {
            let Some(probed) = self.requests.get_mut(name) else { continue };
            for part in &mut probed.parts {
                let set = self.sets.get(&part.set);
                let alone = set.is_none_or(|set| set.programs().filters_by_process());
                let Some(index) = part.places.iter().position(|place| place.id == *id) else {
                    continue;
                };
                let place = part.places.remove(index);
                if let Some(process) = place.process {
                    ended.insert((part.set, process.pid));
                }
                let heir =
                    part.places.iter_mut().find(|other| is_same_file(&other.file, &place.file));
                match heir {
                    // One link serves all places of the file.
                    Some(heir) if !alone && !place.links.is_empty() => heir.links.add(place.links),
                    _ => links.extend(place.links.into_links()),
                }
            }
        }
        // A process may be in a set for several requests; if one has lost it, all have.
        for (id, pid) in ended {
            if let Some(set) = self.sets.get(&id)
                && let Err(error) = set.programs().forget_process(pid)
            {
                tracing::debug!("{error}");
            }
        }
        links
    }

    /// Forgets file contents that exist nowhere any more, except the last few; their counts are kept.
    fn forget_empty(&mut self) -> Vec<HeldLinks> {
        let mut forgotten = Vec::new();
        for probed in self.requests.values_mut() {
            let empty = |part: &Part| part.places.is_empty();
            while probed.parts.iter().filter(|part| empty(part)).count() > KEPT_EMPTY {
                let Some(oldest) = probed.parts.iter().position(empty) else { break };
                let part = probed.parts.remove(oldest);
                if let Some(set) = self.sets.get(&part.set) {
                    for (label, mut figures) in super::publish::figures_of(set, &part) {
                        let sum = probed.retired.entry(label).or_default();
                        figures.add(sum);
                        *sum = Arc::new(figures);
                    }
                }
                forgotten.push(part);
            }
        }
        into_links(forgotten)
    }
}
