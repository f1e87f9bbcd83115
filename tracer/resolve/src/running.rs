//! Where a process runs other code than the file says.
//!
//! Takes a process and places in a file's code; gives those whose code the process has changed, made
//! writable or replaced by a copy. The kernel puts a breakpoint into the page of the file, and runs the
//! instruction as it is in the *file*: where a process has overwritten it (an inline hook, a program that
//! patches itself), the first hit would execute what is not there any more.
//!
//! Cheap for thousands of places: `pagemap` tells which pages are still those of the file, and only the
//! others are compared. Nothing is faulted in. Where `/proc` does not answer, nothing is known.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::address::{FileOffset, RuntimeAddr};
use super::object_file::ObjectFile;
use super::process::{Mapping, MappingSource, Pid};

/// How a process's code differs from the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// The bytes are others.
    Changed,
    /// The bytes are in a mapping that the process may write to, where the kernel sets no breakpoints.
    Writable,
    /// A mapping that is not the file's has taken their place: a copy, for huge pages.
    Replaced,
}

/// Where a breakpoint is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodePlace {
    /// The first byte that matters: of the function, if the breakpoint is moved inside it.
    pub first: FileOffset,
    /// The instruction under the breakpoint.
    pub at: FileOffset,
}

/// How long the first instruction of some code is.
pub type InstructionBytes<'a> = &'a dyn Fn(&[u8]) -> u64;

/// The places whose code is another one in the process, as indices of `places`, which are quickest to look
/// at by rising offset. `maps` are the process's mappings.
#[must_use]
pub fn differences(
    pid: Pid,
    maps: &[Mapping],
    file: &ObjectFile,
    places: &[CodePlace],
    instruction_bytes: InstructionBytes<'_>,
) -> Vec<(usize, Difference)> {
    let of_file: Vec<_> = maps.iter().filter(|mapping| shows(pid, mapping, file)).collect();
    if of_file.is_empty() {
        return Vec::new();
    }
    let mut memory = Memory::of(pid);
    let mut found = Vec::new();
    let loads = loads(&of_file, file);
    for (index, place) in places.iter().enumerate() {
        let here =
            of_file.iter().filter(|mapping| mapping.permissions.execute && holds(mapping, place));
        let mut worst = None;
        for mapping in here {
            let difference = if mapping.permissions.write {
                Some(Difference::Writable)
            } else {
                let start = mapping.start.0 + (place.first.0 - mapping.offset.0);
                let is_changed = memory.is_changed(file, place, start, maps, instruction_bytes);
                is_changed.then_some(Difference::Changed)
            };
            worst = worst.into_iter().chain(difference).min();
        }
        let replaced = || loads.iter().any(|load| is_replaced(maps, &of_file, load, file, place));
        let difference = worst.or_else(|| replaced().then_some(Difference::Replaced));
        found.extend(difference.map(|difference| (index, difference)));
    }
    found
}

/// Whether a mapping shows this very file.
fn shows(pid: Pid, mapping: &Mapping, file: &ObjectFile) -> bool {
    if mapping.inode != file.id().inode() {
        return false;
    }
    let link = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
    match fs::metadata(pid.path(&link)) {
        Ok(metadata) => file.id().is_file_of(&metadata),
        // Without the right to follow it: the path, or nothing is known.
        Err(_) => matches!(
            &mapping.source,
            MappingSource::File { path, deleted: false } if path == file.shown_path()
        ),
    }
}

fn holds(mapping: &Mapping, place: &CodePlace) -> bool {
    let bytes = mapping.end.0 - mapping.start.0;
    place.first.0.checked_sub(mapping.offset.0).is_some_and(|distance| distance < bytes)
}

