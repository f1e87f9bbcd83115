//! `/etc/ld.so.cache`: which file the loader takes for a library's name.
//!
//! Takes the file's bytes; gives the entries that fit this machine. Any bytes are fine: what
//! cannot be read is not there.
//!
//! The format is glibc's `elf/cache.c`: a header `glibc-ld.so.cache1.1`, at the start or after the
//! table of the older format, then entries of 24 bytes whose strings are given by their offset
//! from that header.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const OLD_HEADER_BYTES: usize = 16;
const OLD_ENTRY_BYTES: usize = 12;
const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const NEW_HEADER_BYTES: usize = 48;
const NEW_ENTRY_BYTES: usize = 24;

/// The low byte of an entry's flags: a library for glibc 2 (`FLAG_ELF_LIBC6`).
const FLAG_LIBC6: u32 = 0x03;
/// The second byte of an entry's flags: the machine (`FLAG_X8664_LIB64`, `FLAG_AARCH64_LIB64`).
#[cfg(target_arch = "x86_64")]
const FLAG_MACHINE: u32 = 0x0300;
#[cfg(target_arch = "aarch64")]
const FLAG_MACHINE: u32 = 0x0a00;

/// One library that the loader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CachedLibrary {
    /// The name that programs ask for, `libc.so.6`.
    pub(super) name: String,
    /// The file.
    pub(super) path: PathBuf,
}

/// The libraries for this machine, in the cache's order.
pub(super) fn parse(bytes: &[u8]) -> Vec<CachedLibrary> {
    let Some(cache) = new_format(bytes) else { return Vec::new() };
    let Some(count) = u32_at(cache, 20) else { return Vec::new() };
    let entries = cache.get(NEW_HEADER_BYTES..).unwrap_or_default();
    entries
        .as_chunks::<NEW_ENTRY_BYTES>()
        .0
        .iter()
        .take(count as usize)
        .filter_map(|entry| parse_entry(cache, entry))
        .collect()
}

/// From the header of the new format on.
fn new_format(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.starts_with(NEW_MAGIC) {
        return Some(bytes);
    }
    if !bytes.starts_with(OLD_MAGIC) {
        return None;
    }
    let count = u32_at(bytes, 12)? as usize;
    let end = OLD_HEADER_BYTES.checked_add(count.checked_mul(OLD_ENTRY_BYTES)?)?;
    // The new header is aligned for its 64-bit fields.
    let cache = bytes.get(end.checked_next_multiple_of(8)?..)?;
    cache.starts_with(NEW_MAGIC).then_some(cache)
}

fn parse_entry(cache: &[u8], entry: &[u8]) -> Option<CachedLibrary> {
    let flags = u32_at(entry, 0)?;
    if flags & 0xff != FLAG_LIBC6 || flags & 0xff00 != FLAG_MACHINE {
        return None;
    }
    let name = String::from_utf8(string_at(cache, u32_at(entry, 4)?)?.to_vec()).ok()?;
    let path = PathBuf::from(OsString::from_vec(string_at(cache, u32_at(entry, 8)?)?.to_vec()));
    runs_here(&path).then_some(CachedLibrary { name, path })
}

/// Whether the loader would take a library built for a level of the processor: on a machine below
/// that level it passes over the file, and a probe there would never be hit.
fn runs_here(path: &Path) -> bool {
    let mut parts = path.components().map(Component::as_os_str);
    if !parts.any(|part| part == "glibc-hwcaps") {
        return true;
    }
    parts.next().and_then(|level| level.to_str()).is_some_and(processor_has)
}

#[cfg(target_arch = "x86_64")]
fn processor_has(level: &str) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let v2 = || has!("ssse3") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = || v2() && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma");
    let v4 = || v3() && has!("avx512f") && has!("avx512bw") && has!("avx512vl");
    match level {
        "x86-64-v2" => v2(),
        "x86-64-v3" => v3(),
        "x86-64-v4" => v4(),
        _ => false,
    }
}

/// glibc defines no levels for other machines.
#[cfg(not(target_arch = "x86_64"))]
fn processor_has(_level: &str) -> bool {
    false
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field))
}

fn string_at(bytes: &[u8], offset: u32) -> Option<&[u8]> {
    let tail = bytes.get(offset as usize..)?;
    let end = tail.iter().position(|&byte| byte == 0)?;
    Some(&tail[..end]).filter(|string| !string.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OTHER_MACHINE: u32 = 0x0500;

    fn cache(entries: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut bytes = NEW_MAGIC.to_vec();
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.resize(NEW_HEADER_BYTES, 0);
        let mut strings = Vec::new();
        let strings_at = NEW_HEADER_BYTES + entries.len() * NEW_ENTRY_BYTES;
        let mut add = |text: &str| {
            let at = (strings_at + strings.len()) as u32;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        for &(flags, name, path) in entries {
            bytes.extend(flags.to_le_bytes());
            bytes.extend(add(name).to_le_bytes());
            bytes.extend(add(path).to_le_bytes());
            bytes.extend([0; 12]);
        }
        bytes.extend(strings);
        bytes
    }

    fn example() -> Vec<u8> {
        cache(&[
            (FLAG_LIBC6 | OTHER_MACHINE, "libz.so.1", "/lib32/libz.so.1"),
            (FLAG_LIBC6 | FLAG_MACHINE, "libz.so.1", "/lib/libz.so.1"),
            (FLAG_LIBC6 | FLAG_MACHINE, "libz.so.1", "/lib/glibc-hwcaps/unheard-of/libz.so.1"),
        ])
    }

    /// Check that another machine's libraries, and another processor's, are left out.
    #[test]
    fn only_this_machines_libraries() {
        let expected = CachedLibrary { name: "libz.so.1".into(), path: "/lib/libz.so.1".into() };
        assert_eq!(parse(&example()), [expected]);
    }

    /// Check that the table is found after one of the older format, aligned.
    #[test]
    fn table_after_the_older_format() {
        let mut bytes = OLD_MAGIC.to_vec();
        bytes.push(0);
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0; OLD_ENTRY_BYTES]);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(example());
        assert_eq!(parse(&bytes), parse(&example()));
    }

    /// Check that this machine's own cache has its libc.
    #[test]
    fn own_cache() {
        let libraries = parse(&std::fs::read("/etc/ld.so.cache").unwrap());
        assert!(libraries.iter().any(|library| library.name == "libc.so.6"));
    }

    proptest! {
        /// Check that no damage to the file is more than a missing entry.
        #[test]
        fn damage_is_no_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            length in any::<prop::sample::Index>(),
        ) {
            let mut bytes = example();
            for (index, value) in changes {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            bytes.truncate(length.index(bytes.len() + 1));
            parse(&bytes);
        }
    }
}
