//! From a file's symbols to probes, or to reasons why there are none.
//!
//! Takes one file and one spec; gives a [`Resolution`]. Several names at one address are one
//! probe; one name at several addresses is several.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::address::{ElfAddr, FileOffset};
use super::demangle::{self, Demangled};
use super::ifunc;
use super::object_file::ObjectFile;
use super::pattern::{Matcher, Pattern, TooComplex, Version};
use super::skip::{SkipReason, Skipped};
use super::symbols::{SymbolId, SymbolKind, Symbols};
use faultline_spec::ProbeSpec;

/// What one spec names.
#[derive(Debug, Clone, Default)]
pub struct Resolution {
    /// What can be probed, by rising address.
    pub probes: Vec<ResolvedProbe>,
    /// What matched but cannot be probed.
    pub skipped: Vec<Skipped>,
}

/// One place that a spec names.
#[derive(Debug, Clone)]
pub struct ResolvedProbe {
    /// The file to probe: the same value for every probe of one file, by whatever name.
    pub file: Arc<ObjectFile>,
    /// The function's raw name, without its version.
    pub symbol: Arc<str>,
    /// Its version, `GLIBC_2.14`.
    pub version: Option<Arc<str>>,
    /// Its full demangled name; the raw one if that is not mangled.
    pub display_name: Arc<str>,
    /// What reports call the probe: `libc.so.6:open`, `app:ns::f+0x4`.
    pub label: String,
    /// The address of the probed instruction: the function's, plus the spec's offset.
    pub address: ElfAddr,
    /// The same place in the file.
    pub offset: FileOffset,
    /// The function's size; `None` if its symbol does not say.
    pub size_bytes: Option<u64>,
    /// Other raw names of the same function.
    pub aliases: Vec<Arc<str>>,
    /// The label that the instruction follows, if only the label's name says that there is code: its
    /// symbol has no type. It may as well be a table.
    pub label_at: Option<FileOffset>,
    /// The spec that named it.
    pub spec: Arc<ProbeSpec>,
}

/// One line of `faultline list`.
#[derive(Debug, Clone)]
pub struct ListedFunction {
    /// Its raw name, without its version.
    pub symbol: Arc<str>,
    /// Its version.
    pub version: Option<Arc<str>>,
    /// Its full demangled name; the raw one if that is not mangled.
    pub display_name: Arc<str>,
    /// Its first instruction.
    pub address: ElfAddr,
    /// The same place in the file; `None` if there is no code in the file.
    pub offset: Option<FileOffset>,
    /// Its size; `None` if its symbol does not say.
    pub size_bytes: Option<u64>,
    /// Other raw names of the same function.
    pub aliases: Vec<Arc<str>>,
    /// Whether only the name of a label says that there is code.
    pub is_label: bool,
    /// Why it cannot be probed, if so.
    pub unprobeable: Option<SkipReason>,
}

/// The symbols that a pattern selects, in the order of the file's tables.
///
/// # Errors
///
/// [`TooComplex`]: a regular expression that takes too long.
pub(super) fn matching(file: &ObjectFile, pattern: &Pattern) -> Result<Vec<SymbolId>, TooComplex> {
    let symbols = &file.symbols;
    Ok(match pattern {
        Pattern::Name { name, version } => {
            let has_version = |&id: &SymbolId| version_fits(symbols, id, version.as_ref());
            let raw: Vec<_> = symbols.named(name.as_bytes()).filter(has_version).collect();
            if !raw.is_empty() {
                return Ok(raw);
            }
            let by_demangled = file.demangled().named(name);
            let expanded = by_demangled.into_iter().flat_map(|id| same_raw_name(symbols, id));
            expanded.filter(has_version).collect()
        }
        Pattern::Matching(matcher) => {
            let is_function = |&id: &SymbolId| {
                let kind = symbols.get(id).kind;
                !matches!(kind, SymbolKind::Data | SymbolKind::Undefined)
            };
            let raw = symbols.ids().filter(|&id| {
                matcher.is_match(symbols.name(id)) || takes_version(matcher, symbols, id)
            });
            let demangled = file.demangled().matching(|name| matcher.is_match(name.as_bytes()));
            let expanded = demangled.into_iter().flat_map(|id| same_raw_name(symbols, id));
            let mut seen = HashSet::new();
            let all = raw.chain(expanded).filter(is_function).filter(|&id| seen.insert(id));
            let all = all.collect();
            matcher.check()?;
            all
        }
    })
}

