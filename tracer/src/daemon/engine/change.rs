//! Changes: what is new is attached before what is old is released, and what stays is not touched.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use anyhow::{anyhow, bail};
use serde::Serialize;

use super::{
    Engine,
    group::{Alike, Group, GroupId, NewGroup},
    look::{self, At, Look, Traced},
    named::{Named, Origin},
};
use crate::daemon::{
    config::{Config, ProbeConfig},
    processes::Containers,
};
use faultline_plan::ProbeId;
use faultline_resolve::Pid;

/// The smallest ring buffer of events: the largest record, and a second one while it is read.
const LEAST_BUFFER_BYTES: u64 = 256 * 1024;

/// What a change did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::daemon) struct Changed {
    /// Probes that are new.
    pub(in crate::daemon) added: Vec<Added>,
    /// Probes that are gone.
    pub(in crate::daemon) removed: Vec<String>,
    /// Probes that were not touched.
    pub(in crate::daemon) kept: usize,
    /// How long attaching took.
    pub(in crate::daemon) attach_ms: f64,
    /// What is not in force, or otherwise than one would think.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::daemon) notes: Vec<String>,
}

/// A probe that is new.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::daemon) struct Added {
    /// Its name.
    pub(in crate::daemon) name: String,
    /// Functions that are probed.
    pub(in crate::daemon) functions: usize,
    /// Functions that cannot be.
    pub(in crate::daemon) skipped: usize,
    /// Why it waits, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::daemon) waiting: Option<String>,
}

impl Engine {
    /// Puts a configuration in force: attaches what is new in it, releases what is not in it any
    /// more, and leaves the rest alone.
    pub(super) fn reload(&mut self, config: Config) -> anyhow::Result<Changed> {
        let is_known = |probe: &ProbeConfig| {
            self.named.get(&probe.name).is_some_and(|named| named.config.text == probe.text)
        };
        let wanted: HashSet<_> =
            config.probes.iter().map(|probe| Arc::clone(&probe.name)).collect();
        let new: Vec<_> = config.probes.iter().filter(|probe| !is_known(probe)).cloned().collect();
        let old: Vec<_> = self
            .named
            .values()
            .filter(|named| named.origin == Origin::Config && !wanted.contains(&named.config.name))
            .map(|named| Arc::clone(&named.config.name))
            .collect();
        let before = std::mem::replace(&mut self.config, config);
        match self.exchange(new, &old, Origin::Config, true) {
            Ok(changed) => {
                self.limit_overhead(&self.config.overhead.clone());
                Ok(changed)
            }
            Err(error) => {
                self.config = before;
                Err(error)
            }
        }
    }

    /// Attaches probes besides those that there are.
    pub(super) fn attach(
        &mut self,
        probes: Vec<ProbeConfig>,
        may_wait: bool,
    ) -> anyhow::Result<Changed> {
        let mut names = HashSet::new();
        for probe in &probes {
            if self.named.contains_key(&probe.name) || !names.insert(&probe.name) {
                bail!("there is a probe `{}` already", probe.name);
            }
        }
        self.exchange(probes, &[], Origin::Control, may_wait)
    }

    /// Detaches probes.
    pub(super) fn detach(&mut self, names: &[String]) -> anyhow::Result<Changed> {
        let mut old = Vec::with_capacity(names.len());
        for name in names {
            let (known, _) = self
                .named
                .get_key_value(name.as_str())
                .ok_or_else(|| anyhow!("there is no probe `{}`", name.escape_debug()))?;
            old.push(Arc::clone(known));
        }
        self.exchange(Vec::new(), &old, Origin::Control, true)
    }

