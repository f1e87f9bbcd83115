//! Where a function's calls end: its `ret` instructions, and the jumps by which it leaves for another
//! function.
//!
//! The code is decoded along every path from the entry. A direct jump is followed wherever it goes: to a cold
//! part of the function, or to another function that returns in its place (a tail call), whose `ret`s are
//! then exits as well. An indirect jump is a `switch` whose table is read, or a tail call, at which the call
//! ends for us. What is neither for certain makes the function unfit: a breakpoint on something that is not
//! an instruction would change the program, and an exit that is missing would lose calls.

use std::collections::{BTreeMap, HashSet};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

use super::{
    code::Code as Text,
    registers::{bound, ends_in_call, last_write, switches_stack, writes},
};
use crate::{
    instruction::{LONGEST, near_target},
    stack_check::StackCheck,
};

/// More instructions than this are not decoded for one function.
const MOST_INSTRUCTIONS: usize = 50_000;
/// More exits than this are not watched for one function.
const MOST_EXITS: usize = 128;
/// How many instructions before an indirect jump are searched for where it goes.
const LOOK_BACK: usize = 24;

/// How a call ends at an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitKind {
    /// It returns.
    Return,
    /// It jumps to code that nobody can name beforehand, which then returns in its place: what it
    /// returns is not known.
    Leaves,
}

/// Where a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundExit {
    /// Address of the instruction.
    pub(super) address: u64,
    pub(super) kind: ExitKind,
    /// It is outside the function, so others arrive there too.
    pub(super) is_shared: bool,
}

/// What is known about how a function's calls end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exits {
    /// By rising address; none if every path ends elsewhere, in `abort` or an exception.
    pub(super) exits: Vec<FoundExit>,
    /// Whether it may end by a jump to another function.
    pub(super) has_tails: bool,
    /// Direct calls, by target.
    pub(super) calls: Vec<u64>,
    /// Whether it calls code that is not known: through a pointer, or in another file.
    pub(super) calls_unknown: bool,
    /// Whether it takes its stack pointer from elsewhere, as a switch to another stack does.
    pub(super) switches_stacks: bool,
}

/// Why a function's exits are not all known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitsUnknown {
    /// Its symbol has no size, or its code cannot be read.
    NoCode,
    /// Something on the way is not an instruction, or there is none where one should begin.
    Undecodable,
    /// An indirect jump may go anywhere.
    JumpsAnywhere,
    /// It jumps back to its entry, so a call cannot be told from a loop.
    JumpsToEntry,
    /// It has more exits, or more code, than are watched.
    TooMany,
    /// The kernel cannot put a breakpoint on one of the exits.
    Unsupported,
    /// It begins with a jump that leaves it.
    Empty,
    /// It does nothing but return.
    OnlyReturns,
    /// This architecture's code is not decoded.
    Architecture,
    /// It belongs to a Go program whose goroutines cannot be told apart: it was compiled by a version that
    /// is not known.
    Routines,
    /// It changes from one stack to another.
    SwitchesStacks,
}

/// Where a function's calls begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// At its first instruction.
    First,
    /// Go's function: behind the check of its stack, if it has one.
    Go(Option<StackCheck>),
}

/// Follows the code of the function at `entry`, whose symbol says that it has `size_bytes`.
pub(super) fn exits(
    text: &Text,
    entry: u64,
    size_bytes: u64,
    entered: Entered,
) -> Result<Exits, ExitsUnknown> {
    if size_bytes == 0 {
        return Err(ExitsUnknown::NoCode);
    }
    let check = match entered {
        Entered::Go(check) => check,
        Entered::First => None,
    };
    let body = check.map_or(entry, |check| entry + check.body);
    let mut walk = Walk {
        text,
        entry,
        body,
        back: check.map(|check| entry + check.back),
        end: entry.checked_add(size_bytes).ok_or(ExitsUnknown::NoCode)?,
        seen: BTreeMap::new(),
        pending: vec![body],
        exits: Vec::new(),
        calls: HashSet::new(),
        calls_unknown: false,
        switches_stacks: false,
        has_pointer: false,
        bases: Vec::new(),
        tables: Vec::new(),
    };
    walk.run()?;
    // A pointer through which code is reached that nothing else leads to, as in an interpreter whose
    // instructions are addresses in it.
    if walk.has_pointer && walk.has_unseen_code() {
        return Err(ExitsUnknown::JumpsAnywhere);
    }
    if let Entered::Go(_) = entered {
        // A function that has recovered from a panic goes on where nothing jumps to. There is no data in
        // between.
        loop {
            let Some((address, _)) = walk.gaps(walk.body).next() else { break };
            walk.pending.push(address);
            walk.run()?;
        }
        if walk.switches_stacks {
            return Err(ExitsUnknown::SwitchesStacks);
        }
    }
    walk.done()
}

