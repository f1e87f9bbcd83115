//! Whether a program puts a copy of its own code in place of it, as programs do that want their code on
//! huge pages.
//!
//! A copy that is made while breakpoints stand contains them, and the kernel knows nothing of those: the
//! first that is executed ends the program. Takes a [`Frame`]; looks for calls of `mremap` and `mmap` whose
//! flags say that the new mapping replaces what is there, shortly after an address of the program's own
//! code was taken. It must be certain rather than complete: what computes the address in another way is not
//! found.

use std::fs::File;

use object::elf;
use object::read::elf::{SectionHeader, Sym, SymbolTable};
use object::read::{ReadCache, ReadRef, SymbolIndex};

use super::elf::{Arch, ENDIAN, FormatError, Frame, Header};
use super::loading::relocations;

/// When a program replaces its code by a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopiesCode {
    /// Whenever it runs, for all that is known.
    Always,
    /// If it is asked to, as node is by `--use-largepages=on`.
    OnRequest,
}

/// Where code lives that must not be on the pages that it replaces: a convention of Intel's library for
/// code on huge pages, which node follows.
const STUB_SECTIONS: [&str; 2] = ["lpstub", ".lpstub"];

pub(super) fn copies_code(file: &File) -> Option<CopiesCode> {
    let cache = ReadCache::new(file);
    let frame = Frame::read(&cache).ok()?;
    if STUB_SECTIONS.iter().any(|name| frame.has_section(name)) {
        return Some(CopiesCode::OnRequest);
    }
    if frame.arch != Arch::X86_64 {
        return None;
    }
    let slots = slots(&frame).ok()?;
    if slots.is_empty() {
        return None;
    }
    let code: Vec<_> = code(&frame).collect();
    let stubs = stubs(&code, &slots);
    let replaces = |piece: &Piece<'_>| piece.replaces_code(&code, &slots, &stubs);
    code.iter().any(replaces).then_some(CopiesCode::Always)
}

/// A function that can replace a mapping, with the flags that say so: `MREMAP_MAYMOVE | MREMAP_FIXED`, and
/// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED`.
#[derive(Debug, Clone, Copy)]
struct Replacer {
    flags: u32,
}

impl Replacer {
    fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"mremap" => Some(Self { flags: 0x03 }),
            b"mmap" | b"mmap64" => Some(Self { flags: 0x32 }),
            _ => None,
        }
    }
}

/// Where the addresses of such functions are put by the loader.
fn slots<'data, R: ReadRef<'data>>(
    frame: &Frame<'data, R>,
) -> Result<Vec<(u64, Replacer)>, FormatError> {
    let symbols: SymbolTable<'data, Header, R> =
        frame.sections.symbols(ENDIAN, frame.data, elf::SHT_DYNSYM)?;
    let is_replacer = |(index, symbol): (SymbolIndex, &elf::Sym64<object::LittleEndian>)| {
        let name = symbol.name(ENDIAN, symbols.strings()).ok()?;
        Some((index, Replacer::named(name)?))
    };
    let wanted: Vec<_> = symbols.enumerate().filter_map(is_replacer).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let found = relocations(frame).into_iter().filter_map(|entry| {
        let symbol = SymbolIndex(entry.r_sym(ENDIAN, false) as usize);
        let (_, replacer) = wanted.iter().find(|(index, _)| *index == symbol)?;
        Some((entry.r_offset.get(ENDIAN), *replacer))
    });
    Ok(found.collect())
}

/// A section of code.
#[derive(Debug, Clone, Copy)]
struct Piece<'data> {
    address: u64,
    code: &'data [u8],
    /// It holds only stubs for calls into libraries.
    is_linkage: bool,
}