    /// Attaches the new and then releases the old. If it fails, nothing has changed.
    fn exchange(
        &mut self,
        new: Vec<ProbeConfig>,
        old: &[Arc<str>],
        origin: Origin,
        may_wait: bool,
    ) -> anyhow::Result<Changed> {
        let started = Instant::now();
        let names: Vec<_> = new.iter().map(|probe| Arc::clone(&probe.name)).collect();
        let mut fresh: BTreeMap<Arc<str>, Named> = new
            .into_iter()
            .map(|probe| (Arc::clone(&probe.name), Named::new(probe, origin)))
            .collect();
        let look = {
            let all = fresh.iter().map(|(name, named)| (Arc::clone(name), named)).collect();
            let mut seen = Containers::default();
            let containers = self.config.targets.containers.then_some(&mut seen);
            let scope = if may_wait { look::Scope::Whole } else { look::Scope::WholeOrNothing };
            look::look(&mut self.finder, &all, scope, containers)
        };
        if !may_wait {
            refuse_waiting(&names, &look)?;
        }
        let replaced = names.iter().filter(|name| self.named.contains_key(*name));
        let leaving: HashSet<_> = replaced.chain(old).cloned().collect();
        let staying = self.named.iter().filter(|(name, _)| !leaving.contains(*name));
        let staying =
            staying.flat_map(|(_, named)| named.live_parts()).map(|part| part.ids.len()).sum();
        let groups = self.apply(look, &mut fresh, staying)?;
        if !groups.is_empty() {
            self.shared.metrics.attached(started.elapsed());
        }
        let added = names
            .iter()
            .filter_map(|name| fresh.get(name))
            .map(|named| Added {
                name: named.config.name.to_string(),
                functions: named.parts.iter().map(|part| part.ids.len()).sum(),
                skipped: named.skipped.len(),
                waiting: named.problem.as_deref().map(str::to_owned),
            })
            .collect();
        // Only now: nothing can fail any more.
        self.begin(groups);
        let mut links = Vec::new();
        let mut leaving: Vec<_> = leaving.into_iter().collect();
        leaving.sort_unstable();
        for name in &leaving {
            if let Some(named) = self.named.remove(name) {
                links.extend(self.leave(named.parts));
            }
        }
        let kept = self.named.len();
        self.named.extend(fresh);
        self.publish();
        self.release(links);
        Ok(Changed {
            added,
            removed: leaving.iter().map(ToString::to_string).collect(),
            kept,
            attach_ms: started.elapsed().as_secs_f64() * 1e3,
            notes: Vec::new(),
        })
    }

    /// Looks for targets that came and went.
    pub(super) fn scan(&mut self, only: Option<&[Pid]>) {
        let mut named = std::mem::take(&mut self.named);
        let look = {
            let all = named.iter().map(|(name, named)| (Arc::clone(name), named)).collect();
            let scope = only.map_or(look::Scope::Whole, look::Scope::Processes);
            if only.is_none() {
                self.containers = Containers::default();
            }
            let containers = self.config.targets.containers.then_some(&mut self.containers);
            look::look(&mut self.finder, &all, scope, containers)
        };
        let (mut came, went) = (look.fresh.len() + look.copies.len(), look.gone.len());
        let started = Instant::now();
        let whole = only.is_none();
        let gone = look.gone.clone();
        let applied = self.apply_scanned(look, &mut named, whole);
        self.named = named;
        match applied {
            Ok(groups) => {
                if whole {
                    self.told_failure.clear();
                }
                self.begin(groups);
            }
            Err(error) => {
                came = 0;
                let text = format!("{error:#}");
                // It is tried at each look.
                if self.told_failure != text {
                    tracing::error!("failed to attach to targets that came: {text}");
                    self.told_failure = text;
                }
                let placeless = |named: &&mut Named| named.attachments().next().is_none();
                for named in self.named.values_mut().filter(placeless) {
                    let why = || format!("failed to attach: {error:#}").into();
                    named.problem.get_or_insert_with(why);
                }
            }
        }
        let any = came != 0 || went != 0;
        let mut links = self.drop_attachments(gone);
        self.note_placeless();
        links.extend(self.forget_empty());
        if any {
            self.shared.metrics.attached(started.elapsed());
            tracing::info!(
                "targets changed: {came} came and {went} went; looked after in {:.0} ms",
                started.elapsed().as_secs_f64() * 1e3
            );
        }
        if any || whole {
            self.publish();
        }
        self.release(links);
    }

