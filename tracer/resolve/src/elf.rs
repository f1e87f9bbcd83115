//! The frame of an ELF file: is it one, for which machine, where its code is, its sections.
//!
//! Takes bytes through object's `ReadRef`, so that a file is read piece by piece and never mapped:
//! a mapped file that is cut while we look would kill us with SIGBUS. Gives [`Frame`]; must not
//! panic on any bytes, and must not trust a number in them.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader, SectionTable};
use object::read::{ReadRef, SectionIndex};

use super::address::{ElfAddr, FileOffset};

pub(super) type Header = FileHeader64<LittleEndian>;
pub(super) const ENDIAN: LittleEndian = LittleEndian;

/// A machine that faultline knows the calling convention of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// AMD64, Intel 64.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
}

impl Arch {
    /// This machine's.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// A part of the file that is loaded into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the file's address space.
    pub address: ElfAddr,
    /// Where it is in the file.
    pub offset: FileOffset,
    /// Bytes that come from the file; memory beyond them is zeros.
    pub file_bytes: u64,
    /// Whether it holds code.
    pub executable: bool,
    /// Whether the program may write to it.
    pub writable: bool,
}

impl Segment {
    /// Where in the file an address of this segment is.
    #[must_use]
    pub fn offset_of(&self, address: ElfAddr) -> Option<FileOffset> {
        let distance = address.0.checked_sub(self.address.0)?;
        if distance >= self.file_bytes {
            return None;
        }
        self.offset.0.checked_add(distance).map(FileOffset)
    }

    /// Which address of this segment an offset in the file is.
    #[must_use]
    pub fn address_of(&self, offset: FileOffset) -> Option<ElfAddr> {
        let distance = offset.0.checked_sub(self.offset.0)?;
        if distance >= self.file_bytes {
            return None;
        }
        self.address.0.checked_add(distance).map(ElfAddr)
    }
}

/// Why bytes are not a file whose functions can be probed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FormatError {
    NotElf,
    WrongKind(String),
    Corrupt(String),
}

impl From<object::read::Error> for FormatError {
    fn from(error: object::read::Error) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// An ELF file's headers.
#[derive(Debug)]
pub(super) struct Frame<'data, R: ReadRef<'data>> {
    pub(super) data: R,
    pub(super) arch: Arch,
    pub(super) entry: ElfAddr,
    pub(super) segments: Vec<Segment>,
    pub(super) sections: SectionTable<'data, Header, R>,
    pub(super) dynamic: Option<&'data elf::ProgramHeader64<LittleEndian>>,
    notes: Vec<&'data elf::ProgramHeader64<LittleEndian>>,
    interpreter: Option<&'data elf::ProgramHeader64<LittleEndian>>,
}

impl<'data, R: ReadRef<'data>> Frame<'data, R> {
    /// Reads the headers of a 64-bit little-endian program or library of either known machine.
    pub(super) fn read(data: R) -> Result<Self, FormatError> {
        check_ident(data)?;
        let header = Header::parse(data)?;
        let arch = arch(header)?;
        check_type(header)?;
        let mut segments = Vec::new();
        let (mut notes, mut interpreter, mut dynamic) = (Vec::new(), None, None);
        for segment in header.program_headers(ENDIAN, data)? {
            match segment.p_type(ENDIAN) {
                elf::PT_LOAD => segments.push(Segment {
                    address: ElfAddr(segment.p_vaddr(ENDIAN)),
                    offset: FileOffset(segment.p_offset(ENDIAN)),
                    file_bytes: segment.p_filesz(ENDIAN),
                    executable: segment.p_flags(ENDIAN).contains(elf::PF_X),
                    writable: segment.p_flags(ENDIAN).contains(elf::PF_W),
                }),
                elf::PT_DYNAMIC => dynamic = Some(segment),
                elf::PT_NOTE => notes.push(segment),
                elf::PT_INTERP => interpreter = Some(segment),
                _ => {}
            }
        }
        let sections = header.sections(ENDIAN, data)?;
        let entry = ElfAddr(header.e_entry(ENDIAN));
        Ok(Self { data, arch, entry, segments, sections, dynamic, notes, interpreter })
    }

