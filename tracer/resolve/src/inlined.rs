//! How often the compiler inlined a function, from DWARF.
//!
//! Takes a file and names; gives the number of places for each. Reads `.debug_info` from beginning to end,
//! so it is only for questions that a person waits for: why a function had no hits, or has no symbol. The
//! size and the time are bounded; beyond them it knows nothing.

use std::collections::HashMap;
use std::fs::File;
use std::time::{Duration, Instant};

use gimli::{
    AttributeValue, DebugAbbrev, DebugInfo, DebugInfoOffset, DebugLineStr, DebugStr,
    DebugStrOffsets, DebugStrOffsetsBase, EndianSlice, LittleEndian, UnitHeader,
};
use object::elf;
use object::read::{ReadCache, ReadRef, elf::SectionHeader as _};

use super::demangle;
use super::elf::{ENDIAN, FormatError, Frame};
use super::object_file::ObjectFile;

/// Larger debug information is left alone: all of what is read stays in memory until the answer.
const MOST_BYTES: u64 = 512 << 20;

type Slice<'data> = EndianSlice<'data, LittleEndian>;

/// A function, as its symbol and as a person names it.
#[derive(Debug, Clone, Copy)]
pub struct FunctionName<'n> {
    /// The raw name.
    pub symbol: &'n str,
    /// As written, or demangled.
    pub shown: &'n str,
}

/// In how many places each function is inlined; `None` if the file's debug information does not say, or
/// not within this time.
#[must_use]
pub fn inlined(
    file: &ObjectFile,
    functions: &[FunctionName<'_>],
    within: Duration,
) -> Option<Vec<u64>> {
    let deadline = Instant::now() + within;
    let in_file = |opened: &File| {
        count(opened, functions, deadline).unwrap_or_else(|error| {
            tracing::debug!("passing over debug information: {error:?}");
            None
        })
    };
    in_file(file.opened()).or_else(|| in_file(&File::open(file.debug_file()?).ok()?))
}

/// The sections that are read.
struct Sections<'data> {
    info: DebugInfo<Slice<'data>>,
    abbreviations: DebugAbbrev<Slice<'data>>,
    strings: Strings<'data>,
}

struct Strings<'data> {
    strings: DebugStr<Slice<'data>>,
    line_strings: DebugLineStr<Slice<'data>>,
    offsets: DebugStrOffsets<Slice<'data>>,
}

/// `None` without debug information that can be read here.
fn sections<'data, R: ReadRef<'data>>(
    frame: &Frame<'data, R>,
) -> Result<Option<Sections<'data>>, FormatError> {
    let mut left = MOST_BYTES;
    let mut section = |name: &str| -> Result<Option<Slice<'data>>, FormatError> {
        let found = frame.sections.section_by_name(ENDIAN, name.as_bytes());
        let Some((_, section)) = found else { return Ok(None) };
        let bytes = section.sh_size(ENDIAN);
        let is_compressed = section.sh_flags(ENDIAN).contains(elf::SHF_COMPRESSED);
        if is_compressed || bytes > left {
            return Err(FormatError::Corrupt(format!("`{name}` is compressed or too large")));
        }
        left -= bytes;
        Ok(Some(EndianSlice::new(section.data(ENDIAN, frame.data)?, LittleEndian)))
    };
    let empty = EndianSlice::new(&[], LittleEndian);
    let Some(info) = section(".debug_info")?.filter(|info| !info.is_empty()) else {
        return Ok(None);
    };
    Ok(Some(Sections {
        info: info.into(),
        abbreviations: section(".debug_abbrev")?.unwrap_or(empty).into(),
        strings: Strings {
            strings: section(".debug_str")?.unwrap_or(empty).into(),
            line_strings: section(".debug_line_str")?.unwrap_or(empty).into(),
            offsets: section(".debug_str_offsets")?.unwrap_or(empty).into(),
        },
    }))
}

