//! Symbols that were split off a stripped file: separate debug files and MiniDebugInfo.
//!
//! Takes the stripped file's frame; adds what it finds to its [`Symbols`]. Looks where gdb looks,
//! below the view's root, and takes a debug file only if it belongs to the file: by build-id, or
//! by the checksum where there is none. A damaged debug file is passed over, not an error: the
//! program itself is fine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;
use object::elf;
use object::read::{ReadCache, ReadRef};

use super::elf::{FormatError, Frame};
use super::symbols::Symbols;
use super::view::Root;

const DEBUG_ROOT: &str = "/usr/lib/debug";

/// Bounds on what a crafted `.gnu_debugdata` can make us hold.
const MINI_DEBUG_INFO_MAX_BYTES: u64 = 256 << 20;
const XZ_MEMORY_MAX_KIB: u32 = 128 << 10;

/// What came of the search.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The debug file whose symbols were added.
    pub(super) found: Option<PathBuf>,
    /// The same as this program can open it.
    pub(super) openable: Option<PathBuf>,
    /// Every path that was tried, in order.
    pub(super) looked_for: Vec<PathBuf>,
    /// Of these, debug files that belong to another build of the file.
    pub(super) foreign: Vec<PathBuf>,
}

/// What a candidate turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Candidate {
    /// The file's debug file; its symbols were added.
    Added,
    /// A debug file of another build.
    Foreign,
    /// Nothing with symbols.
    Nothing,
}

/// Adds the symbols of the file's debug file, if there is one.
///
/// `directories` are those the file is known to be in: as named, and with symlinks followed.
pub(super) fn add_debug_file<'data, R: ReadRef<'data>>(
    symbols: &mut Symbols,
    root: &Root,
    frame: &Frame<'data, R>,
    directories: &[PathBuf],
) -> Search {
    let mut search = Search::default();
    let build_id = frame.build_id();
    let link = frame.section(".gnu_debuglink").ok().flatten().and_then(parse_debug_link);
    let mut candidates = Vec::new();
    candidates.extend(build_id.and_then(build_id_path).map(|path| (path, None)));
    if let Some((name, checksum)) = link {
        for directory in directories {
            candidates.extend(link_paths(directory, name).map(|path| (path, Some(checksum))));
        }
    }
    for (path, checksum) in candidates {
        if search.looked_for.contains(&path) {
            continue;
        }
        let added = root.open(&path).map_err(|_| ()).and_then(|file| {
            add_if_belongs(symbols, &file, build_id, checksum).map_err(|error| {
                tracing::warn!("passing over debug file `{}`: {error:?}", path.display());
            })
        });
        search.looked_for.push(path.clone());
        match added {
            Ok(Candidate::Added) => {
                search.openable = Some(root.outside(&path));
                search.found = Some(path);
                break;
            }
            Ok(Candidate::Foreign) => search.foreign.push(path),
            Ok(Candidate::Nothing) | Err(()) => {}
        }
    }
    search
}

/// Adds the symbols of `.gnu_debugdata`: a stripped-down ELF file, compressed. Gives whether any.
pub(super) fn add_mini_debug_info<'data, R: ReadRef<'data>>(
    symbols: &mut Symbols,
    frame: &Frame<'data, R>,
) -> bool {
    let Ok(Some(compressed)) = frame.section(".gnu_debugdata") else { return false };
    let added = decompress(compressed)
        .map_err(|error| FormatError::Corrupt(error.to_string()))
        .and_then(|bytes| symbols.add(&Frame::read(&bytes[..])?, elf::SHT_SYMTAB));
    added.unwrap_or_else(|error| {
        tracing::warn!("passing over .gnu_debugdata: {error:?}");
        false
    })
}

