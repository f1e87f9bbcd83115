//! Whether a label without a type is code.
//!
//! Hand-written assembly has labels that are functions, labels inside functions, and labels of tables that
//! stand between functions. A breakpoint in a table changes the program's data, so a label is probed only
//! if known code leads to it: a function's own instructions run into it, or a call or jump of one goes
//! there. Known functions are decoded from their first instruction along their branches. In a stripped
//! file most functions are not known, so a call or jump from far away counts wherever it is: that four bytes
//! of data name just this label is next to impossible, unless the number is small.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use faultline_resolve::{Arch, ObjectFile, Resolution, SkipReason, Skipped};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use crate::{
    ReadPieces,
    instruction::{LONGEST, near_target},
    placement::branch_at,
};

/// From this distance on, a branch needs no decoding: its four bytes are no small number.
const FAR_BYTES: u64 = 256;

/// How known code leads to a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    /// By a jump, or from the instruction before it.
    Passed,
    /// By a call.
    Called,
}

/// Moves the probes on labels that may be data to the functions that are skipped.
pub fn sift_labels(resolution: &mut Resolution, read_pieces: ReadPieces<'_>) {
    let mut files: BTreeMap<usize, (&ObjectFile, BTreeSet<u64>)> = BTreeMap::new();
    for probe in &resolution.probes {
        let Some(label) = probe.label_at else { continue };
        let file = &*probe.file;
        files
            .entry(std::ptr::from_ref(file).addr())
            .or_insert((file, BTreeSet::new()))
            .1
            .insert(label.0);
    }
    if files.is_empty() {
        return;
    }
    let reached: HashMap<_, _> = files
        .into_iter()
        .map(|(key, (file, labels))| (key, reached(file, &labels, read_pieces)))
        .collect();
    let skipped = &mut resolution.skipped;
    resolution.probes.retain(|probe| {
        let Some(label) = probe.label_at else { return true };
        let key = std::ptr::from_ref(&*probe.file).addr();
        let how = reached.get(&key).and_then(|reached| reached.get(&label.0));
        match refusal(how.copied(), probe.spec.ret.is_some()) {
            None => true,
            Some(reason) => {
                skipped.push(Skipped { label: probe.label.as_str().into(), reason });
                false
            }
        }
    });
}

/// Why a label is not probed, if so.
pub(crate) fn refusal(reached: Option<Reached>, returns: bool) -> Option<SkipReason> {
    match reached {
        None => Some(SkipReason::Label),
        Some(Reached::Passed) if returns => Some(SkipReason::ReturnAtLabel),
        Some(_) => None,
    }
}

/// Which of these labels, by their offsets in the file, known code leads to.
pub(crate) fn reached(
    file: &ObjectFile,
    labels: &BTreeSet<u64>,
    read_pieces: ReadPieces<'_>,
) -> HashMap<u64, Reached> {
    let functions = file.functions();
    let functions: Vec<_> = functions.iter().map(|(offset, size)| (offset.0, *size)).collect();
    let mut found = HashMap::new();
    for (start, code, symbols) in read_pieces(file) {
        let piece = Piece { start, code: &code, symbols: sorted(symbols), functions: &functions };
        match file.arch() {
            Arch::X86_64 => piece.reached_x86(labels, &mut found),
            Arch::Aarch64 => piece.reached_aarch64(labels, &mut found),
        }
    }
    found
}

fn sorted(mut offsets: Vec<u64>) -> Vec<u64> {
    offsets.sort_unstable();
    offsets
}

/// Code of a file from one offset on.
struct Piece<'a> {
    start: u64,
    code: &'a [u8],
    /// Every symbol of code, by rising offset.
    symbols: Vec<u64>,
    /// Functions that are known to be some, with their sizes, 0 if unknown.
    functions: &'a [(u64, u64)],
}

fn note(found: &mut HashMap<u64, Reached>, label: u64, how: Reached) {
    let known = found.entry(label).or_insert(how);
    *known = how.max(*known);
}

