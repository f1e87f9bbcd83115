//! C++ and Rust names as people write them.
//!
//! Takes raw symbol names; gives each in full and without its parameters, and an index over all
//! of a file's. Output is bounded: a crafted name of a few bytes can stand for gigabytes.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::ops::Range;
use std::thread;

use cpp_demangle::DemangleOptions;

use super::symbols::{SymbolId, SymbolKind, Symbols};

/// Longer names are left raw.
const LONGEST_NAME_BYTES: usize = 32 << 10;

/// A name that was mangled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demangled {
    /// `void ns::f<int>(int)`
    pub(super) full: String,
    /// `ns::f<int>`: no parameters, no return type; for Rust no hash.
    pub(super) name: String,
}

/// Whether a raw name may be a mangled one.
pub(super) fn is_mangled(raw: &[u8]) -> bool {
    raw.starts_with(b"_Z") || raw.starts_with(b"_R") || raw.starts_with(b"__Z")
}

/// `None` if the name is not mangled, or not in a way that is known.
pub(super) fn demangle(raw: &[u8]) -> Option<Demangled> {
    if !is_mangled(raw) {
        return None;
    }
    let raw = str::from_utf8(raw).ok()?;
    if raw.starts_with("_R") || is_legacy_rust(raw) { rust(raw) } else { cpp(raw) }
}

/// Whether a person may write a mangled name this way.
pub(super) fn is_written(raw: &str, wanted: &str) -> bool {
    demangle(raw.as_bytes()).is_some_and(|demangled| {
        forms(&demangled.full, &demangled.name).iter().any(|form| same_name(form, wanted))
    })
}

fn rust(raw: &str) -> Option<Demangled> {
    let demangled = rustc_demangle::try_demangle(raw).ok()?;
    // The alternate form is the one without the hash.
    let name = bounded(|out| write!(out, "{demangled:#}"))?;
    Some(Demangled { full: name.clone(), name })
}

/// Rust's older scheme borrows C++'s and ends in `17h`, 16 hex digits and `E`.
/// What may follow is the compiler's mark, after a dot; the name itself may have dots as well, for the
/// colons of a path in `<a::B as c::D>::e`.
fn is_legacy_rust(raw: &str) -> bool {
    raw.rmatch_indices("17h").any(|(at, start)| {
        let rest = &raw[at + start.len()..];
        let Some((hash, rest)) = rest.split_at_checked(16) else { return false };
        hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && rest.strip_prefix('E').is_some_and(|mark| mark.is_empty() || mark.starts_with('.'))
    })
}

fn cpp(raw: &str) -> Option<Demangled> {
    // What follows a dot is the compiler's mark on a copy of the function (`.constprop.0`). It is
    // kept in the name: the copy has its own arguments, and its own row in every report.
    let (mangled, mark) = raw.find('.').map_or((raw, ""), |at| raw.split_at(at));
    let symbol = cpp_demangle::Symbol::new(mangled).ok()?;
    let written = |options: DemangleOptions| {
        bounded(|out| symbol.structured_demangle(out, &options).map_err(|_| fmt::Error))
    };
    let mut full = written(DemangleOptions::new())?;
    let mut name = written(DemangleOptions::new().no_params().no_return_type())?;
    full.push_str(mark);
    name.push_str(mark);
    Some(Demangled { full, name })
}

fn bounded(write: impl FnOnce(&mut Bounded) -> fmt::Result) -> Option<String> {
    let mut out = Bounded(String::new());
    write(&mut out).ok()?;
    Some(out.0)
}

/// A string that refuses to grow too long.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST_NAME_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Every mangled function name of a file, demangled.
#[derive(Debug, Default)]
pub(super) struct DemangledNames {
    text: String,
    entries: Vec<Entry>,
    by_name: Vec<(u64, u32)>,
}

/// The symbol stands for all that have its raw name.
#[derive(Debug, Clone)]
struct Entry {
    symbol: SymbolId,
    full: Range<u32>,
    name: Range<u32>,
}