fn same_raw_name(symbols: &Symbols, id: SymbolId) -> Vec<SymbolId> {
    symbols.named(symbols.name(id)).collect()
}

fn version_fits(symbols: &Symbols, id: SymbolId, wanted: Option<&Version>) -> bool {
    let Some(wanted) = wanted else { return true };
    symbols.version(id).is_some_and(|version| **version == wanted.name)
        && (symbols.get(id).is_default_version || !wanted.only_default)
}

/// A pattern with an `@` in it speaks of versions.
fn takes_version(matcher: &Matcher, symbols: &Symbols, id: SymbolId) -> bool {
    if !matcher.names_versions() {
        return false;
    }
    symbols.version(id).is_some_and(|version| {
        let name = String::from_utf8_lossy(symbols.name(id));
        let at = if symbols.get(id).is_default_version { "@@" } else { "@" };
        matcher.is_match(format!("{name}{at}{version}").as_bytes())
            || matcher.is_match(format!("{name}@{version}").as_bytes())
    })
}

/// Matches of one spec, sorted by what can be done with them.
#[derive(Debug, Default)]
struct Sorted {
    /// Functions with code, by address; the matched names of each.
    functions: BTreeMap<ElfAddr, Vec<SymbolId>>,
    /// Functions that cannot be probed, by address; the matched names of each.
    unprobeable: BTreeMap<ElfAddr, Vec<SymbolId>>,
    /// What is not a function of this file at all.
    others: BTreeMap<ElfAddr, Vec<SymbolId>>,
}

fn sort(file: &ObjectFile, matches: &[SymbolId], is_exact: bool) -> Sorted {
    let symbols = &file.symbols;
    let mut sorted = Sorted::default();
    let mut untyped: BTreeMap<ElfAddr, Vec<SymbolId>> = BTreeMap::new();
    for &id in matches {
        let address = symbols.get(id).address;
        let has_code = file.code_offset(address).is_some();
        let group = match symbols.get(id).kind {
            SymbolKind::Ifunc => &mut sorted.unprobeable,
            SymbolKind::Untyped if has_code => &mut untyped,
            // Without code and type it is a linker's mark, `_end`: nobody takes it for a function.
            SymbolKind::Undefined | SymbolKind::Data | SymbolKind::Untyped => &mut sorted.others,
            SymbolKind::Function if whole_function(symbols.name(id)).is_some() => {
                &mut sorted.others
            }
            SymbolKind::Function if !has_code => &mut sorted.unprobeable,
            // The code of a resolver is a function as well, to whoever asks for it by name.
            SymbolKind::Function if !is_exact && ifunc::is_resolver(symbols, address) => continue,
            SymbolKind::Function => &mut sorted.functions,
        };
        group.entry(address).or_default().push(id);
    }
    if sorted.functions.is_empty() {
        sorted.functions = untyped;
    }
    sorted
}

/// Why the symbols at one address cannot be probed.
fn reason(file: &ObjectFile, ids: &[SymbolId]) -> SkipReason {
    let symbols = &file.symbols;
    let kind = |wanted| ids.iter().find(|&&id| symbols.get(id).kind == wanted);
    let fragment_of = |&id: &SymbolId| whole_function(symbols.name(id));
    if kind(SymbolKind::Ifunc).is_some() {
        SkipReason::IfuncResolver {
            implementations: ifunc::implementations(symbols, ids),
            has_local_symbols: file.has_local_symbols(),
        }
    } else if kind(SymbolKind::Undefined).is_some() {
        SkipReason::Imported { library: None }
    } else if kind(SymbolKind::Data).is_some() {
        SkipReason::Data
    } else if let Some(function) = ids.iter().find_map(fragment_of) {
        SkipReason::Fragment { function }
    } else {
        let address = ids.first().map_or(ElfAddr(0), |&id| symbols.get(id).address);
        SkipReason::NotExecutable { address }
    }
}

/// `f.cold` and `f.cold.1` belong to `f`. A return probe there would overwrite a word of the stack
/// that is no return address.
pub(super) fn whole_function(name: &[u8]) -> Option<String> {
    let name = str::from_utf8(name).ok()?;
    let (function, number) = name.rsplit_once(".cold")?;
    let number = number.strip_prefix('.').unwrap_or(number);
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| function.to_owned())
}