fn code<'data, R: ReadRef<'data>>(frame: &Frame<'data, R>) -> impl Iterator<Item = Piece<'data>> {
    frame.sections.iter().filter_map(|section| {
        let is_code = section.sh_flags(ENDIAN).contains(elf::SHF_EXECINSTR);
        let name = frame.sections.section_name(ENDIAN, section).unwrap_or_default();
        let code = is_code.then(|| section.data(ENDIAN, frame.data).ok()).flatten()?;
        let is_linkage = name.starts_with(b".plt");
        Some(Piece { address: section.sh_addr(ENDIAN), code, is_linkage })
    })
}

/// The stubs that jump to where such a slot says.
fn stubs(code: &[Piece<'_>], slots: &[(u64, Replacer)]) -> Vec<(u64, Replacer)> {
    let mut stubs = Vec::new();
    for piece in code {
        for (at, slot) in piece.relative(&[0xff, 0x25]) {
            let Some((_, replacer)) = slots.iter().find(|(address, _)| *address == slot) else {
                continue;
            };
            // The jump may have a prefix, and `endbr64` before it.
            stubs.extend([0, 1, 4, 5].map(|before| (at.wrapping_sub(before), *replacer)));
        }
    }
    stubs
}

impl<'data> Piece<'data> {
    /// Each place where these bytes stand before a distance of four bytes, and where that leads.
    fn relative<'a>(&self, opcode: &'a [u8]) -> impl Iterator<Item = (u64, u64)> + use<'a, 'data> {
        let (address, code) = (self.address, self.code);
        code.windows(opcode.len() + 4).enumerate().filter_map(move |(at, bytes)| {
            let distance = i32::from_le_bytes(*bytes.strip_prefix(opcode)?.first_chunk()?);
            let end = address.wrapping_add((at + bytes.len()) as u64);
            Some((address.wrapping_add(at as u64), end.wrapping_add_signed(distance.into())))
        })
    }

    fn replaces_code(
        &self,
        code: &[Piece<'_>],
        slots: &[(u64, Replacer)],
        stubs: &[(u64, Replacer)],
    ) -> bool {
        let calls = [(&[0xe8][..], stubs), (&[0xff, 0x15][..], slots)];
        calls.into_iter().any(|(opcode, targets)| {
            self.relative(opcode).any(|(at, target)| {
                targets
                    .iter()
                    .filter(|(address, _)| *address == target)
                    .any(|(_, replacer)| self.is_over_code(at, *replacer, code))
            })
        })
    }

    /// Whether what comes before a call sets these flags and takes an address of code.
    fn is_over_code(&self, call: u64, replacer: Replacer, code: &[Piece<'_>]) -> bool {
        const SETS_FLAGS_WITHIN: usize = 64;
        const TAKES_ADDRESS_WITHIN: usize = 256;
        let Ok(end) = usize::try_from(call - self.address) else { return false };
        let before = |bytes: usize| &self.code[end.saturating_sub(bytes)..end];
        // mov ecx, FLAGS: the fourth argument of both.
        let flags = [&[0xb9][..], &replacer.flags.to_le_bytes()].concat();
        if !before(SETS_FLAGS_WITHIN).windows(flags.len()).any(|bytes| bytes == flags) {
            return false;
        }
        let is_code = |address: u64| {
            let holds = |piece: &&Piece<'_>| {
                let distance = address.checked_sub(piece.address);
                !piece.is_linkage && distance.is_some_and(|at| at < piece.code.len() as u64)
            };
            code.iter().any(|piece| holds(&piece))
        };
        let start = end.saturating_sub(TAKES_ADDRESS_WITHIN);
        let bytes = before(TAKES_ADDRESS_WITHIN);
        let part = Piece { address: self.address + start as u64, code: bytes, is_linkage: false };
        // lea REGISTER, [rip+DISTANCE]
        let leas = (0..8).flat_map(|register: u8| {
            let form = 0x05 | register << 3;
            [[0x48, 0x8d, form], [0x4c, 0x8d, form]]
        });
        leas.into_iter().any(|lea| part.relative(&lea).any(|(_, address)| is_code(address)))
            || takes_fixed_address(bytes, &is_code)
    }
}

/// mov REGISTER, ADDRESS: in a program that is loaded where its file says. Smaller numbers are lengths.
fn takes_fixed_address(bytes: &[u8], is_code: &dyn Fn(u64) -> bool) -> bool {
    const LOWEST: u64 = 0x1_0000;
    bytes.windows(5).any(|bytes| match bytes {
        [0xb8..=0xbf, address @ ..] => {
            let address = address.first_chunk().map(|bytes| u32::from_le_bytes(*bytes).into());
            address.is_some_and(|address| address >= LOWEST && is_code(address))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testbed::Testbed;
    use super::*;

    const REPLACES: &str = r#"
        #define _GNU_SOURCE
        #include <sys/mman.h>
        __attribute__((noinline, aligned(4096))) int f(int n) { return n + 1; }
        int main(int argc, char **argv) {
            void *copy = argv[0], *page = WHERE;
            return mremap(copy, 4096, 4096, FLAGS, page) == page && f(argc);
        }"#;

    fn copies(bed: &Testbed, name: &str, place: &str, flags: &[&str]) -> Option<CopiesCode> {
        let source = REPLACES.replace("WHERE", place);
        let program = bed.c_program(name, &source, flags);
        copies_code(&File::open(program).unwrap())
    }

    /// Check that a program is recognised that maps something over its own code, however it is linked; and
    /// one that does so elsewhere, or lets the kernel choose the place, is not.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn replacing_the_own_code_is_recognised() {
        let bed = Testbed::new("copies");
        let fixed = "-DFLAGS=MREMAP_MAYMOVE|MREMAP_FIXED";
        for (name, kind) in [("pie", "-pie"), ("fixed", "-no-pie"), ("direct", "-fno-plt")] {
            let found = copies(&bed, name, "(void *)f", &[fixed, kind]);
            assert_eq!(found, Some(CopiesCode::Always), "{kind}");
            assert_eq!(copies(&bed, name, "argv[1]", &[fixed, kind]), None, "{kind}");
            let moving = "-DFLAGS=MREMAP_MAYMOVE";
            assert_eq!(copies(&bed, name, "(void *)f", &[moving, kind]), None, "{kind}");
        }
    }

    /// Check that a program with code that must not be moved, as node has it, is one that copies on request.
    #[test]
    fn huge_pages_on_request_are_recognised() {
        let bed = Testbed::new("lpstub");
        let source = r#"
            __attribute__((section("lpstub"))) int stub(void) { return 0; }
            int main(void) { return stub(); }"#;
        let program = bed.c_program("p", source, &[]);
        assert_eq!(copies_code(&File::open(program).unwrap()), Some(CopiesCode::OnRequest));
    }
}
