//! A file's symbols, from as many tables as it has.
//!
//! Takes symbol tables of [`Frame`]s; gives one flat list with an index by name and one by
//! address. Names stay where they are, as bytes of their string table: nothing is demangled and no
//! string is made here, so a file of 100,000 symbols costs a read and a walk.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use object::elf;
use object::read::elf::{Sym, SymbolTable, VersionTable};
use object::read::{ReadRef, SymbolIndex};

use super::address::ElfAddr;
use super::elf::{ENDIAN, FormatError, Frame, Header};

/// A longer name is passed over: a table without terminators would be walked once a symbol.
const LONGEST_NAME_BYTES: usize = 64 * 1024;

/// What a symbol stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SymbolKind {
    Function,
    /// Picks a function at load time.
    Ifunc,
    /// No type given: a label of hand-written assembly, mostly.
    Untyped,
    Data,
    /// Used here, defined elsewhere.
    Undefined,
}

impl SymbolKind {
    /// Whether code may be there.
    pub(super) fn is_code(self) -> bool {
        matches!(self, Self::Function | Self::Ifunc | Self::Untyped)
    }
}

/// Who can see a symbol's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Binding {
    Global,
    Weak,
    Local,
}

/// A symbol's place in [`Symbols`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SymbolId(u32);

/// One entry of one table.
#[derive(Debug, Clone)]
pub(super) struct Symbol {
    pub(super) address: ElfAddr,
    pub(super) size_bytes: u64,
    name_start: u32,
    name_bytes: u32,
    strings: u8,
    version: u16,
    pub(super) is_default_version: bool,
    pub(super) kind: SymbolKind,
    pub(super) binding: Binding,
}

/// A source file as a table names it, before the local symbols that it defines.
#[derive(Debug)]
struct SourceFile {
    first: SymbolId,
    /// `None` where the symbols that follow are of no known file.
    name: Option<Box<str>>,
}

/// All symbols of a file.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    strings: Vec<Box<[u8]>>,
    /// Version 0 is "none".
    versions: Vec<Arc<str>>,
    version_numbers: HashMap<Vec<u8>, u16>,
    symbols: Vec<Symbol>,
    /// The source files that tables name, each with the first of its local symbols.
    sources: Vec<SourceFile>,
    by_name: OnceLock<Vec<(u32, SymbolId)>>,
    by_address: OnceLock<Vec<SymbolId>>,
}

impl Symbols {
    /// Adds a table, if the file has one of this type. Gives whether it had.
    pub(super) fn add<'data, R: ReadRef<'data>>(
        &mut self,
        frame: &Frame<'data, R>,
        table_type: elf::SectionType,
    ) -> Result<bool, FormatError> {
        let table: SymbolTable<'data, Header, R> =
            frame.sections.symbols(ENDIAN, frame.data, table_type)?;
        if table.is_empty() {
            return Ok(false);
        }
        let strings = frame.section_at(table.string_section())?;
        let versions = if table_type == elf::SHT_DYNSYM {
            frame.sections.versions(ENDIAN, frame.data)?
        } else {
            None
        };
        let Ok(strings_id) = u8::try_from(self.strings.len()) else { return Ok(false) };
        self.symbols.reserve(table.len());
        self.begin_source(None);
        for (index, entry) in table.enumerate() {
            if entry.st_type() == elf::STT_FILE {
                self.begin_source(source_name(strings, entry.st_name(ENDIAN)));
            }
            let version = versions.as_ref().and_then(|table| version_of(table, index));
            self.add_symbol(entry, strings, strings_id, version);
        }
        self.strings.push(strings.into());
        (self.by_name, self.by_address) = (OnceLock::new(), OnceLock::new());
        Ok(true)
    }