/// Symbols to probes and reasons. `base` is the file's name in labels.
pub(super) fn resolve(
    file: &Arc<ObjectFile>,
    base: &str,
    spec: &Arc<ProbeSpec>,
    pattern: &Pattern,
    matches: &[SymbolId],
) -> Resolution {
    let is_exact = matches!(pattern, Pattern::Name { .. });
    let mut sorted = sort(file, matches, is_exact);
    // What is no function matters only to a user who named just that.
    if is_exact && sorted.functions.is_empty() && sorted.unprobeable.is_empty() {
        sorted.unprobeable = std::mem::take(&mut sorted.others);
    }
    let mut found: Vec<Found> =
        sorted.functions.values().map(|ids| Found::new(file, ids)).collect();
    label_overloads(&mut found);
    label_namesakes(&mut found);
    let suffix = if spec.offset == 0 { String::new() } else { format!("+{:#x}", spec.offset) };
    let mut resolution = Resolution::default();
    for function in found {
        let label = format!("{base}:{}{suffix}", function.label);
        match place(file, &function, spec) {
            Ok(place) => {
                resolution.probes.push(function.into_probe(file, label, place, spec));
            }
            Err(reason) => {
                resolution.skipped.push(Skipped { label: label.into(), reason });
            }
        }
    }
    for ids in sorted.unprobeable.values() {
        let label = format!("{base}:{}{suffix}", Found::new(file, ids).label);
        resolution.skipped.push(Skipped { label: label.into(), reason: reason(file, ids) });
    }
    resolution
}

/// Where a breakpoint goes.
struct Place {
    address: ElfAddr,
    offset: FileOffset,
    label_at: Option<FileOffset>,
}

/// Where the breakpoint goes, or why there is no place for it.
fn place(file: &ObjectFile, function: &Found, spec: &ProbeSpec) -> Result<Place, SkipReason> {
    // A function without a size ends where something else begins, at the latest.
    let next = || Some(file.symbols.next_code(function.address)?.0 - function.address.0);
    let size = function.size_bytes.or_else(next);
    if let Some(size) = size.filter(|&size| spec.offset >= size) {
        return Err(SkipReason::OffsetBeyondFunction { offset: spec.offset, size });
    }
    let address = ElfAddr(function.address.0.saturating_add(spec.offset));
    let Some(offset) = file.code_offset(address) else {
        return Err(SkipReason::NotExecutable { address });
    };
    if spec.ret.is_some() {
        if spec.offset != 0 {
            return Err(SkipReason::ReturnInside);
        }
        if address == file.entry() {
            return Err(SkipReason::ReturnAtStart);
        }
    }
    // A label inside the function may be that of a table.
    let nearest = file.symbols.nearest_code(address).unwrap_or(function.address);
    let label = [nearest].into_iter().find(|&label| !file.is_function(label));
    Ok(Place { address, offset, label_at: label.and_then(|label| file.code_offset(label)) })
}

/// All functions among the matches, for a listing, by address.
pub(super) fn list(file: &Arc<ObjectFile>, matches: &[SymbolId]) -> Vec<ListedFunction> {
    let sorted = sort(file, matches, false);
    let probeable = sorted.functions.values().map(|ids| (Found::new(file, ids), None));
    let unprobeable =
        (sorted.unprobeable.values()).map(|ids| (Found::new(file, ids), Some(reason(file, ids))));
    let mut listed: Vec<_> = probeable
        .chain(unprobeable)
        .map(|(found, unprobeable)| ListedFunction {
            offset: file.code_offset(found.address),
            symbol: found.symbol,
            version: found.version,
            display_name: found.display_name,
            address: found.address,
            size_bytes: found.size_bytes,
            aliases: found.aliases,
            is_label: unprobeable.is_none() && !file.is_function(found.address),
            unprobeable,
        })
        .collect();
    listed.sort_by_key(|function| function.address);
    listed
}

/// One function: the names it matched by, and the others it has.
struct Found {
    address: ElfAddr,
    symbol: Arc<str>,
    version: Option<Arc<str>>,
    display_name: Arc<str>,
    demangled: Option<Demangled>,
    label: String,
    size_bytes: Option<u64>,
    aliases: Vec<Arc<str>>,
    is_default_version: bool,
    /// The source file that defines it, if it is local and the file says.
    source: Option<Box<str>>,
}

