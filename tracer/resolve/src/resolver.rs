//! The stage's entrance: holds what was read, so that nothing is read twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{Hint, ResolveError, TargetKind};
use super::inlined::{FunctionName, inlined};
use super::object_file::{FileId, ObjectFile, SymbolSource};
use super::pattern::{Pattern, TooComplex, described};
use super::select::{self, ListedFunction, Resolution};
use super::skip::SkipReason;
use super::suggest;
use super::symbols::{SymbolId, SymbolKind};
use super::target::{Located, Targets, all_that_work};
use super::view::{Root, View};
use faultline_spec::{FunctionPattern, ProbeSpec};

/// Resolves specs in one view.
///
/// Each target is looked up once, so that ten thousand probes cost one look-up: a long-running program
/// calls [`refresh`](Self::refresh) before it resolves again. Files
/// are kept by device, inode, size and time of change: one that did not change is never parsed
/// twice, whatever its names.
#[derive(Debug)]
pub struct Resolver {
    view: View,
    root: Option<Root>,
    targets: Targets,
    files: HashMap<FileId, Arc<ObjectFile>>,
    named: HashMap<String, Vec<Named>>,
}

/// What a target's name led to.
#[derive(Debug, Clone)]
struct Named {
    file: Arc<ObjectFile>,
    /// The base name in labels.
    base: String,
}

/// The functions of a file, for `faultline list`.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The file.
    pub file: Arc<ObjectFile>,
    /// Its base name in labels.
    pub base: String,
    /// By rising address.
    pub functions: Vec<ListedFunction>,
}