/// The state of the walk.
struct Walk<'a> {
    text: &'a Text,
    entry: u64,
    /// Where it goes on if Go's check finds its stack large enough; else its entry.
    body: u64,
    /// The jump by which it starts again if not.
    back: Option<u64>,
    end: u64,
    /// Length of each instruction that was decoded, by address.
    seen: BTreeMap<u64, u8>,
    /// Where to go on.
    pending: Vec<u64>,
    exits: Vec<FoundExit>,
    calls: HashSet<u64>,
    calls_unknown: bool,
    switches_stacks: bool,
    /// It leaves through a pointer: that one may also lead back into it.
    has_pointer: bool,
    /// `lea register, [rip+…]` anywhere in the function: the base of a table may be loaded early.
    bases: Vec<(Register, u64)>,
    /// Indirect jumps whose table was not known yet, with what precedes them.
    tables: Vec<Vec<Instruction>>,
}

/// Where an indirect jump goes.
enum Indirect {
    /// To these addresses of the function.
    Table(Vec<u64>),
    /// To another function.
    Tail,
    /// A table whose base has not been found so far.
    NoBase,
}

impl Walk<'_> {
    fn is_inside(&self, address: u64) -> bool {
        (self.entry..self.end).contains(&address)
    }

    /// What was not decoded of the function, from an address on: where each piece begins and ends.
    fn gaps(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut next = from;
        let seen = self.seen.range(from..self.end).map(|(at, length)| (*at, *length));
        seen.chain(std::iter::once((self.end, 0))).filter_map(move |(address, length)| {
            let gap = (next, address);
            next = next.max(address + u64::from(length));
            (gap.0 < gap.1).then_some(gap)
        })
    }

    /// Whether the function has code that was not decoded: more than what pads it.
    fn has_unseen_code(&self) -> bool {
        self.gaps(self.entry).any(|(from, to)| !self.is_padding(from, to))
    }

    /// Whether there is nothing but padding between two addresses.
    fn is_padding(&self, from: u64, to: u64) -> bool {
        let Some(code) = self.text.code(from, (to - from) as usize) else { return true };
        let pads = |instruction: Instruction| {
            matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
        };
        let mut decoder = Decoder::with_ip(64, code, from, DecoderOptions::NONE);
        code.iter().all(|byte| *byte == 0) || decoder.iter().all(pads)
    }

    fn run(&mut self) -> Result<(), ExitsUnknown> {
        loop {
            while let Some(address) = self.pending.pop() {
                self.follow(address)?;
            }
            let before = self.tables.len();
            for chain in std::mem::take(&mut self.tables) {
                match self.indirect(&chain)? {
                    Indirect::NoBase => self.tables.push(chain),
                    Indirect::Table(targets) => self.pending.extend(targets),
                    Indirect::Tail => return Err(ExitsUnknown::JumpsAnywhere),
                }
            }
            if self.pending.is_empty() {
                return if self.tables.is_empty() {
                    Ok(())
                } else if self.tables.len() == before {
                    Err(ExitsUnknown::JumpsAnywhere)
                } else {
                    continue;
                };
            }
        }
    }

    /// Decodes from an address to the end of the straight code there.
    fn follow(&mut self, start: u64) -> Result<(), ExitsUnknown> {
        let mut address = start;
        let mut chain: Vec<Instruction> = Vec::new();
        loop {
            if self.seen.contains_key(&address) {
                return Ok(());
            }
            if self.overlaps(address) {
                return Err(ExitsUnknown::Undecodable);
            }
            if self.seen.len() >= MOST_INSTRUCTIONS {
                return Err(ExitsUnknown::TooMany);
            }
            let code = self.text.code(address, LONGEST).ok_or(ExitsUnknown::Undecodable)?;
            let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
            if instruction.is_invalid() {
                return Err(ExitsUnknown::Undecodable);
            }
            self.seen.insert(address, instruction.len() as u8);
            if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
                let address = instruction.ip_rel_memory_address();
                // The address of a place in its own code is taken: something may come back there.
                if self.is_inside(address) && address != self.entry {
                    return Err(ExitsUnknown::JumpsAnywhere);
                }
                self.bases.push((instruction.op0_register().full_register(), address));
            }
            self.switches_stacks |= switches_stack(&instruction);
            chain.push(instruction);
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::Call => self.note_call(&instruction),
                FlowControl::IndirectCall => self.calls_unknown = true,
                FlowControl::Return => {
                    // `iret` and far returns are not how functions end.
                    let near = matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16);
                    return if near {
                        self.add_exit(address, ExitKind::Return)
                    } else {
                        Err(ExitsUnknown::Undecodable)
                    };
                }
                FlowControl::ConditionalBranch => self.branch(instruction.near_branch_target())?,
                FlowControl::UnconditionalBranch if self.back == Some(address) => return Ok(()),
                FlowControl::UnconditionalBranch => {
                    let target = near_target(&instruction).ok_or(ExitsUnknown::JumpsAnywhere)?;
                    // To a function of another file: the jump itself is the better place, because all
                    // callers of that function in this file come through its stub.
                    if !self.is_inside(target) && self.text.is_stub(target) {
                        return self.add_exit(address, ExitKind::Leaves);
                    }
                    return self.branch(target);
                }
                FlowControl::IndirectBranch => {
                    let from = chain.len().saturating_sub(LOOK_BACK);
                    match self.indirect(&chain[from..])? {
                        Indirect::Table(targets) => self.pending.extend(targets),
                        Indirect::Tail => {
                            self.has_pointer = true;
                            return self.add_exit(address, ExitKind::Leaves);
                        }
                        Indirect::NoBase => self.tables.push(chain[from..].to_vec()),
                    }
                    return Ok(());
                }
                // Code goes on after a breakpoint, but not after what pads functions apart.
                FlowControl::Interrupt if instruction.code() == Code::Int3 => {
                    if !self.is_inside(instruction.next_ip()) {
                        return Ok(());
                    }
                }
                FlowControl::Interrupt => return Err(ExitsUnknown::Undecodable),
                FlowControl::Exception => return Ok(()),
                FlowControl::XbeginXabortXend => return Err(ExitsUnknown::JumpsAnywhere),
            }
            let next = instruction.next_ip();
            // Past the function's end, or into the next one: what was called before does not return. Otherwise
            // the function goes on there.
            let is_end =
                next == self.end || (!self.is_inside(next) && self.text.begins_function(next));
            if is_end && ends_in_call(&chain) {
                return Ok(());
            }
            address = next;
        }
    }

    /// Whether the address is inside an instruction that was decoded.
    fn overlaps(&self, address: u64) -> bool {
        let before = self.seen.range(..address).next_back();
        before.is_some_and(|(start, length)| start + u64::from(*length) > address)
    }

    fn note_call(&mut self, instruction: &Instruction) {
        // A system call is none.
        if let Some(target) = near_target(instruction) {
            if self.text.is_stub(target) {
                self.calls_unknown = true;
            } else if target != instruction.next_ip() {
                self.calls.insert(target);
            }
        }
    }

    fn branch(&mut self, target: u64) -> Result<(), ExitsUnknown> {
        if (self.entry..=self.body).contains(&target) {
            return Err(ExitsUnknown::JumpsToEntry);
        }
        self.pending.push(target);
        Ok(())
    }

    fn add_exit(&mut self, address: u64, kind: ExitKind) -> Result<(), ExitsUnknown> {
        if self.exits.len() >= MOST_EXITS {
            return Err(ExitsUnknown::TooMany);
        }
        let is_shared = !self.is_inside(address);
        self.exits.push(FoundExit { address, kind, is_shared });
        Ok(())
    }

    fn done(mut self) -> Result<Exits, ExitsUnknown> {
        // Two paths may have been decoded out of step.
        let mut end = 0;
        for (address, length) in &self.seen {
            if *address < end {
                return Err(ExitsUnknown::Undecodable);
            }
            end = address + u64::from(*length);
        }
        self.exits.sort_unstable_by_key(|exit| exit.address);
        self.exits.dedup();
        match self.exits.iter().find(|exit| exit.address == self.entry).map(|exit| exit.kind) {
            Some(ExitKind::Return) => return Err(ExitsUnknown::OnlyReturns),
            Some(ExitKind::Leaves) => return Err(ExitsUnknown::Empty),
            None => {}
        }
        let has_tails =
            self.exits.iter().any(|exit| exit.is_shared || exit.kind == ExitKind::Leaves);
        let mut calls: Vec<u64> = self.calls.into_iter().collect();
        calls.sort_unstable();
        let (calls_unknown, switches_stacks) = (self.calls_unknown, self.switches_stacks);
        Ok(Exits { exits: self.exits, has_tails, calls, calls_unknown, switches_stacks })
    }

    /// Where the indirect jump at the end of `chain` goes.
    fn indirect(&self, chain: &[Instruction]) -> Result<Indirect, ExitsUnknown> {
        let Some((jump, before)) = chain.split_last() else {
            return Err(ExitsUnknown::JumpsAnywhere);
        };
        if jump.op0_kind() == OpKind::Memory {
            let has_index = jump.memory_index() != Register::None;
            return if !has_index {
                // Through a slot of the file, or a field of an object: a function pointer.
                Ok(Indirect::Tail)
            } else if jump.memory_base() != Register::None && jump.memory_index_scale() == 8 {
                // Go: `lea base, [rip+table]; jmp [base+index*8]`
                let table = last_write(before, jump.memory_base()).map(|at| &before[at]);
                let table = table.filter(|lea| {
                    lea.mnemonic() == Mnemonic::Lea && lea.is_ip_rel_memory_operand()
                });
                let bound = bound(before, jump.memory_index());
                match (table, bound) {
                    (Some(lea), Some(bound)) if jump.memory_displacement64() == 0 => {
                        self.pointers(lea.ip_rel_memory_address(), bound)
                    }
                    _ => Err(ExitsUnknown::JumpsAnywhere),
                }
            } else if jump.memory_base() == Register::None && jump.memory_index_scale() == 8 {
                let bound = bound(before, jump.memory_index());
                let bound = bound.ok_or(ExitsUnknown::JumpsAnywhere)?;
                self.pointers(jump.memory_displacement64(), bound)
            } else {
                Err(ExitsUnknown::JumpsAnywhere)
            };
        }
        let target = jump.op0_register().full_register();
        let Some(at) = last_write(before, target) else {
            // An argument, or something that was computed long before.
            return Err(ExitsUnknown::JumpsAnywhere);
        };
        let (write, earlier) = (&before[at], &before[..at]);
        match write.mnemonic() {
            // `movsxd target, [base+index*4]`; `add target, base`
            Mnemonic::Add if write.op1_kind() == OpKind::Register => {
                self.offsets(earlier, target, write.op1_register().full_register())
            }
            Mnemonic::Mov if write.op1_kind() == OpKind::Memory => {
                if write.memory_index() == Register::None {
                    return Ok(Indirect::Tail);
                }
                if write.memory_base() != Register::None || write.memory_index_scale() != 8 {
                    return Err(ExitsUnknown::JumpsAnywhere);
                }
                let bound = bound(earlier, write.memory_index());
                let bound = bound.ok_or(ExitsUnknown::JumpsAnywhere)?;
                self.pointers(write.memory_displacement64(), bound)
            }
            _ => Err(ExitsUnknown::JumpsAnywhere),
        }
    }

    /// The targets of a table of distances from its own beginning. One of the two registers that were
    /// added holds the distance, and the other the table's address.
    fn offsets(
        &self,
        earlier: &[Instruction],
        one: Register,
        other: Register,
    ) -> Result<Indirect, ExitsUnknown> {
        for (distance, base) in [(one, other), (other, one)] {
            let Some(at) = last_write(earlier, distance) else { continue };
            let load = &earlier[at];
            let is_load = load.mnemonic() == Mnemonic::Movsxd
                && load.op1_kind() == OpKind::Memory
                && load.memory_base().full_register() == base
                && load.memory_index() != Register::None
                && load.memory_index_scale() == 4
                && load.memory_displacement64() == 0;
            if !is_load {
                continue;
            }
            let bound = bound(&earlier[..at], load.memory_index());
            let bound = bound.ok_or(ExitsUnknown::JumpsAnywhere)?;
            let in_chain = earlier[..at].iter().rev().find(|instruction| writes(instruction, base));
            let table = match in_chain {
                Some(lea) if lea.mnemonic() == Mnemonic::Lea && lea.is_ip_rel_memory_operand() => {
                    lea.ip_rel_memory_address()
                }
                Some(_) => return Err(ExitsUnknown::JumpsAnywhere),
                None => {
                    let mut found = self.bases.iter().filter(|(register, _)| *register == base);
                    match (found.next(), found.next()) {
                        (Some((_, table)), None) => *table,
                        (None, _) => return Ok(Indirect::NoBase),
                        _ => return Err(ExitsUnknown::JumpsAnywhere),
                    }
                }
            };
            let bytes = self.text.data(table, bound * 4).ok_or(ExitsUnknown::JumpsAnywhere)?;
            let targets = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|entry| table.wrapping_add_signed(i64::from(i32::from_le_bytes(*entry))));
            return self.checked(targets.collect());
        }
        Err(ExitsUnknown::JumpsAnywhere)
    }

    /// The targets of a table of addresses.
    fn pointers(&self, table: u64, bound: u64) -> Result<Indirect, ExitsUnknown> {
        let bytes = self.text.data(table, bound * 8).ok_or(ExitsUnknown::JumpsAnywhere)?;
        let targets = bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        self.checked(targets.collect())
    }

    /// All of them must be in the function or in a cold part: a table of functions looks the same.
    fn checked(&self, targets: Vec<u64>) -> Result<Indirect, ExitsUnknown> {
        let is_own = |target: &u64| {
            *target != self.entry && (self.is_inside(*target) || self.text.is_cold(*target))
        };
        if targets.is_empty() || !targets.iter().all(is_own) {
            return Err(ExitsUnknown::JumpsAnywhere);
        }
        Ok(Indirect::Table(targets))
    }
}