impl DemangledNames {
    /// Demangles on every processor: about 2 µs a name.
    pub(super) fn of(symbols: &Symbols) -> Self {
        let mut seen = HashSet::new();
        let mangled: Vec<SymbolId> = symbols
            .ids()
            .filter(|&id| symbols.get(id).kind != SymbolKind::Data)
            .filter(|&id| is_mangled(symbols.name(id)) && seen.insert(symbols.name(id)))
            .collect();
        let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
        let chunk = mangled.len().div_ceil(workers).max(1);
        let mut names = Self::default();
        thread::scope(|scope| {
            let parts: Vec<_> = mangled
                .chunks(chunk)
                .map(|ids| scope.spawn(move || Self::of_chunk(symbols, ids)))
                .collect();
            for part in parts {
                match part.join() {
                    Ok(part) => names.append(&part),
                    Err(_) => tracing::warn!("a name could not be demangled; its part is left raw"),
                }
            }
        });
        names.index();
        names
    }

    fn of_chunk(symbols: &Symbols, ids: &[SymbolId]) -> Self {
        let mut names = Self::default();
        for &symbol in ids {
            if let Some(demangled) = demangle(symbols.name(symbol)) {
                names.push(symbol, &demangled);
            }
        }
        names
    }

    /// Nothing is kept beyond 4 GiB of text, which is what a range can say.
    fn push(&mut self, symbol: SymbolId, demangled: &Demangled) {
        let Some(full) = self.push_text(&demangled.full) else { return };
        // Mostly the short name is a part of the full one.
        let name = match demangled.full.find(&demangled.name) {
            Some(at) => {
                let start = full.start + at as u32;
                Some(start..start + demangled.name.len() as u32)
            }
            None => self.push_text(&demangled.name),
        };
        let Some(name) = name else { return };
        self.entries.push(Entry { symbol, full, name });
    }

    fn push_text(&mut self, text: &str) -> Option<Range<u32>> {
        let start = u32::try_from(self.text.len()).ok()?;
        let end = u32::try_from(self.text.len() + text.len()).ok()?;
        self.text.push_str(text);
        Some(start..end)
    }

    fn append(&mut self, part: &Self) {
        let Some(moved) = self.push_text(&part.text).map(|range| range.start) else { return };
        let shift = |range: &Range<u32>| range.start + moved..range.end + moved;
        self.entries.extend(part.entries.iter().map(|entry| Entry {
            symbol: entry.symbol,
            full: shift(&entry.full),
            name: shift(&entry.name),
        }));
    }

    fn index(&mut self) {
        let mut by_name = Vec::with_capacity(self.entries.len() * 3);
        for number in 0..self.entries.len() {
            let hashes = self.forms(number).map(hash_of_name);
            by_name.extend(hashes.map(|hash| (hash, number as u32)));
        }
        by_name.sort_unstable();
        by_name.dedup();
        self.by_name = by_name;
    }

    fn slice(&self, range: &Range<u32>) -> &str {
        &self.text[range.start as usize..range.end as usize]
    }

    /// The ways to write one name: in full, without the return type, without the parameters.
    fn forms(&self, number: usize) -> [&str; 3] {
        let entry = &self.entries[number];
        forms(self.slice(&entry.full), self.slice(&entry.name))
    }

    /// The symbols that can be written this way. Spaces do not count, and neither do C++'s ABI tags if
    /// none is written.
    pub(super) fn named(&self, wanted: &str) -> Vec<SymbolId> {
        let hash = hash_of_name(wanted);
        let first = self.by_name.partition_point(|&(found, _)| found < hash);
        self.by_name[first..]
            .iter()
            .take_while(|&&(found, _)| found == hash)
            .map(|&(_, number)| number as usize)
            .filter(|&number| self.forms(number).iter().any(|form| same_name(form, wanted)))
            .map(|number| self.entries[number].symbol)
            .collect()
    }

    /// The symbols of which some way of writing passes the test.
    pub(super) fn matching(&self, test: impl Fn(&str) -> bool) -> Vec<SymbolId> {
        (0..self.entries.len())
            .filter(|&number| self.forms(number).into_iter().any(&test))
            .map(|number| self.entries[number].symbol)
            .collect()
    }

    /// The short names, each with its symbol.
    pub(super) fn names(&self) -> impl Iterator<Item = (SymbolId, &str)> {
        self.entries.iter().map(|entry| (entry.symbol, self.slice(&entry.name)))
    }
}

/// The ways to write one name: in full, without the return type, without the parameters.
fn forms<'n>(full: &'n str, name: &'n str) -> [&'n str; 3] {
    let starts_parameters = |at: &usize| full[at + name.len()..].starts_with('(');
    let call = full.match_indices(name).map(|(at, _)| at).find(starts_parameters);
    [full, call.map_or(full, |at| &full[at..]), name]
}