/// What to add to an address of the file to get the process's: one for each time that the file is loaded.
fn loads(of_file: &[&Mapping], file: &ObjectFile) -> Vec<u64> {
    let page_bytes = page_bytes();
    let mut loads = Vec::new();
    for mapping in of_file {
        for segment in file.segments() {
            // The loader maps whole pages.
            let first = segment.offset.0 / page_bytes * page_bytes;
            let end = segment.offset.0.saturating_add(segment.file_bytes);
            if (first..end).contains(&mapping.offset.0) {
                let address = (segment.address.0)
                    .wrapping_sub(segment.offset.0)
                    .wrapping_add(mapping.offset.0);
                loads.push((mapping.offset.0, mapping.start.0.wrapping_sub(address)));
            }
        }
    }
    // A page may belong to two segments, but the first one only to the first.
    let first = loads.iter().map(|(offset, _)| *offset).min();
    let mut loads: Vec<_> = loads
        .into_iter()
        .filter(|(offset, _)| Some(*offset) == first)
        .map(|(_, load)| load)
        .collect();
    loads.sort_unstable();
    loads.dedup();
    loads
}

/// Whether code that is not the file's is where this place was loaded.
fn is_replaced(
    maps: &[Mapping],
    of_file: &[&Mapping],
    load: &u64,
    file: &ObjectFile,
    place: &CodePlace,
) -> bool {
    let offset = place.first;
    let code = file.segments().iter().filter(|segment| segment.executable);
    let Some(address) = code.filter_map(|segment| segment.address_of(offset)).next() else {
        return false;
    };
    let address = RuntimeAddr(address.0.wrapping_add(*load));
    mapping_at(maps, address).is_some_and(|mapping| {
        mapping.permissions.execute && !of_file.iter().any(|own| own.start == mapping.start)
    })
}

fn mapping_at(maps: &[Mapping], address: RuntimeAddr) -> Option<&Mapping> {
    let next = maps.partition_point(|mapping| mapping.start <= address);
    maps.get(next.checked_sub(1)?).filter(|mapping| address < mapping.end)
}

fn page_bytes() -> u64 {
    // SAFETY: without preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).ok().filter(|bytes| *bytes != 0).unwrap_or(4096)
}

/// A process's memory, as far as it may be read.
struct Memory {
    pages: io::Result<File>,
    bytes: io::Result<File>,
    page_bytes: u64,
    /// What was last read of `pages`: the number of the first page, and the entries.
    window: (u64, Vec<u64>),
}

impl Memory {
    fn of(pid: Pid) -> Self {
        let open = |name| File::open(pid.path(name));
        Self {
            pages: open("pagemap"),
            bytes: open("mem"),
            page_bytes: page_bytes(),
            window: (0, Vec::new()),
        }
    }

    /// Whether the bytes at `start` are not those of the file.
    fn is_changed(
        &mut self,
        file: &ObjectFile,
        place: &CodePlace,
        start: u64,
        maps: &[Mapping],
        instruction_bytes: InstructionBytes<'_>,
    ) -> bool {
        /// Of any machine.
        const LONGEST_INSTRUCTION: u64 = 15;
        let before = place.at.0.saturating_sub(place.first.0);
        let most = before + LONGEST_INSTRUCTION;
        let mut pages = start / self.page_bytes..=(start + most - 1) / self.page_bytes;
        if !pages.any(|page| self.is_own(page)) {
            return false;
        }
        let Ok(memory) = &self.bytes else { return false };
        let (Ok(before), Ok(most)) = (usize::try_from(before), usize::try_from(most)) else {
            return false;
        };
        let Ok(mut original) = file.read_code(place.first, most) else { return false };
        let Some(instruction) = original.get(before..) else { return false };
        let bytes = before + usize::try_from(instruction_bytes(instruction)).unwrap_or(0);
        original.truncate(bytes);
        let mut here = vec![0; original.len()];
        if original.len() != bytes || memory.read_exact_at(&mut here, start).is_err() {
            return false;
        }
        let is_trampoline = |address: u64| {
            mapping_at(maps, RuntimeAddr(address)).is_some_and(|mapping| {
                matches!(&mapping.source, MappingSource::Special(name) if name == TRAMPOLINE)
            })
        };
        !is_same(&original, &here, start, &is_trampoline)
    }