    /// Refuses a file that has lost its code: cut short, or split off as debug information.
    pub(super) fn check_code(&self) -> Result<(), FormatError> {
        let is_code = |section: &elf::SectionHeader64<LittleEndian>| {
            section.sh_flags(ENDIAN).contains(elf::SHF_EXECINSTR)
        };
        let mut code = self.sections.iter().filter(|section| is_code(section)).peekable();
        if code.peek().is_some() && code.all(|section| section.sh_type(ENDIAN) == elf::SHT_NOBITS) {
            let reason = "it holds only debug information (probe the program that it belongs to)";
            return Err(FormatError::WrongKind(reason.to_owned()));
        }
        let length = self.data.len().unwrap_or(0);
        for segment in self.segments.iter().filter(|segment| segment.executable) {
            let end = segment.offset.0.saturating_add(segment.file_bytes);
            if end > length {
                return Err(FormatError::Corrupt(format!(
                    "its code should end at {end:#x}, but the file has only {length:#x} bytes"
                )));
            }
        }
        Ok(())
    }

    /// The path of the dynamic loader that the file asks for.
    pub(super) fn interpreter(&self) -> Option<PathBuf> {
        let bytes = self.interpreter?.data(ENDIAN, self.data).ok()?;
        let path = bytes.split(|&byte| byte == 0).next().filter(|path| !path.is_empty())?;
        Some(PathBuf::from(OsStr::from_bytes(path)))
    }

    /// A section's bytes; `None` if there is no such section or it has none in the file.
    pub(super) fn section(&self, name: &str) -> Result<Option<&'data [u8]>, FormatError> {
        let Some((_, section)) = self.sections.section_by_name(ENDIAN, name.as_bytes()) else {
            return Ok(None);
        };
        Ok(Some(section.data(ENDIAN, self.data)?).filter(|data| !data.is_empty()))
    }

    /// Whether there is a section of this name.
    pub(super) fn has_section(&self, name: &str) -> bool {
        self.sections.section_by_name(ENDIAN, name.as_bytes()).is_some()
    }

    /// A section's bytes by its number.
    pub(super) fn section_at(&self, index: SectionIndex) -> Result<&'data [u8], FormatError> {
        Ok(self.sections.section(index)?.data(ENDIAN, self.data)?)
    }

    /// The linker's hash over the file's contents.
    pub(super) fn build_id(&self) -> Option<&'data [u8]> {
        let in_segment = |segment: &&elf::ProgramHeader64<LittleEndian>| {
            build_id_note(segment.notes(ENDIAN, self.data).ok().flatten()?)
        };
        let in_section = |section: &elf::SectionHeader64<LittleEndian>| {
            build_id_note(section.notes(ENDIAN, self.data).ok().flatten()?)
        };
        // A separate debug file has the note as a section only.
        (self.notes.iter().find_map(in_segment))
            .or_else(|| self.sections.iter().find_map(in_section))
    }

    /// Strings of the dynamic section: `DT_SONAME`, `DT_NEEDED`.
    pub(super) fn dynamic_strings(&self, tag: elf::DynamicTag) -> Vec<String> {
        let Ok(table) = self.sections.dynamic_table(ENDIAN, self.data) else { return Vec::new() };
        let with_tag = table.iter().filter(|entry| entry.tag == tag);
        let strings = with_tag.filter_map(|entry| table.string(entry).ok());
        strings.map(|string| String::from_utf8_lossy(string).into_owned()).collect()
    }
}

fn build_id_note<'data>(mut notes: NoteIterator<'data, Header>) -> Option<&'data [u8]> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(ENDIAN) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc()).filter(|id| !id.is_empty());
        }
    }
    None
}

