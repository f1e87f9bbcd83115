//! Where unwind information says that functions are.
//!
//! A compiler writes an entry (FDE) of `.eh_frame` for each function, and so does an assembler where the
//! source asks for it. A label without a type at such a place is a function, not data. Takes a file; gives
//! addresses and sizes. A damaged section ends the walk: what was read so far is still true.

use std::fs::File;

use object::read::ReadCache;
use object::read::elf::SectionHeader;

use super::address::ElfAddr;
use super::elf::{ENDIAN, Frame};

/// The first address of each FDE and how many bytes it covers, by rising address.
pub(super) fn functions(file: &File) -> Vec<(ElfAddr, u64)> {
    let cache = ReadCache::new(file);
    let Ok(frame) = Frame::read(&cache) else { return Vec::new() };
    let Some((_, section)) = frame.sections.section_by_name(ENDIAN, b".eh_frame") else {
        return Vec::new();
    };
    let Ok(bytes) = section.data(ENDIAN, frame.data) else { return Vec::new() };
    let mut functions = in_section(bytes, section.sh_addr(ENDIAN));
    functions.sort_unstable();
    functions.dedup_by_key(|(start, _)| *start);
    functions
}

/// How the addresses of a CIE's entries are written (`DW_EH_PE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Encoding(u8);

fn in_section(section: &[u8], address: u64) -> Vec<(ElfAddr, u64)> {
    let mut functions = Vec::new();
    let mut cie: Option<(usize, Encoding)> = None;
    let mut at = 0;
    while let Some((body, end)) = entry(section, at) {
        let Some(id) = u32_at(section, body) else { break };
        // An FDE names its CIE by the distance from here.
        if id != 0
            && let Some(owner) = body.checked_sub(id as usize)
        {
            if cie.is_none_or(|(at, _)| at != owner) {
                cie = encoding(section, owner).map(|encoding| (owner, encoding));
            }
            if let Some((_, encoding)) = cie
                && let Some(start) = encoding.read(section, body + 4, address)
                && let Some(bytes) = encoding.bytes()
                && let Some(size) = encoding.number(section, body + 4 + bytes)
            {
                functions.push((ElfAddr(start), size));
            }
        }
        at = end;
    }
    functions
}

/// Where an entry's contents begin and end; `None` at the end of the section.
fn entry(section: &[u8], at: usize) -> Option<(usize, usize)> {
    let (body, bytes) = match u32_at(section, at)? {
        0 => return None,
        u32::MAX => (at + 12, usize::try_from(u64_at(section, at + 4)?).ok()?),
        bytes => (at + 4, bytes as usize),
    };
    let end = body.checked_add(bytes)?;
    (end <= section.len()).then_some((body, end))
}

/// How the entries of the CIE at `at` write addresses.
fn encoding(section: &[u8], at: usize) -> Option<Encoding> {
    /// `DW_EH_PE_absptr`
    const ABSOLUTE: Encoding = Encoding(0);
    let (body, end) = entry(section, at)?;
    let cie = section.get(body..end)?;
    // Its id, 0, and its version.
    let rest = cie.get(5..)?;
    let text = rest.iter().position(|&byte| byte == 0)?;
    let (augmentation, rest) = (&rest[..text], &rest[text + 1..]);
    let Some(letters) = augmentation.strip_prefix(b"z") else { return Some(ABSOLUTE) };
    // The alignments of code and data, the register of the return address, the length of what follows.
    let mut rest = rest;
    for _ in 0..4 {
        let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
        rest = &rest[end + 1..];
    }
    for letter in letters {
        match letter {
            b'R' => return rest.first().map(|&byte| Encoding(byte)),
            b'L' => rest = rest.get(1..)?,
            b'P' => {
                let personality = Encoding(*rest.first()?);
                rest = rest.get(1 + personality.bytes()?..)?;
            }
            // Without data: a signal frame.
            b'S' | b'B' | b'G' => {}
            _ => return None,
        }
    }
    Some(ABSOLUTE)
}

impl Encoding {
    /// How long such a value is; `None` for what no linker writes here.
    fn bytes(self) -> Option<usize> {
        match self.0 & 0x0f {
            0x00 | 0x04 | 0x0c => Some(8),
            0x03 | 0x0b => Some(4),
            0x02 | 0x0a => Some(2),
            _ => None,
        }
    }

    /// The number that is written at `at`, whatever it is relative to.
    fn number(self, section: &[u8], at: usize) -> Option<u64> {
        let is_signed = self.0 & 0x08 != 0;
        match self.bytes()? {
            4 if is_signed => Some(u32_at(section, at)? as i32 as i64 as u64),
            4 => Some(u64::from(u32_at(section, at)?)),
            8 => u64_at(section, at),
            _ => None,
        }
    }

    /// The address that is written at `at` of a section that is loaded at `address`.
    fn read(self, section: &[u8], at: usize, address: u64) -> Option<u64> {
        /// `DW_EH_PE_pcrel`
        const RELATIVE: u8 = 0x10;
        let value = self.number(section, at)?;
        match self.0 & 0xf0 {
            0 => Some(value),
            RELATIVE => Some(address.wrapping_add(at as u64).wrapping_add(value)),
            _ => None,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::super::testbed::Testbed;
    use super::*;
    use crate::{Resolver, View};

    /// Check that a compiler's function is found with its size, and a label of assembly is not, unless it
    /// has unwind information.
    #[test]
    fn functions_have_unwind_information() {
        let bed = Testbed::new("unwound");
        let source = r#"
            int f(int n) { return n + 1; }
            __asm__(".globl plain\nplain: ret\n"
                    ".globl told\ntold: .cfi_startproc\nnop\nret\n.cfi_endproc\n");
            int main(void) { return f(1); }"#;
        let program = bed.c_program("p", source, &[]);
        let mut resolver = Resolver::new(View::Host);
        let file = resolver.target(program.to_str().unwrap()).unwrap();
        let address = |name: &str| {
            let id = file.symbols.named(name.as_bytes()).next().unwrap();
            let symbol = file.symbols.get(id);
            (symbol.address, symbol.size_bytes)
        };
        let found = functions(&File::open(&program).unwrap());
        assert!(found.contains(&address("f")), "{found:?}");
        assert!(found.contains(&(address("told").0, 2)), "{found:?}");
        assert!(!found.iter().any(|(start, _)| *start == address("plain").0), "{found:?}");
        assert!(file.is_function(address("f").0) && file.is_function(address("told").0));
        assert!(file.is_function(address("_start").0));
        assert!(!file.is_function(address("plain").0));
    }

    /// Check that a section that is cut, or full of anything, ends the walk and nothing else.
    #[test]
    fn damaged_sections_end_the_walk() {
        let mut section = vec![0x14, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 0x10, 1, 0x1b];
        section.resize(24, 0);
        // An FDE: its CIE is 28 bytes before; 0x100 bytes on; 8 bytes long.
        section.extend([0x10, 0, 0, 0, 28, 0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        let whole = in_section(&section, 0x1000);
        assert_eq!(whole, [(ElfAddr(0x1000 + 32 + 0x100), 8)]);
        for end in 0..section.len() {
            assert!(in_section(&section[..end], 0x1000).len() <= 1);
        }
        for byte in 0..section.len() {
            let mut damaged = section.clone();
            damaged[byte] = 0xff;
            in_section(&damaged, 0x1000);
        }
    }
}