    /// Whether a page is the process's own, and not the file's any more.
    fn is_own(&mut self, page: u64) -> bool {
        /// Of `Documentation/admin-guide/mm/pagemap.rst`.
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const OF_FILE: u64 = 1 << 61;
        let entry = self.entry(page).unwrap_or(0);
        entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT
    }

    fn entry(&mut self, page: u64) -> Option<u64> {
        /// 16 MiB of code, mostly.
        const WINDOW_PAGES: usize = 4096;
        let (first, entries) = &self.window;
        let inside = page.checked_sub(*first).and_then(|at| entries.get(usize::try_from(at).ok()?));
        if let Some(entry) = inside {
            return Some(*entry);
        }
        let mut bytes = vec![0; WINDOW_PAGES * 8];
        let read = self.pages.as_ref().ok()?.read_at(&mut bytes, page.checked_mul(8)?).ok()?;
        let (entries, _) = bytes[..read].as_chunks::<8>();
        self.window = (page, entries.iter().map(|entry| u64::from_ne_bytes(*entry)).collect());
        self.window.1.first().copied()
    }
}

/// How the kernel names the mapping that optimised breakpoints call.
const TRAMPOLINE: &str = "[uprobes-trampoline]";
const BREAKPOINT: u8 = 0xcc;
const CALL: u8 = 0xe8;
const NOP_5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
const NOP_10: [u8; 10] = [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];

/// Whether `here`, at the address `start`, is `original`, but for breakpoints: those of debuggers and other
/// tracers, and the calls that the kernel makes of them.
fn is_same(original: &[u8], here: &[u8], start: u64, is_trampoline: &dyn Fn(u64) -> bool) -> bool {
    let is_call = |at: usize| {
        let distance =
            here.get(at + 1..).and_then(<[u8]>::first_chunk).map(|b| i32::from_le_bytes(*b));
        let target = distance.map(|distance| {
            start.wrapping_add(at as u64 + 5).wrapping_add_signed(i64::from(distance))
        });
        here[at] == CALL && target.is_some_and(is_trampoline)
    };
    let mut at = 0;
    while at < here.len() {
        let rest = &original[at..];
        if here[at] == original[at] || here[at] == BREAKPOINT {
            at += 1;
        } else if rest.starts_with(&NOP_5) && is_call(at) {
            at += NOP_5.len();
        } else if rest.starts_with(&NOP_10) && at + 5 < here.len() && is_call(at + 5) {
            at += NOP_10.len();
        } else if at >= 5 && original[at - 5..].starts_with(&NOP_10) && here[at] == CALL {
            // What the kernel leaves behind of such a call: still a nop.
            at += 5;
        } else {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a jump over a function's entry is seen, and a breakpoint of another tracer is not taken
    /// for one, nor what the kernel makes of breakpoints on nops.
    #[test]
    fn patches_are_told_from_breakpoints() {
        let same = |original: &[u8], here: &[u8]| {
            is_same(original, here, 0x1000, &|target| target == 0x1100)
        };
        let entry = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5];
        let patched = [0xe9, 0, 1, 0, 0, 0x48, 0x89, 0xe5];
        let breakpoints = [0xcc, 0x0f, 0x1e, 0xfa, 0xcc, 0x48, 0x89, 0xe5];
        assert!(same(&entry, &entry));
        assert!(!same(&entry, &patched));
        assert!(same(&entry, &breakpoints));
        // A call to 0x1100, which is the kernel's, and one to 0x1200, which is the program's.
        assert!(same(&NOP_5, &[0xe8, 0xfb, 0, 0, 0]));
        assert!(!same(&NOP_5, &[0xe8, 0xfb, 1, 0, 0]));
        let leap = [0x48, 0x8d, 0x64, 0x24, 0x80, 0xe8, 0xf6, 0, 0, 0];
        let left_behind = [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0xe8, 0xf6, 7, 7, 7];
        assert!(same(&NOP_10, &leap));
        assert!(same(&NOP_10, &left_behind));
        assert!(!same(&NOP_10, &[0x48, 0x8d, 0x64, 0x24, 0x80, 0xe9, 0xf6, 0, 0, 0]));
    }
}
