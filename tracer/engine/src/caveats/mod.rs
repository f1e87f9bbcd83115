//! Why probes see fewer calls than their user expects.
//!
//! Takes a plan, the probes without hits, and what was [seen](Sightings) of the traced processes; gives
//! [`Remark`]s. It reads files and `/proc` within bounded time, after the probes are gone, and changes
//! nothing.

mod memory;
mod program;
mod sightings;

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use faultline_plan::{AttachPlan, PlannedFunction, ProbeId};
use faultline_resolve::{
    self as resolve, Caveat, FunctionName, ObjectFile, Pid, inlined,
    process::{self, Mapping, MappingSource},
};

use self::program::Program;
pub use self::sightings::Sightings;
use crate::discovery::all_processes;

/// How long to search the debug information of one file.
const DEBUG_TIME: Duration = Duration::from_secs(2);
/// How long to look at the mappings of every process.
const SCAN_TIME: Duration = Duration::from_millis(500);

/// Something to know about some probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What.
    pub caveat: Caveat,
    /// The probes that it is about.
    pub probes: Vec<ProbeId>,
}

/// Remarks, the same about several probes only once.
#[derive(Debug, Default)]
struct Remarks {
    all: Vec<Remark>,
    places: HashMap<Caveat, usize>,
}

impl Remarks {
    fn add(&mut self, caveat: Caveat, probe: ProbeId) {
        let place = *self.places.entry(caveat).or_insert_with_key(|caveat| {
            self.all.push(Remark { caveat: caveat.clone(), probes: Vec::new() });
            self.all.len() - 1
        });
        self.all[place].probes.push(probe);
    }
}

/// A probe on a function that the user named, or that a pattern selected among few.
type OfFunction<'p> = (ProbeId, &'p PlannedFunction);

/// What the symbols of the plan's files say about functions that were named.
#[must_use]
pub fn from_symbols(plan: &AttachPlan) -> Vec<Remark> {
    let mut remarks = Remarks::default();
    for file in &plan.files {
        let named: Vec<_> =
            of_functions(plan, &file.probes).filter(|(_, function)| function.is_named).collect();
        for (id, function) in &named {
            let names = resolve::other_functions(&function.symbol, &function.aliases);
            if !names.is_empty() {
                remarks.add(Caveat::SameCode { names }, *id);
            }
        }
        let symbols: Vec<_> = named.iter().map(|(_, function)| &*function.symbol).collect();
        if symbols.is_empty() {
            continue;
        }
        let probed: Vec<&str> = of_functions(plan, &file.probes)
            .flat_map(|(_, function)| [&*function.symbol, &*function.shown])
            .collect();
        for ((id, _), mut names) in named.iter().zip(resolve::copies(&file.file, &symbols)) {
            names.retain(|name| !probed.contains(&&**name));
            if !names.is_empty() {
                remarks.add(Caveat::Copies { names }, *id);
            }
        }
    }
    remarks.all
}

fn of_functions<'p>(
    plan: &'p AttachPlan,
    ids: &'p [ProbeId],
) -> impl Iterator<Item = OfFunction<'p>> {
    ids.iter().filter_map(|id| {
        let function = plan.probes.get(id.0 as usize)?.function.as_deref()?;
        Some((*id, function))
    })
}

/// Why these probes had no hits, as far as can be told. `is_alone` says of each whether all probes of its
/// request had none.
///
/// It may take some seconds.
#[must_use]
pub fn explain(
    plan: &AttachPlan,
    silent: &[ProbeId],
    is_alone: &dyn Fn(ProbeId) -> bool,
    sightings: &Sightings,
) -> Vec<Remark> {
    let mut remarks = Remarks::default();
    let everyone = Everyone::default();
    let silent: HashSet<_> = silent.iter().copied().collect();
    for file in &plan.files {
        let probes: Vec<_> = file.probes.iter().copied().filter(|id| silent.contains(id)).collect();
        if probes.is_empty() {
            continue;
        }
        let mut absence = absence(&file.file, sightings, &everyone);
        let is_used = absence.is_empty();
        let parents = sightings.parents();
        if !is_used && !parents.is_empty() {
            // A shell has no need of what its commands use.
            absence.retain(|caveat| {
                matches!(caveat, Caveat::Replaced { .. } | Caveat::OtherFile { .. })
            });
            absence.extend(parents.iter().map(|pid| Caveat::Children { pid: *pid }));
        }
        // Many functions of a pattern are never called. That is worth a word only if none of them was.
        let told = |id: &ProbeId| {
            let function = plan.probes.get(id.0 as usize).and_then(|of| of.function.as_ref());
            is_alone(*id) || function.is_some_and(|function| function.is_named)
        };
        for caveat in absence {
            probes.iter().filter(|id| told(id)).for_each(|id| remarks.add(caveat.clone(), *id));
        }
        if !is_used {
            continue;
        }
        let places = inlined_places(plan, &file.file, &probes);
        for id in &probes {
            if let Some(places) = places.get(id) {
                remarks.add(Caveat::Inlined { places: *places }, *id);
            } else if let Some(pid) = sightings.without_code(&file.file, plan, *id) {
                remarks.add(Caveat::Moved { pid }, *id);
            } else if told(id) {
                for pid in &parents {
                    remarks.add(Caveat::Children { pid: *pid }, *id);
                }
                if parents.is_empty() {
                    let ran_before = sightings.ran_before();
                    remarks.add(Caveat::NotCalled { ran_before }, *id);
                }
            }
        }
    }
    remarks.all
}

