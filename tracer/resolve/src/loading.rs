//! What a file's headers say of its code: where it is, where it is sure to be called, and which of its
//! bytes the loader changes.
//!
//! Takes a [`Frame`]; gives values. Guesses nothing: what the headers do not say is not in them.

use std::ops::Range;

use object::elf;
use object::read::ReadRef;
use object::read::elf::{ProgramHeader, SectionHeader};

use super::address::ElfAddr;
use super::elf::{Arch, ENDIAN, Frame};

/// What is known about a file's code without decoding it.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// Sections with code, by rising address. Empty if the file has no section headers.
    code: Vec<Range<u64>>,
    /// Where the loader and the kernel call: the entry, `DT_INIT`, `DT_FINI`.
    called: Vec<ElfAddr>,
    /// Bytes of code that the loader writes to (text relocations), by rising address.
    relocated: Vec<Range<u64>>,
}

impl Loading {
    pub(super) fn of<'data, R: ReadRef<'data>>(frame: &Frame<'data, R>) -> Self {
        let mut code: Vec<_> = (frame.sections.iter())
            .filter(|section| {
                let flags = section.sh_flags(ENDIAN);
                flags.contains(elf::SHF_EXECINSTR) && flags.contains(elf::SHF_ALLOC)
            })
            .map(|section| {
                let start = section.sh_addr(ENDIAN);
                start..start.saturating_add(section.sh_size(ENDIAN))
            })
            .collect();
        code.sort_unstable_by_key(|section| section.start);
        let dynamic = Dynamic::of(frame);
        let called = [frame.entry].into_iter().chain(dynamic.called.iter().copied()).collect();
        let relocated = if dynamic.changes_code { relocated(frame) } else { Vec::new() };
        Self { code, called, relocated }
    }

    /// Whether the sections leave room for code at an address.
    pub(super) fn may_be_code(&self, address: ElfAddr) -> bool {
        self.code.is_empty() || self.code.iter().any(|section| section.contains(&address.0))
    }

    pub(super) fn is_called(&self, address: ElfAddr) -> bool {
        self.called.contains(&address)
    }

    /// Whether the loader changes any of these bytes.
    pub(super) fn is_relocated(&self, address: ElfAddr, bytes: u64) -> bool {
        let end = address.0.saturating_add(bytes);
        // Relocations do not overlap, so their ends rise as well.
        let first = self.relocated.partition_point(|place| place.end <= address.0);
        self.relocated.get(first).is_some_and(|place| place.start < end)
    }
}

/// What the dynamic section says about the code.
#[derive(Debug, Default)]
struct Dynamic {
    /// Addresses and sizes of the tables of relocations.
    tables: [(u64, u64); 2],
    called: Vec<ElfAddr>,
    changes_code: bool,
}

impl Dynamic {
    fn of<'data, R: ReadRef<'data>>(frame: &Frame<'data, R>) -> Self {
        let mut found = Self::default();
        let Some(dynamic) = frame.dynamic else { return found };
        let Ok(Some(entries)) = dynamic.dynamic(ENDIAN, frame.data) else { return found };
        for entry in entries {
            let value = entry.d_val.get(ENDIAN);
            match entry.d_tag.get(ENDIAN) {
                elf::DT_NULL => break,
                elf::DT_RELA => found.tables[0].0 = value,
                elf::DT_RELASZ => found.tables[0].1 = value,
                elf::DT_JMPREL => found.tables[1].0 = value,
                elf::DT_PLTRELSZ => found.tables[1].1 = value,
                elf::DT_INIT | elf::DT_FINI => found.called.push(ElfAddr(value)),
                elf::DT_TEXTREL => found.changes_code = true,
                elf::DT_FLAGS => found.changes_code |= value & TEXTREL != 0,
                _ => {}
            }
        }
        // Code that is writable anyway needs no such mark.
        found.changes_code |= frame.segments.iter().any(|part| part.executable && part.writable);
        found
    }
}

/// `DF_TEXTREL`
const TEXTREL: u64 = 4;