/// An ABI tag, `[abi:cxx11]`: part of the name of whatever has to do with a `std::string`, and written by
/// nobody.
const TAG: &str = "[abi:";

/// What counts in a name, byte by byte.
fn essential(name: &str, with_tags: bool) -> impl Iterator<Item = u8> {
    let mut rest = name.as_bytes();
    std::iter::from_fn(move || {
        loop {
            if !with_tags && rest.starts_with(TAG.as_bytes()) {
                let end = rest.iter().position(|&byte| byte == b']').unwrap_or(rest.len() - 1);
                rest = &rest[end + 1..];
                continue;
            }
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            if byte != b' ' {
                return Some(byte);
            }
        }
    })
}

fn same_name(form: &str, wanted: &str) -> bool {
    let with_tags = wanted.contains(TAG);
    essential(form, with_tags).eq(essential(wanted, with_tags))
}

/// FNV-1a, 64 bits.
fn hash_of_name(name: &str) -> u64 {
    essential(name, false).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forms(raw: &str) -> (String, String) {
        let demangled = demangle(raw.as_bytes()).unwrap();
        (demangled.full, demangled.name)
    }

    /// Check C++ names: parameters, return types of templates, the compiler's copies.
    #[test]
    fn cpp_names() {
        assert_eq!(forms("_ZN2ns3addEii"), ("ns::add(int, int)".to_owned(), "ns::add".to_owned()));
        assert_eq!(
            forms("_ZN2ns5twiceIiEET_S1_"),
            ("int ns::twice<int>(int)".to_owned(), "ns::twice<int>".to_owned())
        );
        assert_eq!(forms("_ZN2ns3addEii.constprop.0").1, "ns::add.constprop.0");
    }

    /// Check that Rust names of both schemes lose their hash.
    #[test]
    fn rust_names() {
        assert_eq!(forms("_ZN4core3fmt5write17h0123456789abcdefE").1, "core::fmt::write");
        assert_eq!(forms("_ZN4core3fmt5write17h0123456789abcdefE.llvm.42").1, "core::fmt::write");
        assert_eq!(forms("_RNvNtCs1234_7mycrate3foo3bar").1, "mycrate::foo::bar");
    }

    /// Check that methods of traits have readable names in the older scheme, whose dots once passed for the
    /// compiler's mark.
    #[test]
    fn legacy_trait_methods() {
        let raw = "_ZN43_$LT$old..Money$u20$as$u20$old..Handler$GT$6handle17h0123456789abcdefE";
        assert_eq!(forms(raw).1, "<old::Money as old::Handler>::handle");
        let marked = format!("{raw}.llvm.42");
        assert_eq!(forms(&marked).1, "<old::Money as old::Handler>::handle");
    }

    /// Check that an ABI tag need not be written, and selects if it is.
    #[test]
    fn abi_tags_are_optional() {
        let form = "shop::label[abi:cxx11](int)";
        assert!(same_name(form, "shop::label(int)"));
        assert!(same_name(form, "shop::label[abi:cxx11](int)"));
        assert!(!same_name(form, "shop::label[abi:v2](int)"));
        assert!(!same_name("shop::label(int)", form));
        assert_eq!(hash_of_name("a[abi:x]b[abi:"), hash_of_name("ab"));
    }

    /// Check that other names are left alone.
    #[test]
    fn plain_names() {
        for plain in ["main", "_start", "_Z", "_ZZZZ", "_R", "", "__Zebra"] {
            assert_eq!(demangle(plain.as_bytes()), None, "{plain}");
        }
        assert_eq!(demangle(b"_Z\xff\xfe"), None);
    }

    /// Check that a short name that stands for an exponentially long one is refused in time.
    #[test]
    fn exponential_name_is_refused() {
        // Each parameter is a template of the one before it, twice.
        let mut raw = "_Z1f1a1bIS_S_E".to_owned();
        for level in '1'..='9' {
            raw.push_str(&format!("S0_IS{level}_S{level}_E"));
        }
        for level in 'A'..='Y' {
            raw.push_str(&format!("S0_IS{level}_S{level}_E"));
        }
        assert_eq!(demangle(raw.as_bytes()), None);
    }

    proptest! {
        /// Check that no text makes a demangler panic.
        #[test]
        fn any_name_is_no_panic(tail in "[A-Za-z0-9_.]{0,60}", prefix in "_Z|_ZN|_R|_RN|__Z") {
            let _ = demangle(format!("{prefix}{tail}").as_bytes());
        }
    }
}