    fn apply_scanned(
        &mut self,
        look: Look,
        named: &mut BTreeMap<Arc<str>, Named>,
        whole: bool,
    ) -> anyhow::Result<Vec<(GroupId, Group)>> {
        if whole {
            // What was in the way is looked for anew.
            named.values_mut().for_each(|named| named.problem = None);
        }
        self.apply(look, named, 0)
    }

    /// Attaches what a look at `named` has found. The groups that are new do not count yet. If it fails,
    /// nothing has changed. Of other probes there are `staying` functions.
    fn apply(
        &mut self,
        look: Look,
        named: &mut BTreeMap<Arc<str>, Named>,
        staying: usize,
    ) -> anyhow::Result<Vec<(GroupId, Group)>> {
        self.check_limit(&look, named, staying)?;
        let Look { fresh, copies, problems, found, .. } = look;
        let mut batches: Vec<(Alike, Vec<look::Fresh>)> = Vec::new();
        let mut skipped = Vec::new();
        for fresh in fresh {
            let Some(named) = named.get(&fresh.name) else { continue };
            skipped.extend(fresh.plan.skipped.iter().map(|skipped| {
                (Arc::clone(&fresh.name), Arc::clone(&skipped.label), skipped.reason.to_string())
            }));
            if !fresh.plan.probes.is_empty() {
                let alike = Alike::of(&named.config);
                match batches.iter_mut().find(|(known, _)| *known == alike) {
                    Some((_, batch)) => batch.push(fresh),
                    None => batches.push((alike, vec![fresh])),
                }
            }
        }
        let buffer = self.config.events.buffer.max(LEAST_BUFFER_BYTES).next_power_of_two();
        let buffer = u32::try_from(buffer).unwrap_or(1 << 30).min(1 << 30);
        let mut loaded = Vec::new();
        for (alike, fresh) in batches {
            let id = GroupId(self.new_number());
            let log = &self.shared.log;
            let holders = &mut self.holders;
            let group = NewGroup::load(id, &alike, fresh, buffer, self.features, holders, log)?;
            loaded.push((id, group));
        }
        // From here on, nothing is taken back: a copy that fails is told and tried again.
        let mut groups = Vec::with_capacity(loaded.len());
        for (id, NewGroup { group, parts, refused }) in loaded {
            for refused in &refused {
                tracing::warn!("`{}` is not probed: {}", refused.label, refused.reason);
            }
            for (name, part) in parts {
                let Some(named) = named.get_mut(&name) else { continue };
                named.parts.push(part);
            }
            groups.push((id, group));
        }
        for (name, label, reason) in skipped {
            if let Some(named) = named.get_mut(&name) {
                named.skipped.insert(label, reason);
            }
        }
        self.attach_copies(copies, named);
        for (name, named) in named.iter_mut() {
            let can_be = named.parts.iter().any(|part| !part.ids.is_empty());
            if named.attachments().next().is_some() {
                named.problem = None;
            } else if let Some(problem) = problems.get(name) {
                named.problem = Some(Arc::clone(problem));
            } else if found.contains(name) {
                named.problem = Some(match can_be {
                    true => "its target was gone before it was attached".into(),
                    false => "none of its functions can be probed".into(),
                });
            } else if named.problem.is_none() {
                named.problem = Some("no process is selected".into());
            }
        }
        Ok(groups)
    }