impl Resolver {
    /// Reads nothing yet: a problem with a process shows at first use.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self {
            view,
            root: None,
            targets: Targets::default(),
            files: HashMap::new(),
            named: HashMap::new(),
        }
    }

    /// The functions that a spec names, in each of the [files](Self::targets) that its target names.
    ///
    /// A name that leads only to what cannot be probed gives no probes and the reasons.
    ///
    /// # Errors
    ///
    /// [`ResolveError::NoSuchFunction`] if none of the files has it, [`ResolveError::BadPattern`] and
    /// [`ResolveError::TooComplex`]; and what [`targets`](Self::targets) gives.
    pub fn resolve(&mut self, spec: &ProbeSpec) -> Result<Resolution, ResolveError> {
        let mut all = Resolution::default();
        let mut absent = None;
        for named in self.named(&spec.target)? {
            match self.resolve_named(spec, &named) {
                Ok(resolution) => {
                    all.probes.extend(resolution.probes);
                    all.skipped.extend(resolution.skipped);
                }
                Err(error @ ResolveError::NoSuchFunction { .. }) => {
                    absent.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match absent {
            Some(error) if all.probes.is_empty() && all.skipped.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    /// The functions that a spec names in one of the [files](Self::targets) that its target names.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve).
    pub fn resolve_in(
        &mut self,
        spec: &ProbeSpec,
        file: &ObjectFile,
    ) -> Result<Resolution, ResolveError> {
        let all = self.named(&spec.target)?;
        match all.iter().find(|named| named.file.id() == file.id()) {
            Some(named) => self.resolve_named(spec, named),
            None => Ok(Resolution::default()),
        }
    }

    fn resolve_named(
        &mut self,
        spec: &ProbeSpec,
        Named { file, base }: &Named,
    ) -> Result<Resolution, ResolveError> {
        let pattern = Pattern::new(&spec.function)?;
        let matches = matching(file, &pattern, &spec.function)?;
        let spec = Arc::new(spec.clone());
        let mut resolution = select::resolve(file, base, &spec, &pattern, &matches);
        if resolution.probes.is_empty() && resolution.skipped.is_empty() {
            return Err(no_such_function(file, base, &spec.function));
        }
        for skipped in &mut resolution.skipped {
            if let (SkipReason::Imported { library }, FunctionPattern::Name(name)) =
                (&mut skipped.reason, &spec.function)
            {
                *library = self.defining_library(file, name);
            }
        }
        Ok(resolution)
    }

    /// The file that a target names; the newest, if there are several.
    ///
    /// # Errors
    ///
    /// As [`targets`](Self::targets).
    pub fn target(&mut self, target: &str) -> Result<Arc<ObjectFile>, ResolveError> {
        self.first_named(target).map(|named| named.file)
    }

    /// The files that a target names: one, but where a process maps several of one name. Then the
    /// newest comes first, and the labels of their functions tell them apart.
    ///
    /// # Errors
    ///
    /// Every variant but those of functions and patterns.
    pub fn targets(&mut self, target: &str) -> Result<Vec<Arc<ObjectFile>>, ResolveError> {
        Ok(self.named(target)?.into_iter().map(|named| named.file).collect())
    }

    /// The functions of a target, all of them or those that a pattern selects. Of several files of one
    /// name it is the first.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn list(
        &mut self,
        target: &str,
        pattern: Option<&FunctionPattern>,
    ) -> Result<Listing, ResolveError> {
        let everything = FunctionPattern::Glob("*".to_owned());
        let function = pattern.unwrap_or(&everything);
        let pattern = Pattern::new(function)?;
        let Named { file, base } = self.first_named(target)?;
        let functions = select::list(&file, &matching(&file, &pattern, function)?);
        if functions.is_empty() {
            return Err(no_such_function(&file, &base, function));
        }
        Ok(Listing { file, base, functions })
    }

    /// Resolves in another view from now on. Parsed files are kept: containers share many.
    pub fn look_from(&mut self, view: View) {
        if view != self.view {
            self.view = view;
            self.root = None;
            self.named.clear();
            self.targets = Targets::default();
        }
    }

    /// Forgets what names mean, so that replaced files and new mappings are seen. Parsed files are
    /// kept as long as someone holds them.
    pub fn refresh(&mut self) {
        self.named.clear();
        self.targets = Targets::default();
        self.files.retain(|_, file| Arc::strong_count(file) > 1);
    }

    fn named(&mut self, target: &str) -> Result<Vec<Named>, ResolveError> {
        if let Some(named) = self.named.get(target) {
            return Ok(named.clone());
        }
        let root = match self.root.take() {
            Some(root) => root,
            None => Root::open_view(self.view)?,
        };
        let root = self.root.insert(root);
        let pid = match root {
            Root::Host => None,
            Root::Process(process) => Some(process.pid),
        };
        let located = self.targets.locate(root, target)?.into_iter();
        let loaded = located.map(|located| load(&mut self.files, root, located)).collect();
        let mut named = all_that_work(loaded, pid)?;
        tell_apart(&mut named);
        let named: Vec<_> = named.into_iter().map(|(named, _)| named).collect();
        self.named.insert(target.to_owned(), named.clone());
        Ok(named)
    }

    fn first_named(&mut self, target: &str) -> Result<Named, ResolveError> {
        // There is at least one, or an error.
        self.named(target)?.into_iter().next().ok_or_else(|| ResolveError::NoSuchTarget {
            target: target.to_owned(),
            kind: TargetKind::File,
            hint: Hint::default(),
        })
    }

    /// The library among those the file asks for that has the function.
    fn defining_library(&mut self, file: &ObjectFile, name: &str) -> Option<String> {
        let Ok(Pattern::Name { name, .. }) = Pattern::new(&FunctionPattern::Name(name.to_owned()))
        else {
            return None;
        };
        file.needed().iter().find_map(|library| {
            let named = self.first_named(library).ok()?;
            let symbols = &named.file.symbols;
            let raw_name =
                select::matching(file, &Pattern::Name { name: name.clone(), version: None })
                    .ok()?
                    .first()
                    .map(|&id| file.symbols.name(id).to_vec())?;
            let is_defined =
                |id| matches!(symbols.get(id).kind, SymbolKind::Function | SymbolKind::Ifunc);
            symbols.named(&raw_name).any(is_defined).then(|| library.clone())
        })
    }
}

fn load(
    files: &mut HashMap<FileId, Arc<ObjectFile>>,
    root: &Root,
    located: Located,
) -> Result<(Named, IsDeleted), ResolveError> {
    let Located { opened, id, base, is_deleted } = located;
    let file = match files.entry(id) {
        Entry::Occupied(entry) => Arc::clone(entry.get()),
        Entry::Vacant(entry) => {
            Arc::clone(entry.insert(Arc::new(ObjectFile::load(root, opened, id)?)))
        }
    };
    // A process maps `libz.so.1.3`; what people know, and the host's view shows, is `libz.so.1`.
    let base = base.or_else(|| file.soname().map(str::to_owned)).unwrap_or_else(|| {
        let name = file.shown_path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    Ok((Named { file, base }, is_deleted))
}

type IsDeleted = bool;

/// Adds enough of the path to base names that are not unique: `a/libx.so` and `b/libx.so`. A replaced
/// file and its successor have the same path, so the old one is marked.
fn tell_apart(all: &mut [(Named, IsDeleted)]) {
    let paths: Vec<PathBuf> =
        all.iter().map(|(named, _)| named.file.shown_path().to_owned()).collect();
    let bases: Vec<String> = all.iter().map(|(named, _)| named.base.clone()).collect();
    for (index, (named, is_deleted)) in all.iter_mut().enumerate() {
        let rivals =
            || (0..bases.len()).filter(|&other| other != index && bases[other] == bases[index]);
        if rivals().any(|other| paths[other] == paths[index]) {
            // As the kernel marks it in `/proc/PID/maps`.
            named.base.push_str(if *is_deleted { " (deleted)" } else { "" });
            continue;
        }
        let own = folders(&paths[index]);
        let shared = |other: usize| {
            let others = folders(&paths[other]);
            own.iter().zip(&others).take_while(|(one, other)| one == other).count()
        };
        if let Some(most_shared) = rivals().map(shared).max() {
            let shown: Vec<_> =
                own.iter().take(most_shared + 1).rev().map(String::as_str).collect();
            named.base = format!("{}/{}", shown.join("/"), bases[index]);
        }
    }
}

/// The folders that a file is in, from the inside out.
fn folders(path: &Path) -> Vec<String> {
    let above = path.parent().into_iter().flat_map(Path::components).rev();
    above.map(|folder| folder.as_os_str().to_string_lossy().into_owned()).collect()
}

fn matching(
    file: &ObjectFile,
    pattern: &Pattern,
    function: &FunctionPattern,
) -> Result<Vec<SymbolId>, ResolveError> {
    select::matching(file, pattern)
        .map_err(|TooComplex| ResolveError::TooComplex { what: described(function) })
}

fn no_such_function(file: &ObjectFile, base: &str, function: &FunctionPattern) -> ResolveError {
    let hint = match function {
        FunctionPattern::Name(name) => match inlined_everywhere(file, name) {
            Some(note) => Hint::note(note),
            None => Hint { near: near_function(file, name), note: stripped(file) },
        },
        FunctionPattern::Glob(_) | FunctionPattern::Regex(_) => {
            Hint { near: None, note: stripped(file) }
        }
    };
    ResolveError::NoSuchFunction { what: described(function), file: base.to_owned(), hint }
}

/// A function without a symbol may be one that was only ever inlined.
fn inlined_everywhere(file: &ObjectFile, name: &str) -> Option<String> {
    const TIME: Duration = Duration::from_secs(1);
    let places = inlined(file, &[FunctionName { symbol: name, shown: name }], TIME)?;
    let places = places.into_iter().find(|&places| places != 0)?;
    let places = match places {
        1 => "its only call".to_owned(),
        places => format!("all its {places} calls"),
    };
    Some(format!("the compiler inlined {places}: probe what calls it"))
}

fn near_function(file: &ObjectFile, wanted: &str) -> Option<String> {
    let symbols = &file.symbols;
    let functions = || symbols.ids().filter(|&id| symbols.get(id).kind == SymbolKind::Function);
    // The compiler's copy is all that is left of some functions.
    let copy_of = |name: &&str| name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
    let raw = || functions().filter_map(|id| str::from_utf8(symbols.name(id)).ok());
    let demangled = || file.demangled().names().map(|(_, name)| name);
    let copy = raw().chain(demangled()).find(copy_of);
    copy.or_else(|| suggest::nearest(wanted, raw().chain(demangled()))).map(str::to_owned)
}

/// What is missing from a stripped file, and where its symbols were searched for.
fn stripped(file: &ObjectFile) -> Option<String> {
    match file.symbol_sources() {
        [] | [SymbolSource::Dynsym] => {}
        _ => return None,
    }
    let mut text = match file.symbol_sources() {
        [] => "the file is stripped: it has no symbols".to_owned(),
        _ => "the file is stripped: only what it exports or imports has a name".to_owned(),
    };
    let named = |paths: &[PathBuf]| {
        let paths: Vec<_> = paths.iter().map(|path| format!("`{}`", path.display())).collect();
        paths.join(" or ")
    };
    match (file.debug_files_of_other_builds(), file.debug_files_looked_for()) {
        ([], []) => text.push_str(", and it has no build-id to find debug symbols by"),
        ([], looked_for) => text.push_str(&format!(
            "; its debug symbols would be at {}: install its debug package",
            named(looked_for)
        )),
        // The same file may be found under two names of its directory.
        ([foreign, ..], _) => text.push_str(&format!(
            "; the debug symbols at `{}` belong to another build of it",
            foreign.display()
        )),
    }
    Some(text)
}

#[cfg(test)]
mod tests;