/// In how many places the functions of these probes are inlined; only those that are anywhere.
fn inlined_places(plan: &AttachPlan, file: &ObjectFile, ids: &[ProbeId]) -> HashMap<ProbeId, u64> {
    let functions: Vec<_> = of_functions(plan, ids).collect();
    if functions.is_empty() {
        return HashMap::new();
    }
    let named: Vec<_> = functions
        .iter()
        .map(|(_, function)| FunctionName { symbol: &function.symbol, shown: &function.shown })
        .collect();
    let places = inlined(file, &named, DEBUG_TIME).unwrap_or_default();
    let places = functions.iter().map(|(id, _)| *id).zip(places);
    places.filter(|(_, places)| *places != 0).collect()
}

/// Why no traced process uses the file; nothing if one does, or if that is not known.
fn absence(file: &ObjectFile, sightings: &Sightings, everyone: &Everyone) -> Vec<Caveat> {
    if sightings.of_everyone() {
        return match everyone.mapping(file) {
            None | Some(Use::Mapped) => Vec::new(),
            Some(Use::Instead(caveat)) => vec![caveat],
            Some(Use::Absent) => vec![Caveat::NotMapped { pid: None }],
        };
    }
    let mut found = Vec::new();
    for seen in sightings.processes() {
        let of_maps = seen.maps().map(|maps| in_maps(file, seen.pid(), maps));
        let caveat = match of_maps {
            Some(Use::Mapped) => return Vec::new(),
            Some(Use::Instead(caveat)) => caveat,
            Some(Use::Absent) | None if sightings.follows() => return Vec::new(),
            // It may map the file later, and its program says why it has not.
            Some(Use::Absent) => Program::of(seen)
                .and_then(|program| program.why_without(file))
                .unwrap_or(Caveat::NotMapped { pid: Some(seen.pid()) }),
            // It ended before it could be looked at.
            None => match Program::of(seen).and_then(|program| program.why_without(file)) {
                Some(caveat) => caveat,
                None => return Vec::new(),
            },
        };
        if !found.contains(&caveat) {
            found.push(caveat);
        }
    }
    found
}

/// How a process uses a file.
enum Use {
    Mapped,
    /// It uses something else.
    Instead(Caveat),
    Absent,
}

fn in_maps(file: &ObjectFile, pid: Pid, maps: &[Mapping]) -> Use {
    let mut instead = None;
    for mapping in maps {
        if is_of(file, mapping) {
            return Use::Mapped;
        }
        let MappingSource::File { path, .. } = &mapping.source else { continue };
        if instead.is_none() {
            if path == file.shown_path() {
                instead = Some(Caveat::Replaced { pid });
            } else if is_namesake(file, path) {
                instead = Some(Caveat::OtherFile { pid, path: path.clone() });
            }
        }
    }
    instead.map_or(Use::Absent, Use::Instead)
}

/// Whether a mapping is one of the file.
fn is_of(file: &ObjectFile, mapping: &Mapping) -> bool {
    // An overlay filesystem shows different inode numbers there.
    let has_path = |path: &PathBuf, deleted: bool| path == file.shown_path() && !deleted;
    mapping.inode == file.id().inode()
        || matches!(&mapping.source, MappingSource::File { path, deleted } if has_path(path, *deleted))
}

/// Whether a path is that of another version of a library: `libz.so.1.3` is one of `libz.so.1`.
fn is_namesake(file: &ObjectFile, path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let own = file.shown_path().file_name().and_then(|name| name.to_str());
    let stem = |name: &str| name.split_once(".so").map(|(stem, _)| stem.to_owned());
    own == Some(name)
        || file.soname().is_some_and(|soname| stem(soname).is_some() && stem(soname) == stem(name))
}

/// The mappings of every process, read when they are first needed.
#[derive(Debug, Default)]
struct Everyone(OnceCell<Option<Vec<OfProcess>>>);

type OfProcess = (Pid, Vec<Mapping>);

impl Everyone {
    /// How any process uses a file; `None` if there was no time to look at all.
    fn mapping(&self, file: &ObjectFile) -> Option<Use> {
        let all = self.0.get_or_init(Self::read).as_ref()?;
        let mut best = Use::Absent;
        for (pid, maps) in all {
            match in_maps(file, *pid, maps) {
                Use::Mapped => return Some(Use::Mapped),
                Use::Instead(caveat) if matches!(best, Use::Absent) => best = Use::Instead(caveat),
                Use::Instead(_) | Use::Absent => {}
            }
        }
        Some(best)
    }

    fn read() -> Option<Vec<OfProcess>> {
        let deadline = Instant::now() + SCAN_TIME;
        let mut all = Vec::new();
        for pid in all_processes() {
            if Instant::now() > deadline {
                return None;
            }
            if let Ok(maps) = process::maps(pid) {
                all.push((pid, code_of_files(maps)));
            }
        }
        Some(all)
    }
}

/// Mappings of files that hold code.
fn code_of_files(mut maps: Vec<Mapping>) -> Vec<Mapping> {
    maps.retain(|mapping| mapping.permissions.execute && mapping.inode != 0);
    maps
}

/// The path behind a link in `/proc`, without the mark of a deleted file.
fn linked(pid: Pid, link: &str) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/{link}")).ok()?;
    Some(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => path,
    })
}
