//! The code of functions, read for those who judge where a breakpoint may go.

use std::cell::RefCell;

use super::{FileId, FileOffset, ObjectFile, ResolvedProbe, Segment};

/// Longest instruction of any machine, for reading code past an offset.
const LONGEST_INSTRUCTION: u64 = 15;

/// A file's code with its symbols, a piece a segment: where it begins in the file, its bytes, and
/// where its symbols are. What cannot be read is not in it.
#[must_use]
pub fn code_pieces(file: &ObjectFile) -> Vec<(u64, Vec<u8>, Vec<u64>)> {
    let symbols = file.code_symbols();
    let piece = |segment: &Segment| {
        let end = FileOffset(segment.offset.0 + segment.file_bytes);
        let code =
            file.read_code(segment.offset, usize::try_from(segment.file_bytes).ok()?).ok()?;
        let inside = symbols.iter().filter(|symbol| (segment.offset..end).contains(symbol));
        Some((segment.offset.0, code, inside.map(|symbol| symbol.0).collect()))
    };
    file.segments().iter().filter(|segment| segment.executable).filter_map(piece).collect()
}

/// Reads code in pieces that serve many functions: they come by rising address.
#[derive(Debug, Default)]
pub struct CodeReader {
    piece: RefCell<Option<Piece>>,
}

#[derive(Debug)]
struct Piece {
    file: FileId,
    start: u64,
    code: Vec<u8>,
}

const PIECE_BYTES: usize = 64 * 1024;

impl CodeReader {
    /// The code of the probe's function, from its first byte to past the probed instruction.
    #[must_use]
    pub fn read(&self, probe: &ResolvedProbe) -> Option<Vec<u8>> {
        let start = probe.offset.0.checked_sub(probe.spec.offset)?;
        let bytes = usize::try_from(probe.spec.offset + LONGEST_INSTRUCTION).ok()?;
        let mut piece = self.piece.borrow_mut();
        if let Some(piece) = &*piece
            && piece.file == probe.file.id()
            && let Some(at) = start.checked_sub(piece.start)
            && let Some(code) = piece.code.get(usize::try_from(at).ok()?..)
            && code.len() >= bytes
        {
            return Some(code[..bytes].to_vec());
        }
        let code = probe.file.read_code(FileOffset(start), PIECE_BYTES.max(bytes)).ok()?;
        let wanted = code.get(..bytes).unwrap_or(&code).to_vec();
        *piece = Some(Piece { file: probe.file.id(), start, code });
        Some(wanted)
    }
}
