//! One look at the machine: where the probes are to be attached and are not yet, and where they are
//! attached and have nothing to do any more.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::named::Named;
use crate::daemon::{
    config::Selection,
    find::{Finder, has_same_content, is_same_file},
    processes::{self, Containers},
};
use faultline_plan::AttachPlan;
use faultline_resolve::{
    ObjectFile, Pid, View,
    process::{self, StartTime},
};

/// A process, for good: its number may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::daemon) struct Traced {
    pub(super) pid: Pid,
    pub(super) started: StartTime,
}

/// A place for a probe: its file, and the process if it is not for all.
pub(super) type At = (Arc<ObjectFile>, Option<Traced>);

/// Functions that are not planned yet.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) name: Arc<str>,
    pub(super) plan: AttachPlan,
    /// Of one content.
    pub(super) places: Vec<At>,
}

/// Functions that are planned, in one more place.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) name: Arc<str>,
    pub(super) part: usize,
    pub(super) at: At,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) fresh: Vec<Fresh>,
    pub(super) copies: Vec<Copy>,
    /// Name, part and attachment.
    pub(super) gone: Vec<(Arc<str>, usize, usize)>,
    /// Why probes are not attached, of those that were looked at.
    pub(super) problems: HashMap<Arc<str>, Arc<str>>,
    /// Probes that were found somewhere.
    pub(super) found: HashSet<Arc<str>>,
    /// Times that a file had none of a probe's functions.
    without_function: usize,
}

/// Saying why there is no such function is dear, and thousands may be wrong alike. Some may be: a
/// function that one container's file lacks is in another's.
const ENOUGH_WITHOUT: usize = 32;

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// Everything.
    Whole,
    /// Everything, for those who want all or nothing: some functions that are not there end it.
    WholeOrNothing,
    /// Only these processes: they have just begun.
    Processes(&'a [Pid]),
}

/// Looks for probes. `containers` is `None` where they are not of interest.
pub(super) fn look(
    finder: &mut Finder,
    probes: &BTreeMap<Arc<str>, &Named>,
    scope: Scope<'_>,
    containers: Option<&mut Containers>,
) -> Look {
    let mut look = Look::default();
    let mut seen = HashSet::new();
    finder.refresh();
    sightings(finder, probes, scope, containers, |finder, named, view, traced| {
        let name = &named.config.name;
        if matches!(scope, Scope::WholeOrNothing) && look.without_function >= ENOUGH_WITHOUT {
            return;
        }
        let file = match finder.file(&named.config, view) {
            Ok(file) => file,
            Err(problem) => {
                look.problems.entry(Arc::clone(name)).or_insert(problem);
                return;
            }
        };
        look.found.insert(Arc::clone(name));
        if let Some(place) = attached_at(named, &file, traced) {
            seen.insert((Arc::clone(name), place));
        } else {
            look.add(finder, named, view, (file, traced));
        }
    });
    if matches!(scope, Scope::Whole) {
        look.gone = gone(probes, &seen);
    }
    look
}

/// Calls `see` for each place where a probe may be.
fn sightings(
    finder: &mut Finder,
    probes: &BTreeMap<Arc<str>, &Named>,
    scope: Scope<'_>,
    mut containers: Option<&mut Containers>,
    mut see: impl FnMut(&mut Finder, &Named, View, Option<Traced>),
) {
    let mut by_selection: HashMap<&Selection, Vec<&Named>> = HashMap::new();
    for named in probes.values() {
        by_selection.entry(&named.config.selection).or_default().push(named);
    }
    let for_all = by_selection.remove(&Selection::All).unwrap_or_default();
    let mut pids = match scope {
        Scope::Processes(pids) => pids.to_vec(),
        Scope::Whole | Scope::WholeOrNothing => {
            for named in &for_all {
                see(finder, named, View::Host, None);
            }
            if by_selection.is_empty() && (for_all.is_empty() || containers.is_none()) {
                return;
            }
            processes::all()
        }
    };
    // Numbers are given anew: the oldest process comes first, so that what it shares is found there.
    pids.sort_unstable();
    for pid in pids {
        for (selection, named) in &by_selection {
            if !processes::is_selected(pid, selection) {
                continue;
            }
            let Ok(started) = process::start_time(pid) else { continue };
            if process::has_ended(pid, started) {
                continue;
            }
            for named in named {
                see(finder, named, View::Process(pid), Some(Traced { pid, started }));
            }
        }
        if !for_all.is_empty()
            && let Some(containers) = &mut containers
            && containers.is_new(pid)
        {
            for named in &for_all {
                see(finder, named, View::Process(pid), None);
            }
        }
    }
}

/// Where it is attached already.
fn attached_at(named: &Named, file: &ObjectFile, traced: Option<Traced>) -> Option<(usize, usize)> {
    named.parts.iter().enumerate().find_map(|(part, of)| {
        let here = |place: &super::named::Attachment| {
            place.traced == traced && is_same_file(&place.file, file)
        };
        of.attachments.iter().position(here).map(|place| (part, place))
    })
}

impl Look {
    fn add(&mut self, finder: &mut Finder, named: &Named, view: View, at: At) {
        let name = &named.config.name;
        if let Some(part) = named.parts.iter().position(|part| has_same_content(&part.file, &at.0))
        {
            let here = |copy: &Copy| {
                copy.name == *name && copy.at.1 == at.1 && is_same_file(&copy.at.0, &at.0)
            };
            if !self.copies.iter().any(here) {
                self.copies.push(Copy { name: Arc::clone(name), part, at });
            }
            return;
        }
        let alike = self.fresh.iter_mut().rev().find(|fresh| {
            fresh.name == *name
                && fresh.places.first().is_some_and(|(file, _)| has_same_content(file, &at.0))
        });
        if let Some(fresh) = alike {
            let here = |(file, traced): &At| *traced == at.1 && is_same_file(file, &at.0);
            if !fresh.places.iter().any(here) {
                fresh.places.push(at);
            }
            return;
        }
        match finder.plan(&named.config, view) {
            Ok(plan) => {
                let name = Arc::clone(name);
                self.fresh.push(Fresh { name, plan, places: vec![at] });
            }
            Err(problem) => {
                self.without_function += 1;
                // More to the point than that there is no such file elsewhere.
                self.problems.insert(Arc::clone(name), problem.into());
            }
        }
    }
}

/// What is attached and was not seen: the process has ended, or the file is not there any more and
/// no process runs it.
fn gone(
    probes: &BTreeMap<Arc<str>, &Named>,
    seen: &HashSet<(Arc<str>, (usize, usize))>,
) -> Vec<(Arc<str>, usize, usize)> {
    let mut mapped = None;
    let mut gone = Vec::new();
    for (name, named) in probes {
        for (part, of) in named.parts.iter().enumerate() {
            for (place, attachment) in of.attachments.iter().enumerate() {
                if seen.contains(&(Arc::clone(name), (part, place))) {
                    continue;
                }
                let is_gone = match attachment.traced {
                    Some(Traced { pid, started }) => {
                        process::has_ended(pid, started)
                            || !processes::is_selected(pid, &named.config.selection)
                    }
                    None => !mapped
                        .get_or_insert_with(processes::mapped_inodes)
                        .contains(&attachment.file.id().inode()),
                };
                if is_gone {
                    gone.push((Arc::clone(name), part, place));
                }
            }
        }
    }
    gone
}
