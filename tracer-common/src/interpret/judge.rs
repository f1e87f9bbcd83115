//! The interpreter of conditions: see [`crate::condition`].
//!
//! One loop of small steps: a step decides a number, or compares a chunk of a text, or faults in a
//! page that an earlier step has missed. Nothing is held, so a fault may take its time.

use super::{Memory, PAGE_BYTES};
use crate::{
    condition::{
        ACCEPT, CHUNK_BYTES, Comparison, NOT_SAVED, REJECT, SAVED_UNDECIDED, Source, TEXT_BYTES,
        Test,
    },
    program::REGISTERS,
};

/// Steps per condition: enough for each test with the longest text, and the same number of faults.
pub const MAX_STEPS: u32 = 1024;
/// From this step on nothing is faulted in, so that the remaining steps are enough to finish.
pub const LAST_FAULTING_STEP: u64 = 512;
/// Bytes of a task's name, with its terminator.
const COMM_BYTES: u64 = 16;
/// Words of a chunk.
pub const CHUNK_WORDS: usize = CHUNK_BYTES / 8;

/// The part of a value that is compared with a chunk, and one more word for a terminator.
pub type Chunk = [u64; CHUNK_WORDS + 1];

/// All that the steps of one condition share.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Judging {
    /// The argument registers; at the return, what takes their place.
    pub registers: [u64; REGISTERS],
    /// The stack pointer at the function's entry.
    pub stack_pointer: u64,
    /// Index of the next test; in the end [`ACCEPT`] or [`REJECT`].
    pub next: u64,
    /// Bytes of its text that are equal so far.
    pub position: u64,
    /// Results for the return, and [`SAVED_UNDECIDED`].
    pub saved: u64,
}

/// What a condition says of a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The hit matches.
    pub accepted: bool,
    /// The results that the return needs; and whether a value could not be read.
    pub saved: u16,
}

impl Judged {
    /// Of a condition that cannot be read.
    pub const UNDECIDED: Self = Self { accepted: false, saved: SAVED_UNDECIDED };
}

/// The hit, and the texts that conditions compare with.
pub trait Facts: Memory {
    /// Process (upper half) and task (lower half), as the user numbers them.
    fn pid_tgid(&self) -> u64;

    /// Writes the task's name and a terminator to the chunk's first `bytes` bytes, cut where there are
    /// fewer; `bytes` is at most 16.
    fn comm(&self, chunk: &mut Chunk, bytes: u32);

    /// Copies `bytes` bytes at `address`; whether all of them are resident. `bytes` is at most
    /// [`CHUNK_BYTES`].
    fn copy(&self, chunk: &mut Chunk, bytes: u32, address: u64) -> bool;

    /// Copies the string at `address` with its terminator, cut to `bytes` bytes with it; whether all
    /// of that is resident. `bytes` is at most [`CHUNK_BYTES`] + 1.
    fn copy_str(&self, chunk: &mut Chunk, bytes: u32, address: u64) -> bool;

    /// The chunk of a text at `position`. The whole chunk lies within [`TEXT_BYTES`].
    fn text(&self, text: u32, position: u64) -> Option<&[u64; CHUNK_WORDS]>;
}

/// What came of one step.
enum Step {
    Decided(bool),
    /// The chunk is equal, and there are more.
    Equal,
    /// `bytes` at `address` are not resident.
    NotResident {
        address: u64,
        bytes: u64,
    },
}

impl Judging {
    /// One step, with the test that [`next`](Self::next) names; whether the condition is decided.
    #[inline(always)]
    pub fn step(&mut self, index: u64, test: &Test, facts: &impl Facts) -> bool {
        let outcome = if test.comparison >= Comparison::Str as u8 {
            self.compare_text(test, facts)
        } else {
            self.compare_number(test, facts)
        };
        let holds = match outcome {
            Step::Decided(holds) => holds != (test.negated != 0),
            Step::Equal => {
                self.position += CHUNK_BYTES as u64;
                return false;
            }
            Step::NotResident { address, bytes } => {
                if index < LAST_FAULTING_STEP && make_resident(address, bytes, facts) {
                    return false;
                }
                self.saved |= u64::from(SAVED_UNDECIDED);
                false
            }
        };
        if test.save != NOT_SAVED {
            self.saved |= u64::from(holds) << (test.save & 0xf);
        }
        self.position = 0;
        self.next = u64::from(if holds { test.on_true } else { test.on_false });
        self.next >= u64::from(REJECT)
    }