/// Every relocation that the loader applies, but for those of relative addresses in data (`DT_RELR`).
pub(super) fn relocations<'data, R: ReadRef<'data>>(frame: &Frame<'data, R>) -> Vec<Entry> {
    let mut all = Vec::new();
    for (address, bytes) in Dynamic::of(frame).tables {
        let offset = frame.segments.iter().find_map(|part| part.offset_of(ElfAddr(address)));
        let Some(offset) = offset else { continue };
        let count = usize::try_from(bytes).unwrap_or(0) / size_of::<Entry>();
        let Ok(entries) = frame.data.read_slice_at::<Entry>(offset.0, count) else { continue };
        all.extend_from_slice(entries);
    }
    all
}

/// The places in code that relocations name.
fn relocated<'data, R: ReadRef<'data>>(frame: &Frame<'data, R>) -> Vec<Range<u64>> {
    let mut places = Vec::new();
    for entry in relocations(frame) {
        let place = ElfAddr(entry.r_offset.get(ENDIAN));
        let in_code =
            |part: &super::elf::Segment| part.executable && part.offset_of(place).is_some();
        if frame.segments.iter().any(in_code) {
            let bytes = written_bytes(frame.arch, entry.r_type(ENDIAN, false).0);
            places.push(place.0..place.0.saturating_add(bytes));
        }
    }
    places.sort_unstable_by_key(|place| place.start);
    places
}

pub(super) type Entry = elf::Rela64<object::LittleEndian>;

/// How many bytes a dynamic relocation changes.
fn written_bytes(arch: Arch, kind: u32) -> u64 {
    /// `R_X86_64_PC32`, `PLT32`, `32`, `32S`, `DTPOFF32`, `TPOFF32`.
    const OF_FOUR_BYTES: [u32; 6] = [2, 4, 10, 11, 21, 23];
    if arch == Arch::X86_64 && OF_FOUR_BYTES.contains(&kind) { 4 } else { 8 }
}

#[cfg(test)]
mod tests {
    use object::read::ReadCache;

    use super::super::testbed::Testbed;
    use super::*;

    /// Check that the bytes that text relocations change are known, and no others; and
    /// that a file without them has none.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn relocated_code_is_known() {
        let bed = Testbed::new("loading");
        let source = r#"
            long counter;
            __asm__(".globl wide\n.type wide,@function\nwide: movabs $counter, %rax\nret\n");
            int function(int n) { return n + 1; }"#;
        let flags = ["-shared", "-fPIC", "-Wl,-z,notext", "-Wl,--no-warnings"];
        let changed = bed.c_program("changed.so", source, &flags);
        let whole = bed.c_program("whole.so", "int function(int n) { return n; }", &flags[..2]);
        let loading = |path: &std::path::Path| {
            let file = std::fs::File::open(path).unwrap();
            let cache = ReadCache::new(&file);
            let frame = Frame::read(&cache).unwrap();
            let mut symbols = super::super::symbols::Symbols::default();
            symbols.add(&frame, elf::SHT_SYMTAB).unwrap();
            let of = |name: &str| {
                symbols.named(name.as_bytes()).next().map(|id| symbols.get(id).address)
            };
            (Loading::of(&frame), of("wide"), of("function"))
        };
        let (loading_of, wide, function) = loading(&changed);
        let changes = |at: Option<ElfAddr>, offset, bytes| {
            loading_of.is_relocated(ElfAddr(at.unwrap().0 + offset), bytes)
        };
        let bytes = |at| (0..12).filter(|offset| changes(at, *offset, 1)).collect::<Vec<_>>();
        assert_eq!(bytes(wide), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(bytes(function), []);
        // The whole instruction counts.
        assert!(changes(wide, 0, 10) && !changes(wide, 10, 1));
        assert!(loading(&whole).0.relocated.is_empty());
        assert!(loading_of.may_be_code(wide.unwrap()) && !loading_of.may_be_code(ElfAddr(0)));
    }
}
