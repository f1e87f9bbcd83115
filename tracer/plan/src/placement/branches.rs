//! What jumps where, in a file's code.
//!
//! It must not miss a jump; a false one only leaves a breakpoint where it is. So 32-bit jumps are
//! searched for at every byte, whether or not an instruction begins there. For 8-bit jumps that would
//! find one nearly everywhere, so these are then confirmed by decoding from the nearest symbol.

use std::collections::HashSet;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use crate::instruction::near_target;

/// The code of a file, by offset in it.
#[derive(Debug)]
pub(super) struct Text {
    start: u64,
    code: Vec<u8>,
    /// Where functions and labels begin, rising.
    symbols: Vec<u64>,
}

impl Text {
    /// Code that begins at the file's offset `start`, with the offsets at which symbols stand.
    pub(super) fn new(start: u64, code: Vec<u8>, mut symbols: Vec<u64>) -> Self {
        symbols.sort_unstable();
        symbols.dedup();
        Self { start, code, symbols }
    }

    /// Up to this many bytes from an offset.
    pub(super) fn code(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let at = self.index(offset)?;
        let end = at.saturating_add(usize::try_from(bytes).ok()?).min(self.code.len());
        Some(&self.code[at..end])
    }

    fn index(&self, offset: u64) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (at < self.code.len()).then_some(at)
    }
}

/// A set of bytes of the text.
#[derive(Debug)]
pub(super) struct Forbidden {
    start: u64,
    words: Vec<u64>,
    count: usize,
}

impl Forbidden {
    pub(super) fn new(text: &Text) -> Self {
        Self { start: text.start, words: vec![0; text.code.len().div_ceil(64)], count: 0 }
    }

    /// Adds the bytes from `first` to `last`, both included.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        for offset in first..=last {
            let Some((word, bit)) = self.place(offset) else { continue };
            self.words[word] |= bit;
            self.count += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline]
    fn contains(&self, offset: u64) -> bool {
        self.place(offset).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Whether any byte from `first` to `last` is in it.
    pub(super) fn any_in(&self, first: u64, last: u64) -> bool {
        (first..=last).any(|offset| self.contains(offset))
    }

    #[inline]
    fn place(&self, offset: u64) -> Option<(usize, u64)> {
        let at = usize::try_from(offset.wrapping_sub(self.start)).ok()?;
        (at / 64 < self.words.len()).then_some((at / 64, 1 << (at % 64)))
    }
}

/// The bytes of `forbidden` to which something jumps, or at which a symbol stands.
pub(super) fn targets(text: &Text, forbidden: &Forbidden) -> Forbidden {
    let mut found = Forbidden::new(text);
    for symbol in &text.symbols {
        if forbidden.contains(*symbol) {
            found.add(*symbol, *symbol);
        }
    }
    let mut short = Vec::new();
    let code = &text.code[..];
    for at in 0..code.len() {
        let Some(Branch { distance, is_short }) = branch_at(code, at) else { continue };
        let target = text.start.wrapping_add_signed(distance);
        if forbidden.contains(target) {
            if is_short {
                short.push((at, target));
            } else {
                found.add(target, target);
            }
        }
    }
    confirm(text, &short, &mut found);
    found
}

/// A direct branch that may begin at an index of some code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branch {
    /// Where it goes, counted from the first byte of the code.
    pub(crate) distance: i64,
    /// Its distance is a byte.
    pub(crate) is_short: bool,
}

/// Takes what stands at an index for a branch, whether or not an instruction begins there.
#[inline]
pub(crate) fn branch_at(code: &[u8], at: usize) -> Option<Branch> {
    let (distance_at, is_short) = match code.get(at)? {
        0xe8 | 0xe9 => (at + 1, false),
        0x0f if matches!(code.get(at + 1), Some(0x80..=0x8f)) => (at + 2, false),
        // xbegin
        0xc7 if code.get(at + 1) == Some(&0xf8) => (at + 2, false),
        0x70..=0x7f | 0xe0..=0xe3 | 0xeb => (at + 1, true),
        _ => return None,
    };
    let (end, distance) = if is_short {
        (distance_at + 1, i64::from(*code.get(distance_at)? as i8))
    } else {
        let bytes = code.get(distance_at..)?.first_chunk()?;
        (distance_at + 4, i64::from(i32::from_le_bytes(*bytes)))
    };
    Some(Branch { distance: (end as i64).wrapping_add(distance), is_short })
}