fn count(
    opened: &File,
    functions: &[FunctionName<'_>],
    deadline: Instant,
) -> Result<Option<Vec<u64>>, FormatError> {
    let cache = ReadCache::new(opened);
    let Some(sections) = sections(&Frame::read(&cache)?)? else { return Ok(None) };
    let mut found = Found::default();
    let mut units = sections.info.units();
    while let Some(unit) = units.next().map_err(damaged)? {
        if Instant::now() > deadline {
            return Ok(None);
        }
        found.add(&sections, &unit, functions).map_err(damaged)?;
    }
    Ok(Some(found.places(functions.len())))
}

fn damaged(error: gimli::Error) -> FormatError {
    FormatError::Corrupt(error.to_string())
}

/// What the entries of all units say. An entry is known by its offset in the section.
#[derive(Debug, Default)]
struct Found {
    /// Entries that describe one of the functions, with its place among them.
    described: HashMap<usize, usize>,
    /// Functions whose entry refers to another one for its name.
    refers: Vec<(usize, usize)>,
    /// How many inlined copies refer to each entry.
    copies: HashMap<usize, u64>,
}

impl Found {
    fn add(
        &mut self,
        sections: &Sections<'_>,
        unit: &UnitHeader<Slice<'_>>,
        functions: &[FunctionName<'_>],
    ) -> gimli::Result<()> {
        let abbreviations = unit.abbreviations(&sections.abbreviations)?;
        let start = match unit.offset() {
            gimli::UnitSectionOffset::DebugInfoOffset(DebugInfoOffset(start)) => start,
            gimli::UnitSectionOffset::DebugTypesOffset(_) => return Ok(()),
        };
        let mut base = DebugStrOffsetsBase::default_for_encoding_and_file(
            unit.encoding(),
            gimli::DwarfFileType::Main,
        );
        let mut entries = unit.entries_raw(&abbreviations, None)?;
        while !entries.is_empty() {
            let own = start + entries.next_offset().0;
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            let tag = abbreviation.tag();
            let is_unit = tag == gimli::DW_TAG_compile_unit;
            let is_function = tag == gimli::DW_TAG_subprogram;
            if !is_unit && !is_function && tag != gimli::DW_TAG_inlined_subroutine {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let (mut name, mut linkage, mut refers_to) = (None, None, None);
            for attribute in abbreviation.attributes() {
                let attribute = entries.read_attribute(*attribute)?;
                match attribute.name() {
                    gimli::DW_AT_str_offsets_base if is_unit => {
                        if let AttributeValue::DebugStrOffsetsBase(given) = attribute.value() {
                            base = given;
                        }
                    }
                    gimli::DW_AT_name if is_function => name = Some(attribute.value()),
                    gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                        linkage = Some(attribute.value());
                    }
                    gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                        refers_to = match attribute.value() {
                            AttributeValue::UnitRef(offset) => Some(start + offset.0),
                            AttributeValue::DebugInfoRef(offset) => Some(offset.0),
                            _ => refers_to,
                        };
                    }
                    _ => {}
                }
            }
            match refers_to {
                Some(other) if !is_function => *self.copies.entry(other).or_default() += 1,
                Some(other) => self.refers.push((own, other)),
                None => {}
            }
            if !is_function {
                continue;
            }
            let read = |value| sections.strings.read(value, unit, base);
            let linkage = linkage.and_then(read);
            if let Some(name) = name.and_then(read) {
                let is = |function: &FunctionName<'_>| is_named(function, name, linkage);
                if let Some(place) = functions.iter().position(is) {
                    self.described.insert(own, place);
                }
            }
        }
        Ok(())
    }

    fn places(mut self, functions: usize) -> Vec<u64> {
        // From a definition to its declaration, and from there to its abstract origin: two steps.
        for _ in 0..2 {
            for (own, other) in &self.refers {
                if let Some(place) = self.described.get(other).copied() {
                    self.described.insert(*own, place);
                }
            }
        }
        let mut places = vec![0; functions];
        for (entry, copies) in self.copies {
            if let Some(place) = self.described.get(&entry) {
                places[*place] += copies;
            }
        }
        places
    }
}

impl<'data> Strings<'data> {
    fn read(
        &self,
        value: AttributeValue<Slice<'data>>,
        unit: &UnitHeader<Slice<'data>>,
        base: DebugStrOffsetsBase,
    ) -> Option<&'data str> {
        let bytes = match value {
            AttributeValue::String(bytes) => bytes,
            AttributeValue::DebugStrRef(offset) => self.strings.get_str(offset).ok()?,
            AttributeValue::DebugLineStrRef(offset) => self.line_strings.get_str(offset).ok()?,
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let format = unit.encoding().format;
                let offset = self.offsets.get_str_offset(format, base, index).ok()?;
                self.strings.get_str(offset).ok()?
            }
            _ => return None,
        };
        str::from_utf8(bytes.slice()).ok()
    }
}