/// Magic, class and byte order, before the header is read as one class.
fn check_ident<'data, R: ReadRef<'data>>(data: R) -> Result<(), FormatError> {
    let magic = data.read_bytes_at(0, 4).map_err(|()| FormatError::NotElf)?;
    if magic != elf::ELFMAG {
        return Err(FormatError::NotElf);
    }
    let header = data
        .read_bytes_at(0, 20)
        .map_err(|()| FormatError::Corrupt("it ends inside its first header".to_owned()))?;
    let (class, order) = (elf::FileClass(header[4]), elf::DataEncoding(header[5]));
    let machine = match order {
        elf::ELFDATA2MSB => u16::from_be_bytes([header[18], header[19]]),
        _ => u16::from_le_bytes([header[18], header[19]]),
    };
    let machine = machine_name(elf::Machine(machine));
    if class == elf::ELFCLASS32 {
        return Err(FormatError::WrongKind(format!("it is a 32-bit file, for {machine}")));
    }
    if order == elf::ELFDATA2MSB {
        return Err(FormatError::WrongKind(format!("it is a big-endian file, for {machine}")));
    }
    Ok(())
}

fn arch(header: &Header) -> Result<Arch, FormatError> {
    let arch = match header.e_machine(ENDIAN) {
        elf::EM_X86_64 => Arch::X86_64,
        elf::EM_AARCH64 => Arch::Aarch64,
        other => {
            return Err(FormatError::WrongKind(format!("it is for {}", machine_name(other))));
        }
    };
    if arch == Arch::HOST {
        Ok(arch)
    } else {
        Err(FormatError::WrongKind(format!("it is for {arch}, and this machine is {}", Arch::HOST)))
    }
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "ARM".to_owned(),
        elf::EM_X86_64 => Arch::X86_64.to_string(),
        elf::EM_AARCH64 => Arch::Aarch64.to_string(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "PowerPC 64".to_owned(),
        elf::EM_S390 => "s390".to_owned(),
        elf::EM_MIPS => "MIPS".to_owned(),
        elf::EM_BPF => "BPF".to_owned(),
        other => format!("machine number {}", other.0),
    }
}

fn check_type(header: &Header) -> Result<(), FormatError> {
    let reason = match header.e_type(ENDIAN) {
        elf::ET_EXEC | elf::ET_DYN => return Ok(()),
        elf::ET_REL => "it is a relocatable object (probe the program it is linked into)",
        elf::ET_CORE => "it is a core dump",
        _ => "it is neither a program nor a library",
    };
    Err(FormatError::WrongKind(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::testbed::Testbed;
    use super::*;

    fn reason(bytes: &[u8]) -> String {
        match Frame::read(bytes).map(|_| ()) {
            Err(FormatError::WrongKind(reason) | FormatError::Corrupt(reason)) => reason,
            other => format!("{other:?}"),
        }
    }

    /// Check that each kind of file that cannot be probed has its own error.
    #[test]
    fn wrong_kinds_are_named() {
        let bed = Testbed::new("elf-kinds");
        let program =
            std::fs::read(bed.c_program("p", "int main(void) { return 0; }", &[])).unwrap();
        assert!(Frame::read(&program[..]).is_ok());
        let patched = |changes: &[(usize, u8)]| {
            let mut bytes = program.clone();
            for &(at, value) in changes {
                bytes[at] = value;
            }
            bytes
        };
        assert_eq!(reason(&patched(&[(4, 1), (18, 3)])), "it is a 32-bit file, for x86");
        assert_eq!(
            reason(&patched(&[(5, 2), (18, 0), (19, 22)])),
            "it is a big-endian file, for s390"
        );
        assert_eq!(reason(&patched(&[(18, 243), (19, 0)])), "it is for RISC-V");
        assert!(reason(&patched(&[(16, 1)])).contains("relocatable"));
        assert_eq!(reason(&patched(&[(16, 4)])), "it is a core dump");
        assert_eq!(reason(&program[..12]), "it ends inside its first header");
        assert_eq!(Frame::read(&b"#!/bin/sh"[..]).unwrap_err(), FormatError::NotElf);
        assert_eq!(Frame::read(&b""[..]).unwrap_err(), FormatError::NotElf);
    }
}