impl Piece<'_> {
    /// The function that an offset is in, or would be if it were longer.
    fn function_of(&self, offset: u64) -> Option<(u64, u64)> {
        let next = self.functions.partition_point(|(start, _)| *start <= offset);
        let (start, size) = *self.functions.get(next.checked_sub(1)?)?;
        let limit = self.functions.get(next).map_or(u64::MAX, |(start, _)| *start);
        let end = self.start + self.code.len() as u64;
        let end = if size == 0 { limit.min(end) } else { end.min(start.saturating_add(size)) };
        (start >= self.start).then_some((start, end))
    }

    fn bytes(&self, from: u64, to: u64) -> &[u8] {
        let index = |offset: u64| usize::try_from(offset.saturating_sub(self.start)).ok();
        let range = index(from).zip(index(to)).map(|(from, to)| from..to);
        range.and_then(|range| self.code.get(range)).unwrap_or_default()
    }

    fn reached_x86(&self, labels: &BTreeSet<u64>, found: &mut HashMap<u64, Reached>) {
        let mut suspects = BTreeSet::new();
        // What a label follows may run into it.
        suspects.extend(labels.iter().filter_map(|label| self.function_of(*label)));
        for at in 0..self.code.len() {
            let Some(branch) = branch_at(self.code, at) else { continue };
            let target = self.start.wrapping_add_signed(branch.distance);
            // One that begins a transaction is no evidence.
            if self.code[at] == 0xc7 || !labels.contains(&target) {
                continue;
            }
            let from = self.start + at as u64;
            if target.abs_diff(from) >= FAR_BYTES {
                let is_call = self.code[at] == 0xe8;
                note(found, target, if is_call { Reached::Called } else { Reached::Passed });
            } else {
                suspects.extend(self.function_of(from));
            }
        }
        for (start, end) in suspects {
            self.follow(start, end, labels, found);
            // A compiler's function holds nothing but code: also what only jump tables lead to.
            if !self.holds_label(start, end) {
                self.sweep(start, end, labels, found);
            }
        }
    }

    /// Whether another symbol is inside a function, or nothing says where that ends.
    fn holds_label(&self, start: u64, end: u64) -> bool {
        let next = self.symbols.partition_point(|symbol| *symbol <= start);
        let is_sized = self.functions.binary_search_by_key(&start, |(start, _)| *start);
        let is_sized = is_sized.is_ok_and(|index| self.functions[index].1 != 0);
        !is_sized || self.symbols.get(next).is_some_and(|symbol| *symbol < end)
    }

    /// Decodes a function along its branches.
    fn follow(
        &self,
        start: u64,
        end: u64,
        labels: &BTreeSet<u64>,
        found: &mut HashMap<u64, Reached>,
    ) {
        let mut seen = BTreeSet::new();
        let mut pending = vec![start];
        while let Some(mut at) = pending.pop() {
            // Known code may run past the end that its symbol gives, into a label: not any further.
            while at <= end && seen.insert(at) {
                if at != start && labels.contains(&at) {
                    note(found, at, Reached::Passed);
                }
                let Some(instruction) = self.decode(at, end) else { break };
                let target = near_target(&instruction);
                if let Some(target) = target.filter(|target| labels.contains(target)) {
                    note(found, target, how(&instruction));
                }
                match instruction.flow_control() {
                    FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                        pending.extend(target);
                    }
                    FlowControl::UnconditionalBranch => {
                        pending.extend(target.filter(|target| (start..end).contains(target)));
                        break;
                    }
                    FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => {
                        break;
                    }
                    // It fills what is not to be executed.
                    FlowControl::Interrupt if instruction.mnemonic() == Mnemonic::Int3 => break,
                    // What is called last in a function need not return.
                    FlowControl::Call | FlowControl::IndirectCall
                        if instruction.next_ip() == end =>
                    {
                        break;
                    }
                    _ => {}
                }
                at = instruction.next_ip();
            }
        }
    }

    /// Decodes a function from its beginning to its end.
    fn sweep(
        &self,
        start: u64,
        end: u64,
        labels: &BTreeSet<u64>,
        found: &mut HashMap<u64, Reached>,
    ) {
        let mut at = start;
        while let Some(instruction) = self.decode(at, end) {
            let target = near_target(&instruction).filter(|target| labels.contains(target));
            if let Some(target) = target {
                note(found, target, how(&instruction));
            }
            at = instruction.next_ip();
        }
    }

    fn decode(&self, at: u64, end: u64) -> Option<Instruction> {
        let bytes = self.bytes(at, end.min(at.saturating_add(LONGEST as u64)));
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        (!bytes.is_empty() && !instruction.is_invalid()).then_some(instruction)
    }

    fn reached_aarch64(&self, labels: &BTreeSet<u64>, found: &mut HashMap<u64, Reached>) {
        for (index, word) in self.code.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*word);
            let how = match word >> 26 {
                0b00_0101 => Reached::Passed,
                0b10_0101 => Reached::Called,
                _ => continue,
            };
            let at = self.start + index as u64 * 4;
            // A signed number of words, of 26 bits.
            let distance = i64::from((word << 6) as i32 >> 6) * 4;
            let target = at.wrapping_add_signed(distance);
            let is_inside = |(_, end): (u64, u64)| at < end;
            if labels.contains(&target) && self.function_of(at).is_some_and(is_inside) {
                note(found, target, how);
            }
        }
    }
}