/// Whether DWARF's names are those of the function.
fn is_named(function: &FunctionName<'_>, name: &str, linkage: Option<&str>) -> bool {
    match linkage {
        None => name == function.symbol || name == function.shown,
        Some(linkage) if linkage == function.symbol => true,
        // Demangling takes some microseconds, and most names are of something else.
        Some(linkage) => {
            let bare = name.split_once('<').map_or(name, |(bare, _)| bare);
            function.shown.contains(bare) && demangle::is_written(linkage, function.shown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testbed::Testbed;
    use super::super::{Resolver, View};
    use super::*;

    fn places(path: &std::path::Path, names: &[&str]) -> Option<Vec<u64>> {
        let file = Resolver::new(View::Host).target(path.to_str().unwrap()).unwrap();
        let functions: Vec<_> =
            names.iter().map(|name| FunctionName { symbol: name, shown: name }).collect();
        inlined(&file, &functions, Duration::from_secs(60))
    }

    /// Check that each place of a C function is counted, of one with a symbol and of one without, and that
    /// a file without debug information gives no answer instead of 0.
    #[test]
    fn inlined_c_functions() {
        let source = "
            static inline int helper(int n) { return n * 3 + 1; }
            int shared(int n) { __asm__ volatile(\"\"); return n + 5; }
            __attribute__((noinline)) int a(int n) { __asm__ volatile(\"\"); return helper(n); }
            int main(int n, char **v) { return a(n) + shared(n) + shared(n + 1); }";
        let bed = Testbed::new("inlined");
        for dwarf in ["-gdwarf-4", "-gdwarf-5"] {
            let program = bed.c_program("p", source, &["-O2", dwarf]);
            let names = ["helper", "shared", "a", "main"];
            assert_eq!(places(&program, &names), Some(vec![1, 2, 0, 0]), "{dwarf}");
        }
        let program = bed.c_program("bare", source, &["-O2"]);
        assert_eq!(places(&program, &["helper"]), None);
    }

    /// Check that a C++ method is found by its name as people write it, with parameters and without.
    #[test]
    fn inlined_cpp_methods() {
        let source = "
            namespace shop { struct Cart { int n; int add(int k); }; int calls(Cart &c, int k); }
            inline __attribute__((always_inline)) int shop::Cart::add(int k) {
                __asm__ volatile(\"\"); return n += k;
            }
            __attribute__((noinline)) int shop::calls(Cart &c, int k) {
                return c.add(k) + c.add(k + 1) + c.add(k + 2);
            }
            int main(int n, char **) { shop::Cart c{n}; return shop::calls(c, n); }";
        let bed = Testbed::new("inlined-cpp");
        let program = bed.cpp_program("p", source, &["-O2", "-g"]);
        let names = ["shop::Cart::add", "shop::Cart::add(int)", "shop::calls"];
        assert_eq!(places(&program, &names[..1]), Some(vec![3]));
        assert_eq!(places(&program, &names[1..]), Some(vec![3, 0]));
    }
}