    fn add_symbol(
        &mut self,
        entry: &elf::Sym64<object::LittleEndian>,
        strings: &[u8],
        strings_id: u8,
        version: Option<(&[u8], bool)>,
    ) {
        let Some(kind) = kind(entry) else { return };
        let name_start = entry.st_name(ENDIAN);
        let Some(tail) = strings.get(name_start as usize..) else { return };
        let tail = &tail[..tail.len().min(LONGEST_NAME_BYTES)];
        let Some(end) = tail.iter().position(|&byte| byte == 0) else { return };
        // `.symtab` has versions in the name itself.
        let (name, in_name) = split_version(&tail[..end]);
        if name.is_empty() || is_mapping_symbol(name, kind) {
            return;
        }
        let Ok(name_bytes) = u32::try_from(name.len()) else { return };
        let (version, is_default_version) = match in_name.or(version) {
            Some((version, is_default)) => (self.version_number(version), is_default),
            None => (0, true),
        };
        self.symbols.push(Symbol {
            address: ElfAddr(entry.st_value(ENDIAN)),
            size_bytes: entry.st_size(ENDIAN),
            name_start,
            name_bytes,
            strings: strings_id,
            version,
            is_default_version,
            kind,
            binding: match entry.st_bind() {
                elf::STB_LOCAL => Binding::Local,
                elf::STB_WEAK => Binding::Weak,
                _ => Binding::Global,
            },
        });
    }

    /// The symbols from here on belong to this source file.
    fn begin_source(&mut self, name: Option<Box<str>>) {
        let first = SymbolId(self.symbols.len() as u32);
        // A file without local symbols needs no place in the list.
        self.sources.pop_if(|source| source.first == first);
        self.sources.push(SourceFile { first, name });
    }

    /// The base name of the source file that a local symbol was defined in, where its table says.
    pub(super) fn source(&self, id: SymbolId) -> Option<&str> {
        if self.get(id).binding != Binding::Local {
            return None;
        }
        let after = self.sources.partition_point(|source| source.first <= id);
        self.sources[..after].last()?.name.as_deref()
    }

    /// 0 stands for none, also when there are more versions than numbers.
    fn version_number(&mut self, version: &[u8]) -> u16 {
        if let Some(&number) = self.version_numbers.get(version) {
            return number;
        }
        let Ok(number) = u16::try_from(self.versions.len() + 1) else { return 0 };
        self.versions.push(String::from_utf8_lossy(version).into());
        self.version_numbers.insert(version.to_vec(), number);
        number
    }

    pub(super) fn get(&self, id: SymbolId) -> &Symbol {
        &self.symbols[id.0 as usize]
    }

    /// The raw name without its version.
    pub(super) fn name(&self, id: SymbolId) -> &[u8] {
        let symbol = self.get(id);
        let start = symbol.name_start as usize;
        &self.strings[usize::from(symbol.strings)][start..start + symbol.name_bytes as usize]
    }

    pub(super) fn version(&self, id: SymbolId) -> Option<&Arc<str>> {
        self.versions.get(usize::from(self.get(id).version).checked_sub(1)?)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = SymbolId> + use<> {
        (0..self.symbols.len() as u32).map(SymbolId)
    }

    /// The symbols with exactly this raw name.
    pub(super) fn named<'s>(&'s self, name: &'s [u8]) -> impl Iterator<Item = SymbolId> + 's {
        let index = self.by_name.get_or_init(|| {
            let mut index: Vec<_> = self.ids().map(|id| (hash(self.name(id)), id)).collect();
            index.sort_unstable();
            index
        });
        let wanted = hash(name);
        let first = index.partition_point(|&(hash, _)| hash < wanted);
        let same_hash = index[first..].iter().take_while(move |&&(hash, _)| hash == wanted);
        same_hash.map(|&(_, id)| id).filter(move |&id| self.name(id) == name)
    }

    /// The defined symbols, by rising address.
    fn by_address(&self) -> &[SymbolId] {
        self.by_address.get_or_init(|| {
            let defined = |id: &SymbolId| self.get(*id).kind != SymbolKind::Undefined;
            let mut index: Vec<_> = self.ids().filter(defined).collect();
            index.sort_unstable_by_key(|&id| (self.get(id).address, id));
            index
        })
    }

    /// The address of the nearest symbol of code at or before this one.
    pub(super) fn nearest_code(&self, address: ElfAddr) -> Option<ElfAddr> {
        let index = self.by_address();
        let end = index.partition_point(|&id| self.get(id).address <= address);
        let is_code = |id: &&SymbolId| self.get(**id).kind.is_code();
        index[..end].iter().rev().find(is_code).map(|&id| self.get(id).address)
    }

    /// The address of the first symbol of code after this one.
    pub(super) fn next_code(&self, address: ElfAddr) -> Option<ElfAddr> {
        let index = self.by_address();
        let first = index.partition_point(|&id| self.get(id).address <= address);
        let is_code = |id: &&SymbolId| self.get(**id).kind.is_code();
        index[first..].iter().find(is_code).map(|&id| self.get(id).address)
    }

    /// The defined symbols at exactly this address.
    pub(super) fn at(&self, address: ElfAddr) -> &[SymbolId] {
        let index = self.by_address();
        let first = index.partition_point(|&id| self.get(id).address < address);
        // Hardly ever more than a few.
        let here = index[first..].iter().take_while(|&&id| self.get(id).address == address);
        let count = here.count();
        &index[first..first + count]
    }
}

fn version_of<'data>(
    table: &VersionTable<'data, Header>,
    index: SymbolIndex,
) -> Option<(&'data [u8], bool)> {
    let number = table.version_index(ENDIAN, index);
    let version = table.version(number.index()).ok().flatten()?;
    Some((version.name(), !number.is_hidden()))
}

