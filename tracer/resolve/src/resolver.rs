//! The stage's entrance: holds what was read, so that nothing is read twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::error::{Hint, ResolveError};
use super::object_file::{FileId, ObjectFile, SymbolSource};
use super::pattern::{Pattern, TooComplex, described};
use super::select::{self, ListedFunction, Resolution};
use super::skip::SkipReason;
use super::suggest;
use super::symbols::{SymbolId, SymbolKind};
use super::target::{Located, Targets};
use super::view::{Root, View};
use faultline_spec::{FunctionPattern, ProbeSpec};

/// Resolves specs in one view.
///
/// What a target's name means is looked up once and kept, so that ten thousand probes cost one
/// look: a long-running program calls [`refresh`](Self::refresh) before it resolves again. Files
/// are kept by device, inode, size and time of change: one that did not change is never parsed
/// twice, whatever its names.
#[derive(Debug)]
pub struct Resolver {
    view: View,
    root: Option<Root>,
    targets: Targets,
    files: HashMap<FileId, Arc<ObjectFile>>,
    named: HashMap<String, Named>,
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
    /// Reads nothing yet: what is wrong with a process shows at the first use.
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

    /// The functions that a spec names.
    ///
    /// A name that leads only to what cannot be probed gives no probes and the reasons.
    ///
    /// # Errors
    /// [`ResolveError::NoSuchFunction`], [`ResolveError::BadPattern`] and
    /// [`ResolveError::TooComplex`]; and what
    /// [`target`](Self::target) gives.
    pub fn resolve(&mut self, spec: &ProbeSpec) -> Result<Resolution, ResolveError> {
        let pattern = Pattern::new(&spec.function)?;
        let Named { file, base } = self.named(&spec.target)?;
        let matches = matching(&file, &pattern, &spec.function)?;
        let spec = Arc::new(spec.clone());
        let mut resolution = select::resolve(&file, &base, &spec, &pattern, &matches);
        if resolution.probes.is_empty() && resolution.skipped.is_empty() {
            return Err(no_such_function(&file, &base, &spec.function));
        }
        for skipped in &mut resolution.skipped {
            if let (SkipReason::Imported { library }, FunctionPattern::Name(name)) =
                (&mut skipped.reason, &spec.function)
            {
                *library = self.defining_library(&file, name);
            }
        }
        Ok(resolution)
    }

    /// The file that a target names.
    ///
    /// # Errors
    /// Every variant but those of functions and patterns.
    pub fn target(&mut self, target: &str) -> Result<Arc<ObjectFile>, ResolveError> {
        self.named(target).map(|named| named.file)
    }

    /// The functions of a target, all of them or those that a pattern selects.
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
        let Named { file, base } = self.named(target)?;
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

    fn named(&mut self, target: &str) -> Result<Named, ResolveError> {
        if let Some(named) = self.named.get(target) {
            return Ok(named.clone());
        }
        let root = match self.root.take() {
            Some(root) => root,
            None => Root::open_view(self.view)?,
        };
        let root = self.root.insert(root);
        let located = self.targets.locate(root, target)?;
        let named = load(&mut self.files, root, located)?;
        self.named.insert(target.to_owned(), named.clone());
        Ok(named)
    }

    /// The library among those the file asks for that has the function.
    fn defining_library(&mut self, file: &ObjectFile, name: &str) -> Option<String> {
        let Ok(Pattern::Name { name, .. }) = Pattern::new(&FunctionPattern::Name(name.to_owned()))
        else {
            return None;
        };
        file.needed().iter().find_map(|library| {
            let named = self.named(library).ok()?;
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
) -> Result<Named, ResolveError> {
    let Located { opened, id, base } = located;
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
    Ok(Named { file, base })
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
    let near = match function {
        FunctionPattern::Name(name) => near_function(file, name),
        FunctionPattern::Glob(_) | FunctionPattern::Regex(_) => None,
    };
    let hint = Hint { near, note: stripped(file) };
    ResolveError::NoSuchFunction { what: described(function), file: base.to_owned(), hint }
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

/// What a file without its symbols lacks, and where they were looked for.
fn stripped(file: &ObjectFile) -> Option<String> {
    match file.symbol_sources() {
        [] | [SymbolSource::Dynsym] => {}
        _ => return None,
    }
    let mut text = match file.symbol_sources() {
        [] => "the file is stripped: it has no symbols".to_owned(),
        _ => "the file is stripped: only what it exports or imports has a name".to_owned(),
    };
    match file.debug_files_looked_for() {
        [] => text.push_str(", and it has no build-id to find debug symbols by"),
        looked_for => {
            let paths: Vec<_> =
                looked_for.iter().map(|path| format!("`{}`", path.display())).collect();
            text.push_str(&format!(
                "; its debug symbols would be at {}: install its debug package",
                paths.join(" or ")
            ));
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests;
