//! From a file's symbols to probes, and to reasons where there is none.
//!
//! Takes one file and one spec; gives a [`Resolution`]. Several names at one address are one
//! probe; one name at several addresses is several.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::address::{ElfAddr, FileOffset};
use super::demangle::{self, Demangled};
use super::error::SkipReason;
use super::object_file::ObjectFile;
use super::pattern::{Pattern, Version};
use super::symbols::{SymbolId, SymbolKind, Symbols};
use crate::spec::ProbeSpec;

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
    /// The spec that named it.
    pub spec: Arc<ProbeSpec>,
}

/// A function that matched but cannot be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// As [`ResolvedProbe::label`].
    pub label: String,
    /// Why.
    pub reason: SkipReason,
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
    /// Why it cannot be probed, if so.
    pub unprobeable: Option<SkipReason>,
}

/// The symbols that a pattern selects, in the order of the file's tables.
pub(super) fn matching(file: &ObjectFile, pattern: &Pattern) -> Vec<SymbolId> {
    let symbols = &file.symbols;
    match pattern {
        Pattern::Name { name, version } => {
            let has_version = |&id: &SymbolId| version_fits(symbols, id, version.as_ref());
            let raw: Vec<_> = symbols.named(name.as_bytes()).filter(has_version).collect();
            if !raw.is_empty() {
                return raw;
            }
            let by_demangled = file.demangled().named(name);
            let expanded = by_demangled.into_iter().flat_map(|id| same_raw_name(symbols, id));
            expanded.filter(has_version).collect()
        }
        Pattern::Matching(regex) => {
            let is_function = |&id: &SymbolId| {
                let kind = symbols.get(id).kind;
                !matches!(kind, SymbolKind::Data | SymbolKind::Undefined)
            };
            let raw = symbols.ids().filter(|&id| {
                regex.is_match(symbols.name(id)) || regex_takes_version(regex, symbols, id)
            });
            let demangled = file.demangled().matching(|name| regex.is_match(name.as_bytes()));
            let expanded = demangled.into_iter().flat_map(|id| same_raw_name(symbols, id));
            let mut seen = HashSet::new();
            raw.chain(expanded).filter(is_function).filter(|&id| seen.insert(id)).collect()
        }
    }
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
fn regex_takes_version(regex: &regex::bytes::Regex, symbols: &Symbols, id: SymbolId) -> bool {
    if !regex.as_str().contains('@') {
        return false;
    }
    symbols.version(id).is_some_and(|version| {
        let name = String::from_utf8_lossy(symbols.name(id));
        let at = if symbols.get(id).is_default_version { "@@" } else { "@" };
        regex.is_match(format!("{name}{at}{version}").as_bytes())
            || regex.is_match(format!("{name}@{version}").as_bytes())
    })
}

/// Matches of one spec, sorted by what can be done with them.
#[derive(Debug, Default)]
struct Sorted {
    /// Functions with code, by address; the matched names of each.
    functions: BTreeMap<ElfAddr, Vec<SymbolId>>,
    /// Functions that cannot be probed.
    unprobeable: Vec<(SymbolId, SkipReason)>,
    /// What is not a function of this file at all.
    others: Vec<(SymbolId, SkipReason)>,
}

fn sort(file: &ObjectFile, matches: &[SymbolId], is_exact: bool) -> Sorted {
    let symbols = &file.symbols;
    let mut sorted = Sorted::default();
    let mut untyped: BTreeMap<ElfAddr, Vec<SymbolId>> = BTreeMap::new();
    for &id in matches {
        let symbol = symbols.get(id);
        let address = symbol.address;
        let has_code = file.code_offset(address).is_some();
        match symbol.kind {
            SymbolKind::Undefined => {
                sorted.others.push((id, SkipReason::Imported { library: None }));
            }
            SymbolKind::Data => sorted.others.push((id, SkipReason::Data)),
            SymbolKind::Ifunc => sorted.unprobeable.push((id, ifunc(file, id))),
            SymbolKind::Untyped if has_code => untyped.entry(address).or_default().push(id),
            // Not a function that someone could expect to be code: a linker's mark.
            SymbolKind::Untyped => sorted.others.push((id, SkipReason::NotExecutable { address })),
            SymbolKind::Function => match whole_function(symbols.name(id)) {
                Some(function) => sorted.others.push((id, SkipReason::Fragment { function })),
                None if !has_code => {
                    sorted.unprobeable.push((id, SkipReason::NotExecutable { address }));
                }
                // The code of a resolver is a function as well, to whoever asks for it by name.
                None if !is_exact && is_ifunc(symbols, address) => {}
                None => sorted.functions.entry(address).or_default().push(id),
            },
        }
    }
    if sorted.functions.is_empty() {
        sorted.functions = untyped;
    }
    sorted
}

fn is_ifunc(symbols: &Symbols, address: ElfAddr) -> bool {
    symbols.at(address).iter().any(|&id| symbols.get(id).kind == SymbolKind::Ifunc)
}

/// `f.cold` and `f.cold.1` belong to `f`. A return probe there would overwrite a word of the stack
/// that is no return address.
fn whole_function(name: &[u8]) -> Option<String> {
    let name = str::from_utf8(name).ok()?;
    let (function, number) = name.rsplit_once(".cold")?;
    let number = number.strip_prefix('.').unwrap_or(number);
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| function.to_owned())
}

