//! Where the running kernel keeps the members of its structures, from its own type information (BTF).
//!
//! Only what is needed: structures by name, their members, and unnamed structures inside them. The format
//! is that of `Documentation/bpf/btf.rst`.

use std::{fs, io};

/// The kernel's type information. The file is a few megabytes.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Bytes of a type without what follows it, and of a member of a structure.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// `BTF_KIND_*` of the kinds that matter here.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Where in `task_struct` the name of a task is; `None` if the kernel does not say. Takes some milliseconds.
pub(crate) fn task_name_at() -> Option<u64> {
    Btf::of_kernel().ok()?.offset_of("task_struct", "comm")
}

/// Types, in the order of their ids.
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins; type 0 is `void` and has no place.
    types: Vec<usize>,
    strings: usize,
}

impl Btf {
    /// That of the running kernel.
    ///
    /// # Errors
    ///
    /// NotFound if the kernel has none; InvalidData.
    pub(super) fn of_kernel() -> io::Result<Self> {
        Self::parse(fs::read(KERNEL)?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{KERNEL} is not understood"))
        })
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        if magic != MAGIC {
            return None;
        }
        let header = word(&bytes, 4)? as usize;
        let types_at = header + word(&bytes, 8)? as usize;
        let types_end = types_at + word(&bytes, 12)? as usize;
        let strings = header + word(&bytes, 16)? as usize;
        let mut types = vec![0];
        let mut at = types_at;
        while at < types_end {
            types.push(at);
            at += TYPE_BYTES + bytes_after(kind(&bytes, at)?, members(&bytes, at)?)?;
        }
        (at == types_end).then_some(Self { bytes, types, strings })
    }

    /// The byte offset of a member in a structure, also one in an unnamed structure inside it.
    pub(super) fn offset_of(&self, structure: &str, member: &str) -> Option<u64> {
        let mut of_name =
            self.types.iter().skip(1).copied().filter(|at| {
                kind(&self.bytes, *at) == Some(STRUCT) && self.has_name(*at, structure)
            });
        of_name.find_map(|at| self.offset_in(at, member))
    }

    fn offset_in(&self, at: usize, member: &str) -> Option<u64> {
        // The highest bit of a structure's info: offsets have the size of a bit field in the upper byte.
        let has_bit_fields = word(&self.bytes, at + 4)? >> 31 != 0;
        (0..members(&self.bytes, at)?).find_map(|index| {
            let entry = at + TYPE_BYTES + index * MEMBER_BYTES;
            let offset = word(&self.bytes, entry + 8)?;
            let bits = if has_bit_fields { offset & 0xff_ffff } else { offset };
            let bytes = u64::from(bits / 8);
            if self.has_name(entry, member) {
                return Some(bytes);
            }
            let inner = *self.types.get(word(&self.bytes, entry + 4)? as usize)?;
            let is_unnamed = word(&self.bytes, entry)? == 0;
            let nests = is_unnamed && matches!(kind(&self.bytes, inner)?, STRUCT | UNION);
            nests.then(|| Some(bytes + self.offset_in(inner, member)?))?
        })
    }

    /// Types and members begin with the place of their name.
    fn has_name(&self, at: usize, name: &str) -> bool {
        let text =
            word(&self.bytes, at).and_then(|name| self.bytes.get(self.strings + name as usize..));
        text.and_then(|text| text.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn kind(bytes: &[u8], at: usize) -> Option<u32> {
    Some(word(bytes, at + 4)? >> 24 & 0x1f)
}

fn members(bytes: &[u8], at: usize) -> Option<usize> {
    Some((word(bytes, at + 4)? & 0xffff) as usize)
}

/// What follows a type of this kind.
fn bytes_after(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Integers, variables, tags of a declaration.
        1 | 14 | 17 => 4,
        // Pointers, forward declarations, names and qualifiers of a type, functions, floats, tags of a type.
        2 | 7..=12 | 16 | 18 => 0,
        // Arrays.
        3 => 12,
        STRUCT | UNION => members * MEMBER_BYTES,
        // Enumerations, function prototypes.
        6 | 13 => members * 8,
        // Sections, enumerations of 64 bits.
        15 | 19 => members * 12,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that members of the kernel's own structures are found, also in unnamed structures, and that
    /// what is not there is not.
    #[test]
    fn members_of_kernel_structures() {
        let btf = Btf::of_kernel().unwrap();
        let (pid, tgid) =
            (btf.offset_of("task_struct", "pid"), btf.offset_of("task_struct", "tgid"));
        assert_eq!(pid.unwrap() + 4, tgid.unwrap());
        assert_eq!(btf.offset_of("list_head", "next"), Some(0));
        assert_eq!(btf.offset_of("list_head", "prev"), Some(8));
        // These are members of an unnamed structure in an unnamed union.
        assert_eq!(btf.offset_of("sk_buff", "next"), Some(0));
        assert_eq!(btf.offset_of("sk_buff", "prev"), Some(8));
        assert_eq!(btf.offset_of("list_head", "nex"), None);
        assert_eq!(btf.offset_of("no_such_structure", "next"), None);
    }

    /// Check that garbage and a truncated file are refused.
    #[test]
    fn garbage() {
        let whole = fs::read(KERNEL).unwrap();
        assert!(Btf::parse(whole[..whole.len() / 4].to_vec()).is_none());
        assert!(Btf::parse(vec![0; 64]).is_none());
        assert!(Btf::parse(Vec::new()).is_none());
    }
}