    /// Attaches what is planned in more places: a group's at once. What fails is told, and tried
    /// again at the next look.
    fn attach_copies(&mut self, copies: Vec<look::Copy>, named: &mut BTreeMap<Arc<str>, Named>) {
        /// By name and part.
        type Places = BTreeMap<(Arc<str>, usize), Vec<At>>;
        let mut by_group: BTreeMap<GroupId, Places> = BTreeMap::new();
        for look::Copy { name, part, at } in copies {
            let Some(of) = named.get(&name).and_then(|named| named.parts.get(part)) else {
                continue;
            };
            by_group.entry(of.group).or_default().entry((name, part)).or_default().push(at);
        }
        for (id, wanted) in by_group {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            // What the budget has detached stays away here too.
            let overseer = self.overseer.as_ref();
            let is_away = |probe| overseer.is_some_and(|overseer| overseer.is_away(id, probe));
            let of_part = |(name, part): &(Arc<str>, usize)| -> Vec<ProbeId> {
                let ids = named[name].parts[*part].ids.iter().copied();
                ids.filter(|probe| !is_away(*probe) && !group.is_refused(*probe)).collect()
            };
            let ids: Vec<_> = wanted.keys().map(of_part).collect();
            let places: Vec<_> = ids
                .iter()
                .zip(wanted.values())
                .map(|(ids, at)| (ids.as_slice(), at.as_slice()))
                .collect();
            let attached = group.attach_copies(&places, &mut self.holders);
            if let Some(error) = attached.failed {
                tracing::error!("failed to attach to targets that came: {error}");
            }
            let pid_of = |traced: &Option<Traced>| Some(traced.as_ref()?.pid);
            let mut gone: HashSet<Pid> =
                places.iter().flat_map(|(_, at)| *at).filter_map(|(_, of)| pid_of(of)).collect();
            for ((name, part), attachments) in wanted.into_keys().zip(attached.attachments) {
                if let Some(named) = named.get_mut(&name) {
                    named.parts[part].attachments.extend(attachments);
                }
            }
            let parts = named.values().flat_map(|named| &named.parts);
            for attachment in parts.filter(|part| part.group == id).flat_map(|of| &of.attachments) {
                pid_of(&attachment.traced).map(|pid| gone.remove(&pid));
            }
            // A group's processes are limited, and those that come and go many.
            for pid in gone {
                if let Err(error) = group.programs.forget_process(pid) {
                    tracing::debug!("{error}");
                }
            }
        }
    }

    /// Whether there may be as many functions as there will be when what came is attached and what is
    /// gone is not.
    fn check_limit(
        &self,
        look: &Look,
        named: &BTreeMap<Arc<str>, Named>,
        staying: usize,
    ) -> anyhow::Result<()> {
        let comes: HashSet<_> = look.copies.iter().map(|copy| (&copy.name, copy.part)).collect();
        let mut gone: HashMap<_, usize> = HashMap::new();
        for (name, part, _) in &look.gone {
            *gone.entry((name, *part)).or_default() += 1;
        }
        let parts = named.iter().flat_map(|(name, named)| {
            named.parts.iter().enumerate().map(move |(index, part)| ((name, index), part))
        });
        let stay = parts.filter(|(key, part)| {
            comes.contains(key) || part.attachments.len() > gone.get(key).copied().unwrap_or(0)
        });
        let known: usize = stay.map(|(_, part)| part.ids.len()).sum();
        let fresh: usize = look.fresh.iter().map(|fresh| fresh.plan.probes.len()).sum();
        let (all, most) = (staying + known + fresh, self.config.limits.max_functions);
        if all > most {
            bail!("{all} functions would be probed; at most {most} may be (limits.max_functions)");
        }
        Ok(())
    }
}

/// Fails if one of the probes leads to nothing, and says why.
fn refuse_waiting(names: &[Arc<str>], look: &Look) -> anyhow::Result<()> {
    let found: HashSet<_> = look
        .fresh
        .iter()
        .filter(|fresh| !fresh.plan.probes.is_empty())
        .map(|fresh| &fresh.name)
        .collect();
    // Those with a problem first: for their sake the others were not looked for.
    let missing = |name: &&Arc<str>| !found.contains(name);
    let first = names.iter().filter(missing).max_by_key(|name| look.problems.contains_key(*name));
    let Some(name) = first else { return Ok(()) };
    let skipped = look.fresh.iter().find(|fresh| fresh.name == *name).and_then(|fresh| {
        let skipped = fresh.plan.skipped.first()?;
        Some(format!("cannot probe `{}`: {}", skipped.label, skipped.reason))
    });
    let problem = || look.problems.get(name).map(ToString::to_string);
    let why = skipped.or_else(problem).unwrap_or_else(|| "no process is selected".to_owned());
    bail!("`{name}`: {why} (with `wait`, it is attached when it can be)")
}