fn decompress(compressed: &[u8]) -> io::Result<Vec<u8>> {
    let reader = XzReader::new_mem_limit(compressed, true, XZ_MEMORY_MAX_KIB);
    let mut bytes = Vec::new();
    reader.take(MINI_DEBUG_INFO_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `/usr/lib/debug/.build-id/ab/cdef….debug`
fn build_id_path(build_id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = build_id.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(PathBuf::from(format!("{DEBUG_ROOT}/.build-id/{first:02x}/{rest}.debug")))
}

/// A NUL-terminated name, padding to 4 bytes, and the debug file's CRC-32.
fn parse_debug_link(section: &[u8]) -> Option<(&OsStr, u32)> {
    let end = section.iter().position(|&byte| byte == 0).filter(|&end| end > 0)?;
    let checksum = section.get((end + 1).next_multiple_of(4)..)?.first_chunk::<4>()?;
    Some((OsStr::from_bytes(&section[..end]), u32::from_le_bytes(*checksum)))
}

fn link_paths(directory: &Path, name: &OsStr) -> impl Iterator<Item = PathBuf> {
    let below_debug_root = directory.strip_prefix("/").unwrap_or(directory);
    [
        directory.join(name),
        directory.join(".debug").join(name),
        Path::new(DEBUG_ROOT).join(below_debug_root).join(name),
    ]
    .into_iter()
}

fn add_if_belongs(
    symbols: &mut Symbols,
    file: &File,
    build_id: Option<&[u8]>,
    checksum: Option<u32>,
) -> Result<Candidate, FormatError> {
    let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_regular {
        return Ok(Candidate::Nothing);
    }
    let cache = ReadCache::new(file);
    let frame = Frame::read(&cache)?;
    let belongs = match (build_id, frame.build_id(), checksum) {
        (Some(wanted), Some(found), _) => wanted == found,
        (_, _, Some(checksum)) => file_crc32(file).is_ok_and(|found| found == checksum),
        _ => false,
    };
    if !belongs {
        return Ok(Candidate::Foreign);
    }
    let added = symbols.add(&frame, elf::SHT_SYMTAB)?;
    Ok(if added { Candidate::Added } else { Candidate::Nothing })
}

fn file_crc32(file: &File) -> io::Result<u32> {
    let table = crc32_table();
    let mut block = vec![0; 256 << 10];
    let (mut crc, mut offset) = (!0_u32, 0_u64);
    loop {
        let read = file.read_at(&mut block, offset)?;
        if read == 0 {
            return Ok(!crc);
        }
        for &byte in &block[..read] {
            crc = table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
        }
        offset += read as u64;
    }
}

/// CRC-32 as in zlib: polynomial 0x04c11db7, reflected.
const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::OnceLock;

    use super::super::testbed::{self, Testbed};
    use super::*;

    /// Check the checksum against the published value for these nine digits.
    #[test]
    fn checksum_is_crc32() {
        let bed = Testbed::new("crc32");
        let path = bed.path("digits");
        std::fs::write(&path, "123456789").unwrap();
        assert_eq!(file_crc32(&File::open(path).unwrap()).unwrap(), 0xcbf4_3926);
    }

    /// Check where a debug file is searched for.
    #[test]
    fn paths_are_those_of_gdb() {
        let path = build_id_path(&[0xab, 0xcd, 0x0e]).unwrap();
        assert_eq!(path, Path::new("/usr/lib/debug/.build-id/ab/cd0e.debug"));
        assert_eq!(build_id_path(&[0xab]), None);
        let paths: Vec<_> = link_paths(Path::new("/usr/bin"), OsStr::new("ls.debug")).collect();
        assert_eq!(
            paths,
            ["/usr/bin/ls.debug", "/usr/bin/.debug/ls.debug", "/usr/lib/debug/usr/bin/ls.debug"]
                .map(PathBuf::from)
        );
    }

    proptest! {
        /// Check that no section content is more than an absent link.
        #[test]
        fn debug_link_of_any_bytes(bytes in prop::collection::vec(0_u8..4, 0..24)) {
            parse_debug_link(&bytes);
        }

        /// Check that damage to compressed data ends in an error and not in a panic.
        #[test]
        fn damaged_xz_is_no_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            static COMPRESSED: OnceLock<Vec<u8>> = OnceLock::new();
            let plain = b"some text, some text, some other text";
            let mut bytes = COMPRESSED.get_or_init(|| testbed::xz(plain)).clone();
            for (index, value) in changes {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            let _ = decompress(&bytes);
        }
    }
}