    /// What the condition says, once it is decided. One that is not by now rejects.
    #[inline(always)]
    pub fn judged(&self) -> Judged {
        Judged { accepted: self.next == u64::from(ACCEPT), saved: self.saved as u16 }
    }

    #[inline(always)]
    fn compare_number(&self, test: &Test, facts: &impl Facts) -> Step {
        let raw = match self.value(test, facts) {
            Ok(value) => value,
            Err(address) => return Step::NotResident { address, bytes: 8 },
        };
        let shift = u32::from(test.shift & 63);
        let cut = raw << shift;
        let number = if test.signed != 0 { ((cut as i64) >> shift) as u64 } else { cut >> shift };
        let number = (number & test.mask) ^ test.bias;
        Step::Decided(if test.comparison == Comparison::Equal as u8 {
            number == test.constant
        } else if test.comparison == Comparison::Less as u8 {
            number < test.constant
        } else {
            number > test.constant
        })
    }

    /// The 64 bits that a test is about; or the address that they could not be read from.
    #[inline(always)]
    fn value(&self, test: &Test, facts: &impl Facts) -> Result<u64, u64> {
        if test.source == Source::Stack as u8 {
            let address = self.stack_pointer.wrapping_add(u64::from(test.stack_offset));
            return facts.word(address).ok_or(address);
        }
        Ok(if test.source == Source::Pid as u8 {
            facts.pid_tgid() >> 32
        } else if test.source == Source::Tid as u8 {
            facts.pid_tgid() & 0xffff_ffff
        } else {
            self.registers[test.register as usize & (REGISTERS - 1)]
        })
    }

    /// Compares the next chunk.
    ///
    /// What is read goes into a buffer of zeros, and the text is padded with zeros, so whole words can
    /// be compared, however short the rest is: of a string no more is read than is to be compared, and
    /// it ends in a zero.
    #[inline(always)]
    fn compare_text<F: Facts>(&self, test: &Test, facts: &F) -> Step {
        let mut chunk: Chunk = [0; CHUNK_WORDS + 1];
        let left = u64::from(test.text_bytes).wrapping_sub(self.position);
        let bytes = if left > CHUNK_BYTES as u64 { CHUNK_BYTES as u64 } else { left };
        if test.source == Source::Comm as u8 {
            // Room for the terminator, which is always written.
            let room = if bytes >= COMM_BYTES { COMM_BYTES } else { bytes + 1 };
            facts.comm(&mut chunk, room as u32);
        } else {
            let pointer = match self.value(test, facts) {
                Ok(pointer) => pointer,
                Err(address) => return Step::NotResident { address, bytes: 8 },
            };
            let address = pointer.wrapping_add(self.position);
            if test.comparison == Comparison::Str as u8 {
                // As above. A longer string has a byte there, which has to be resident as well.
                let bytes = bytes + 1;
                if !facts.copy_str(&mut chunk, bytes as u32, address) {
                    return Step::NotResident { address, bytes };
                }
            } else if !facts.copy(&mut chunk, bytes as u32, address) {
                return Step::NotResident { address, bytes };
            }
        }
        let position = F::mask::<{ (TEXT_BYTES - CHUNK_BYTES) as u64 }>(self.position);
        let Some(text) = facts.text(test.text, position) else { return Step::Decided(false) };
        let mut difference = 0;
        for (word, wanted) in chunk.iter().zip(text) {
            difference |= word ^ wanted;
        }
        if difference != 0 {
            Step::Decided(false)
        } else if left <= CHUNK_BYTES as u64 {
            Step::Decided(true)
        } else {
            Step::Equal
        }
    }
}

/// Brings what is missing of a chunk into memory, a page at a time; whether to try again.
#[inline(always)]
fn make_resident(address: u64, bytes: u64, memory: &impl Memory) -> bool {
    let mut missing = address;
    if memory.is_resident(address) {
        missing = (address | (PAGE_BYTES - 1)).wrapping_add(1);
        if missing.wrapping_sub(address) >= bytes {
            // The first page has become resident in the meantime, and there is no second one.
            return true;
        }
    }
    memory.fault_in(missing).is_ok()
}
