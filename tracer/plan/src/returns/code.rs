//! A file's code and data by address, for those who follow its jumps.

use std::{collections::BTreeMap, sync::Arc};

use faultline_resolve::{CodeExtent, ElfAddr, FileOffset, ObjectFile};

use crate::ReadPieces;

/// A file's code, its functions, and its constants.
pub(super) struct Code {
    /// Reads what the loader maps at an address.
    read: Box<dyn Fn(u64, usize) -> Option<Vec<u8>> + Send>,
    /// The executable segments: address and bytes.
    pieces: Vec<(u64, Vec<u8>)>,
    /// By address.
    functions: BTreeMap<u64, CodeExtent>,
}

impl Code {
    pub(super) fn of(file: Arc<ObjectFile>, read_pieces: ReadPieces<'_>) -> Self {
        let pieces = read_pieces(&file).into_iter();
        let pieces = pieces
            .filter_map(|(start, code, _)| Some((file.address_of(FileOffset(start))?.0, code)));
        let pieces = pieces.collect();
        let mut functions: BTreeMap<u64, CodeExtent> = BTreeMap::new();
        for extent in file.code_extents() {
            // The longest of several names.
            let known = functions.entry(extent.address.0).or_insert(extent);
            if known.size_bytes < extent.size_bytes {
                *known = extent;
            }
        }
        let read = move |address, bytes| file.read_data(ElfAddr(address), bytes).ok();
        Self { read: Box::new(read), pieces, functions }
    }

    /// This code alone, with functions that begin at these addresses.
    #[cfg(test)]
    pub(super) fn in_memory(start: u64, code: Vec<u8>, functions: &[u64]) -> Self {
        let bytes = code.clone();
        let read = move |address: u64, count| {
            let at = usize::try_from(address.checked_sub(start)?).ok()?;
            bytes.get(at..at + count).map(<[u8]>::to_vec)
        };
        let extent = |address: &u64| {
            let extent = CodeExtent { address: ElfAddr(*address), size_bytes: 0, is_cold: false };
            (*address, extent)
        };
        let functions = functions.iter().map(extent).collect();
        Self { read: Box::new(read), pieces: vec![(start, code)], functions }
    }

    /// Up to this many bytes of code at an address.
    pub(super) fn code(&self, address: u64, bytes: usize) -> Option<&[u8]> {
        self.pieces.iter().find_map(|(start, code)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            let code = code.get(at..).filter(|code| !code.is_empty())?;
            Some(&code[..bytes.min(code.len())])
        })
    }

    /// Exactly this many bytes of the file, as they are at an address.
    pub(super) fn data(&self, address: u64, bytes: u64) -> Option<Vec<u8>> {
        (self.read)(address, usize::try_from(bytes).ok()?)
    }

    /// Whether a symbol of a function or a label is here.
    pub(super) fn begins_function(&self, address: u64) -> bool {
        self.functions.contains_key(&address)
    }

    /// Whether the address is in a part that the compiler split off a function.
    pub(super) fn is_cold(&self, address: u64) -> bool {
        let before = self.functions.range(..=address).next_back();
        before.is_some_and(|(start, part)| part.is_cold && address - start < part.size_bytes)
    }

    /// How many bytes the function at an address has: as its symbol says, or up to the next symbol.
    pub(super) fn size_of(&self, address: u64) -> u64 {
        match self.functions.get(&address) {
            Some(extent) if extent.size_bytes != 0 => extent.size_bytes,
            _ => match self.functions.range(address + 1..).next() {
                Some((next, _)) => next - address,
                None => self.code(address, usize::MAX).map_or(0, |code| code.len() as u64),
            },
        }
    }

    /// Whether there is a stub of the linker here, which jumps to a function of another file.
    pub(super) fn is_stub(&self, address: u64) -> bool {
        let Some(code) = self.code(address, 11) else { return false };
        let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
        let code = code.strip_prefix(&[0xf2]).unwrap_or(code);
        code.starts_with(&[0xff, 0x25])
    }
}