impl Found {
    /// `matched` are symbols at one address.
    fn new(file: &ObjectFile, matched: &[SymbolId]) -> Self {
        let symbols = &file.symbols;
        let text = |id: SymbolId| String::from_utf8_lossy(symbols.name(id));
        let chosen = matched.iter().copied().min_by_key(|&id| preference(symbols, id));
        let chosen = chosen.unwrap_or(matched[0]);
        let symbol = symbols.get(chosen);
        let raw = text(chosen);
        let demangled = demangle::demangle(symbols.name(chosen));
        let is_imported = symbol.kind == SymbolKind::Undefined;
        let here = if is_imported { &[][..] } else { symbols.at(symbol.address) };
        let mut aliases: Vec<Arc<str>> = here
            .iter()
            .filter(|&&id| symbols.get(id).kind == symbol.kind)
            .map(|&id| text(id))
            .filter(|name| *name != raw)
            .map(Arc::from)
            .collect();
        aliases.sort();
        aliases.dedup();
        let size_bytes = here.iter().map(|&id| symbols.get(id).size_bytes).max();
        let full = demangled.as_ref().map_or(&*raw, |demangled| &demangled.full);
        Self {
            address: symbol.address,
            version: symbols.version(chosen).cloned(),
            display_name: Arc::from(full),
            label: demangled.as_ref().map_or(&*raw, |demangled| &demangled.name).to_owned(),
            symbol: Arc::from(raw),
            demangled,
            size_bytes: size_bytes.filter(|&size| size > 0),
            aliases,
            is_default_version: symbol.is_default_version,
            source: symbols.source(chosen).map(Box::from),
        }
    }

    fn into_probe(
        self,
        file: &Arc<ObjectFile>,
        label: String,
        Place { address, offset, label_at }: Place,
        spec: &Arc<ProbeSpec>,
    ) -> ResolvedProbe {
        ResolvedProbe {
            file: Arc::clone(file),
            symbol: self.symbol,
            version: self.version,
            display_name: self.display_name,
            label,
            address,
            offset,
            size_bytes: self.size_bytes,
            aliases: self.aliases,
            label_at,
            spec: Arc::clone(spec),
        }
    }
}

/// Which of several names a person would use: the public one, without underscores, the shortest.
/// A symbol with a version comes before the same one without, from another table.
fn preference(symbols: &Symbols, id: SymbolId) -> impl Ord + use<'_> {
    let (symbol, name) = (symbols.get(id), symbols.name(id));
    let underscores = name.iter().take_while(|&&byte| byte == b'_').count();
    (
        symbol.binding == super::symbols::Binding::Local,
        underscores,
        name.len(),
        name,
        symbols.version(id).is_none(),
        !symbol.is_default_version,
    )
}

/// Overloads share a name, so their labels include the parameters.
fn label_overloads(found: &mut [Found]) {
    for group in alike(found) {
        for index in group {
            let function = &mut found[index];
            if let Some(demangled) = &function.demangled {
                function.label.clone_from(&demangled.full);
            }
        }
    }
}

/// Functions that still have one label are told apart: by the version of the symbol, by the source file
/// of a `static` function, or else by their address.
fn label_namesakes(found: &mut [Found]) {
    for group in alike(found) {
        for &index in &group {
            let function = &mut found[index];
            if let Some(version) = &function.version
                && !function.is_default_version
            {
                function.label.push_str(&format!("@{version}"));
            }
        }
    }
    for group in alike(found) {
        let sources: HashSet<_> =
            group.iter().filter_map(|&index| found[index].source.as_deref()).collect();
        let by_source = sources.len() == group.len();
        for index in group {
            let function = &mut found[index];
            let mark = match &function.source {
                Some(source) if by_source => format!(" ({source})"),
                _ => format!(" ({})", function.address),
            };
            function.label.push_str(&mark);
        }
    }
}

/// The functions that share their label with another one, by label.
fn alike(found: &[Found]) -> Vec<Vec<usize>> {
    let mut by_label: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, function) in found.iter().enumerate() {
        by_label.entry(&function.label).or_default().push(index);
    }
    by_label.into_values().filter(|group| group.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a cold part is recognised, and not every name with `cold` in it.
    #[test]
    fn cold_parts_belong_to_a_function() {
        assert_eq!(whole_function(b"f.cold").as_deref(), Some("f"));
        assert_eq!(whole_function(b"f.part.0.cold.12").as_deref(), Some("f.part.0"));
        assert_eq!(whole_function(b"f.colder"), None);
        assert_eq!(whole_function(b"cold"), None);
    }
}