/// Adds the targets of those short jumps that are instructions, or may be.
fn confirm(text: &Text, short: &[(usize, u64)], found: &mut Forbidden) {
    let mut pending = short.iter().peekable();
    while let Some(&&(at, target)) = pending.peek() {
        let offset = text.start + at as u64;
        let next = text.symbols.partition_point(|symbol| *symbol <= offset);
        let begin = next.checked_sub(1).and_then(|before| text.index(text.symbols[before]));
        let Some(begin) = begin else {
            // Nobody knows where instructions begin here.
            found.add(target, target);
            pending.next();
            continue;
        };
        let end = text.symbols.get(next).and_then(|symbol| text.index(*symbol));
        let end = end.unwrap_or(text.code.len());
        // All that lie between these two symbols, with one decoding.
        let mut decoder = Decoder::with_ip(64, &text.code[begin..end], 0, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut lost = false;
        while let Some(&&(at, target)) = pending.peek() {
            if at >= end {
                break;
            }
            while !lost && decoder.can_decode() && begin + decoder.position() < at {
                decoder.decode_out(&mut instruction);
                // Data in between: from here on nothing is certain.
                lost |= instruction.is_invalid();
            }
            if lost || begin + decoder.position() == at {
                found.add(target, target);
            }
            pending.next();
        }
    }
}

/// Whether it is known where all jumps of a function go. One through a pointer leaves it (a tail call), if the
/// pointer was read from a place without an index, and if the function has no code that nothing else leads
/// to; any other jump to where a register says may go anywhere in the function.
pub(super) fn has_known_jumps(text: &Text, entry: u64, size_bytes: u64) -> bool {
    let Some(code) = text.code(entry, size_bytes) else { return false };
    if (code.len() as u64) < size_bytes {
        return false;
    }
    let mut instruction = Instruction::default();
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut is_indirect = false;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return false;
        }
        is_indirect |= instruction.flow_control() == FlowControl::IndirectBranch;
    }
    !is_indirect || leaves_through_pointers(code)
}

/// Whether all indirect jumps of a function's code leave it.
fn leaves_through_pointers(code: &[u8]) -> bool {
    let mut instruction = Instruction::default();
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut has_pointer = false;
    // Registers, a bit each, that were last set to what a place in memory has.
    let mut read: u16 = 0;
    let mut targets = HashSet::new();
    // What follows an instruction behind which code does not go on.
    let mut heads = Vec::new();
    let mut is_head = false;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let pads = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
        if is_head && !pads {
            heads.push(instruction.ip());
            is_head = false;
        }
        match instruction.flow_control() {
            FlowControl::IndirectBranch => {
                let is_plain = if instruction.op0_kind() == OpKind::Memory {
                    instruction.memory_index() == Register::None
                } else {
                    read & bit(instruction.op0_register()) != 0
                };
                if !is_plain {
                    return false;
                }
                // A constant slot of the file is known to hold a function of another one.
                has_pointer |= !instruction.is_ip_rel_memory_operand();
                is_head = true;
            }
            FlowControl::UnconditionalBranch | FlowControl::Return | FlowControl::Exception => {
                is_head = true;
            }
            _ => {}
        }
        targets.extend(near_target(&instruction));
        for used in info.info(&instruction).used_registers() {
            if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
                read &= !bit(used.register());
            }
        }
        let is_read = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_index() == Register::None;
        if is_read {
            read |= bit(instruction.op0_register());
        }
    }
    !has_pointer || heads.iter().all(|head| targets.contains(head))
}

/// The bit of a general-purpose register; none of any other.
fn bit(register: Register) -> u16 {
    let full = register.full_register();
    if full.is_gpr64() { 1 << full.number() } else { 0 }
}