/// `memcpy@@GLIBC_2.14` → `memcpy`, its version, and that it is the default one.
pub(super) fn split_version(name: &[u8]) -> (&[u8], Option<(&[u8], bool)>) {
    let Some(at) = name.iter().position(|&byte| byte == b'@').filter(|&at| at > 0) else {
        return (name, None);
    };
    let version = &name[at + 1..];
    // Anything else is part of a name that has an `@` itself.
    let in_version = |byte: &u8| byte.is_ascii_alphanumeric() || b"@_.-+".contains(byte);
    if !version.iter().all(in_version) {
        return (name, None);
    }
    match version.strip_prefix(b"@") {
        Some(version) if !version.is_empty() => (&name[..at], Some((version, true))),
        None if !version.is_empty() => (&name[..at], Some((version, false))),
        _ => (name, None),
    }
}

/// The base name of a source file. Link-time optimisation names its own temporary files instead.
fn source_name(strings: &[u8], start: u32) -> Option<Box<str>> {
    let tail = strings.get(start as usize..)?;
    let end = tail.iter().take(LONGEST_NAME_BYTES).position(|&byte| byte == 0)?;
    let name = str::from_utf8(&tail[..end]).ok()?;
    let base = name.rsplit('/').next().unwrap_or(name);
    let is_source = !base.is_empty() && !base.starts_with('<') && !base.ends_with(".o");
    is_source.then(|| base.into())
}

fn kind(entry: &elf::Sym64<object::LittleEndian>) -> Option<SymbolKind> {
    let undefined = entry.is_undefined(ENDIAN);
    let kind = match entry.st_type() {
        elf::STT_FUNC => SymbolKind::Function,
        elf::STT_GNU_IFUNC => SymbolKind::Ifunc,
        elf::STT_NOTYPE => SymbolKind::Untyped,
        elf::STT_OBJECT | elf::STT_COMMON | elf::STT_TLS => SymbolKind::Data,
        _ => return None,
    };
    Some(if undefined { SymbolKind::Undefined } else { kind })
}

/// The assembler's marks between code and data on ARM (`$x`, `$d.1`), which name nothing.
fn is_mapping_symbol(name: &[u8], kind: SymbolKind) -> bool {
    kind == SymbolKind::Untyped
        && matches!(
            name,
            [b'$', b'a' | b'd' | b't' | b'x'] | [b'$', b'a' | b'd' | b't' | b'x', b'.', ..]
        )
}

/// FNV-1a: the table is an index, not a defence, and equal hashes are compared.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a version is split off, and that an odd name stays whole.
    #[test]
    fn versions_are_split_off() {
        let split = |name: &'static str| split_version(name.as_bytes());
        assert_eq!(split("memcpy"), (&b"memcpy"[..], None));
        assert_eq!(split("memcpy@V1"), (&b"memcpy"[..], Some((&b"V1"[..], false))));
        assert_eq!(split("memcpy@@V2"), (&b"memcpy"[..], Some((&b"V2"[..], true))));
        for odd in ["@V1", "memcpy@", "memcpy@@", "@", "Foo@bar#baz"] {
            assert_eq!(split(odd), (odd.as_bytes(), None), "{odd}");
        }
    }

    /// Check that ARM's marks are left out and real names with a dollar are not.
    #[test]
    fn mapping_symbols_are_known() {
        assert!(is_mapping_symbol(b"$x", SymbolKind::Untyped));
        assert!(is_mapping_symbol(b"$d.12", SymbolKind::Untyped));
        assert!(!is_mapping_symbol(b"$x", SymbolKind::Function));
        assert!(!is_mapping_symbol(b"$data", SymbolKind::Untyped));
    }
}