fn how(instruction: &Instruction) -> Reached {
    match instruction.flow_control() {
        FlowControl::Call => Reached::Called,
        _ => Reached::Passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of `labels` is reached in `code`, whose functions are these; every label is a symbol.
    fn reached_in(code: &[u8], functions: &[(u64, u64)], labels: &[u64]) -> Vec<(u64, Reached)> {
        let symbols = functions.iter().map(|(start, _)| *start).chain(labels.iter().copied());
        let piece = Piece { start: 0x1000, code, symbols: sorted(symbols.collect()), functions };
        let mut found = HashMap::new();
        piece.reached_x86(&labels.iter().copied().collect(), &mut found);
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable();
        found
    }

    /// Check that a table after a function is not taken for code, though it can be decoded; also not if
    /// the function is said to be long enough to hold it.
    #[test]
    fn tables_are_not_code() {
        // lea rax, [rip+…]; movzx eax, byte [rax+rdi]; ret; then the bytes of a table, which as code jump
        // to where the second label is
        let code = b"\x48\x8d\x05\x05\0\0\0\x0f\xb6\x04\x38\xc3\x11\x22\x75\x01\x66\x77\x90";
        for size in [12, 19, 0] {
            let functions = [(0x1000, size)];
            assert_eq!(reached_in(code, &functions, &[0x100c, 0x1011]), [], "{size}");
        }
    }

    /// Check that a label is code if its function runs or jumps into it, and more if one calls it, from
    /// wherever that is.
    #[test]
    fn labels_that_are_reached_are_code() {
        // f: jmp 1005; nop; (1003, never executed) ud2; 1005: call 100b; ret; 100b: nop; 100c: ret
        let code = b"\xeb\x03\x90\x0f\x0b\xe8\x01\0\0\0\xc3\x90\xc3";
        let functions = [(0x1000, 11)];
        assert_eq!(
            reached_in(code, &functions, &[0x1003, 0x1005, 0x100b]),
            [(0x1005, Reached::Passed), (0x100b, Reached::Called)]
        );
        // push rbx; label: pop rbx; ret
        assert_eq!(
            reached_in(b"\x53\x5b\xc3", &[(0x1000, 0)], &[0x1001]),
            [(0x1001, Reached::Passed)]
        );
    }

    /// Check that a call from far away counts though its function has no symbol, and the same bytes close
    /// by, which may be a table's numbers, do not.
    #[test]
    fn stripped_callers_are_seen_from_afar() {
        let (near, far) = (0x1020, 0x1000 + 0x200);
        let code = |label: u64| {
            let mut code = b"\xc3\xe8".to_vec();
            code.extend(((label - 0x1006) as u32).to_le_bytes());
            code.resize(0x204, 0x90);
            code
        };
        assert_eq!(reached_in(&code(near), &[(0x1000, 1)], &[near]), []);
        assert_eq!(reached_in(&code(far), &[(0x1000, 1)], &[far]), [(far, Reached::Called)]);
    }

    /// Check that a call is also found where only a jump table leads, in a function that is all code.
    #[test]
    fn calls_behind_jump_tables_are_found() {
        // jmp rax; call 1008; ret; 1008: ret
        let code = b"\xff\xe0\xe8\x01\0\0\0\xc3\xc3";
        let called = [(0x1008, Reached::Called)];
        assert_eq!(reached_in(code, &[(0x1000, 8)], &[0x1008]), called);
        assert_eq!(reached_in(code, &[(0x1000, 8)], &[0x1002, 0x1008]), []);
    }
}