/// The reason for a resolver, with the functions that it may pick, by the names that glibc and
/// compilers give them.
fn ifunc(file: &ObjectFile, resolver: SymbolId) -> SkipReason {
    let symbols = &file.symbols;
    let wanted = symbols.name(resolver);
    let mut found = HashSet::new();
    for id in symbols.ids().filter(|&id| symbols.get(id).kind == SymbolKind::Function) {
        let name = symbols.name(id);
        if is_implementation(name, wanted) && !is_ifunc(symbols, symbols.get(id).address) {
            found.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    let mut implementations: Vec<_> = found.into_iter().collect();
    implementations.sort();
    SkipReason::IfuncResolver { implementations, has_local_symbols: file.has_local_symbols() }
}

/// `__memcpy_avx_unaligned` is one of `memcpy`'s, and so is a compiler's clone `memcpy.avx2.0`.
fn is_implementation(name: &[u8], function: &[u8]) -> bool {
    const VARIANTS: [&str; 24] = [
        "a64fx",
        "asimd",
        "avx",
        "c",
        "emag",
        "erms",
        "evex",
        "falkor",
        "fma",
        "generic",
        "kunpeng",
        "mops",
        "neon",
        "oryon",
        "popcnt",
        "sse2",
        "sse4",
        "ssse3",
        "sve",
        "syscall",
        "thunderx",
        "unaligned",
        "vsx",
        "zva",
    ];
    let (Ok(name), Ok(function)) = (str::from_utf8(name), str::from_utf8(function)) else {
        return false;
    };
    let bare = |name: &'_ str| -> usize { name.len() - name.trim_start_matches('_').len() };
    let (name, function) = (&name[bare(name)..], &function[bare(function)..]);
    let Some(rest) = name.strip_prefix(function) else { return false };
    if let Some(variant) = rest.strip_prefix('.') {
        return !["resolver", "cold", "part", "isra", "constprop", "lto_priv"]
            .iter()
            .any(|mark| variant.starts_with(mark));
    }
    let Some(variant) = rest.strip_prefix('_') else { return false };
    let word = variant.split('_').next().unwrap_or(variant);
    VARIANTS.iter().any(|known| match word.strip_prefix(known) {
        // `avx512`, `sse42`, `thunderx2`
        Some(tail) => tail.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    })
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
    let suffix = if spec.offset == 0 { String::new() } else { format!("+{:#x}", spec.offset) };
    let mut resolution = Resolution::default();
    for function in found {
        let label = format!("{base}:{}{suffix}", function.label);
        match place(file, &function, spec) {
            Ok((address, offset)) => {
                resolution.probes.push(function.into_probe(file, label, address, offset, spec));
            }
            Err(reason) => resolution.skipped.push(Skipped { label, reason }),
        }
    }
    for (id, reason) in sorted.unprobeable {
        let label = format!("{base}:{}{suffix}", Found::new(file, &[id]).label);
        let skipped = Skipped { label, reason };
        if !resolution.skipped.contains(&skipped) {
            resolution.skipped.push(skipped);
        }
    }
    resolution
}

/// Where the breakpoint goes, or why there is no place for it.
fn place(
    file: &ObjectFile,
    function: &Found,
    spec: &ProbeSpec,
) -> Result<(ElfAddr, FileOffset), SkipReason> {
    if let Some(size) = function.size_bytes.filter(|&size| spec.offset >= size && size > 0) {
        return Err(SkipReason::OffsetBeyondFunction { offset: spec.offset, size });
    }
    let address = ElfAddr(function.address.0.saturating_add(spec.offset));
    let Some(offset) = file.code_offset(address) else {
        return Err(SkipReason::NotExecutable { address });
    };
    if spec.ret.is_some() {
        if spec.offset != 0 {
            return Err(SkipReason::NoReturnAddress { why: "it is inside a function" });
        }
        if address == file.entry() {
            return Err(SkipReason::NoReturnAddress { why: "it is where the program starts" });
        }
    }
    Ok((address, offset))
}

/// All functions among the matches, for a listing, by address.
pub(super) fn list(file: &Arc<ObjectFile>, matches: &[SymbolId]) -> Vec<ListedFunction> {
    let sorted = sort(file, matches, false);
    let probeable = sorted.functions.values().map(|ids| (Found::new(file, ids), None));
    let mut resolvers: HashMap<ElfAddr, (Vec<SymbolId>, SkipReason)> = HashMap::new();
    for (id, reason) in sorted.unprobeable {
        let address = file.symbols.get(id).address;
        resolvers.entry(address).or_insert_with(|| (Vec::new(), reason)).0.push(id);
    }
    let unprobeable =
        resolvers.into_values().map(|(ids, reason)| (Found::new(file, &ids), Some(reason)));
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
        }
    }

    fn into_probe(
        self,
        file: &Arc<ObjectFile>,
        label: String,
        address: ElfAddr,
        offset: FileOffset,
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

/// Overloads share a name; what tells them apart is their parameters.
fn label_overloads(found: &mut [Found]) {
    let mut count: HashMap<String, usize> = HashMap::new();
    for function in found.iter() {
        *count.entry(function.label.clone()).or_default() += 1;
    }
    for function in found {
        if count.get(&function.label).is_some_and(|&count| count > 1)
            && let Some(demangled) = &function.demangled
        {
            function.label.clone_from(&demangled.full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check which names count as implementations behind a resolver.
    #[test]
    fn implementations_are_known_by_name() {
        let is =
            |name: &str, function: &str| is_implementation(name.as_bytes(), function.as_bytes());
        assert!(is("__memcpy_avx_unaligned", "memcpy"));
        assert!(is("__memmove_avx512_no_vzeroupper", "memmove"));
        assert!(is("__strlen_sse42", "strlen"));
        assert!(is("__memcpy_thunderx2", "memcpy"));
        assert!(is("sum.avx2.0", "sum"));
        assert!(is("sum.default.1", "sum"));
        assert!(!is("sum.resolver", "sum"));
        assert!(!is("__memcpy_chk_avx_unaligned", "memcpy"));
        assert!(is("__memcpy_chk_avx_unaligned", "__memcpy_chk"));
        assert!(!is("memcpy", "memcpy"));
        assert!(!is("__memcpyx", "memcpy"));
    }

    /// Check that a cold part is told from a function that is only called so.
    #[test]
    fn cold_parts_belong_to_a_function() {
        assert_eq!(whole_function(b"f.cold").as_deref(), Some("f"));
        assert_eq!(whole_function(b"f.part.0.cold.12").as_deref(), Some("f.part.0"));
        assert_eq!(whole_function(b"f.colder"), None);
        assert_eq!(whole_function(b"cold"), None);
    }
}
