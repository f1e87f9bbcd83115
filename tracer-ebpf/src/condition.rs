//! The interpreter of conditions: see [`tracer_common::condition`].
//!
//! One loop of small steps: a step decides one number, or compares one chunk of a text, or faults
//! a page in that a step before has missed. Nothing is held, so a fault may take its time.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_loop, bpf_probe_read_user, bpf_probe_read_user_str,
};
use tracer_common::{
    condition::{
        ACCEPT, CHUNK_BYTES, Comparison, MAX_TESTS, NOT_SAVED, REJECT, SAVED_UNDECIDED, Source,
        TEXT_BYTES, Test,
    },
    program::REGISTERS,
};

use crate::{fault, maps, stats::Site};

/// Steps of one condition: each test with the longest text, and as many pages to fault in.
const MAX_STEPS: u32 = 1024;
/// From this step on nothing is faulted in any more, so that the rest suffices to finish.
const LAST_FAULTING_STEP: u64 = 512;
const PAGE_BYTES: u64 = 4096;
const COMM_BYTES: u64 = 16;
const CHUNK_WORDS: usize = CHUNK_BYTES / 8;

/// All that the steps share. It lives on the stack of the program, so it survives a sleep and no
/// other hit can touch it.
#[repr(C)]
pub(crate) struct Judging {
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    tests: *const Test,
    /// Index of the next test; in the end `ACCEPT` or `REJECT`.
    next: u64,
    /// Bytes of its text that are equal so far.
    position: u64,
    /// Results for the return, and `SAVED_UNDECIDED`.
    saved: u64,
    site: Site,
}

/// What a condition says of a hit.
pub(crate) struct Judged {
    pub(crate) accepted: bool,
    /// The results that the return needs; and whether a value could not be read.
    pub(crate) saved: u16,
}

/// What came of one step.
enum Step {
    Decided(bool),
    /// The chunk is equal, and there are more.
    GoOn,
    /// `bytes` at `address` are not resident.
    NotResident {
        address: u64,
        bytes: u64,
    },
}

/// Judges a hit by the condition of this index.
#[inline(always)]
pub(crate) fn judge(
    site: &Site,
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    condition: u32,
    place: &mut MaybeUninit<Judging>,
) -> Judged {
    let rejected = Judged { accepted: false, saved: SAVED_UNDECIDED };
    let Some(condition) = maps::CONDITIONS.get_ptr(condition) else { return rejected };
    let Some(zero) = maps::zero() else { return rejected };
    // SAFETY: the pointer is to a live map element.
    let zero = || unsafe { zero.read_volatile() };
    let judging = place.write(Judging {
        registers,
        stack_pointer,
        // SAFETY: the pointer is to a live map element.
        tests: unsafe { (&raw const (*condition).tests).cast() },
        next: zero(),
        position: zero(),
        saved: zero(),
        site: Site { probe: site.probe, cpu: site.cpu, pid_tgid: site.pid_tgid },
    });
    let judging = &raw mut *judging;
    // SAFETY: the callback has the signature that the helper documents, and `judging` outlives it.
    unsafe { bpf_loop(MAX_STEPS, step as *mut _, judging.cast(), 0) };
    // SAFETY: it was written above, and the loop has ended.
    let judging = unsafe { &*judging };
    Judged { accepted: judging.next == u64::from(ACCEPT), saved: judging.saved as u16 }
}

/// One step; 1 ends the loop.
unsafe extern "C" fn step(index: u64, judging: *mut Judging) -> i64 {
    // SAFETY: the loop's context is the `Judging` of `judge`.
    let judging = unsafe { &mut *judging };
    let next = masked::<{ MAX_TESTS as u64 - 1 }>(judging.next);
    // SAFETY: a condition has `MAX_TESTS` tests.
    let test = unsafe { &*judging.tests.add(next as usize) };
    let outcome = if test.comparison >= Comparison::Str as u8 {
        compare_text(judging, test)
    } else {
        compare_number(judging, test)
    };
    let holds = match outcome {
        Step::Decided(holds) => holds != (test.negated != 0),
        Step::GoOn => {
            judging.position += CHUNK_BYTES as u64;
            return 0;
        }
        Step::NotResident { address, bytes } => {
            if index < LAST_FAULTING_STEP && make_resident(&judging.site, address, bytes) {
                return 0;
            }
            judging.saved |= u64::from(SAVED_UNDECIDED);
            false
        }
    };
    if test.save != NOT_SAVED {
        judging.saved |= u64::from(holds) << (test.save & 0xf);
    }
    judging.position = 0;
    judging.next = u64::from(if holds { test.on_true } else { test.on_false });
    i64::from(judging.next >= u64::from(REJECT))
}

#[inline(always)]
fn compare_number(judging: &Judging, test: &Test) -> Step {
    let raw = match value(judging, test) {
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
fn value(judging: &Judging, test: &Test) -> Result<u64, u64> {
    if test.source == Source::Stack as u8 {
        let address = judging.stack_pointer.wrapping_add(u64::from(test.stack_offset));
        let mut value = 0u64;
        // SAFETY: the destination is eight bytes of our stack; the helper checks the address.
        let result =
            unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const _) };
        return if result == 0 { Ok(value) } else { Err(address) };
    }
    Ok(if test.source == Source::Pid as u8 {
        judging.site.pid_tgid >> 32
    } else if test.source == Source::Tid as u8 {
        judging.site.pid_tgid & 0xffff_ffff
    } else {
        judging.registers[test.register as usize & (REGISTERS - 1)]
    })
}

/// Compares the next chunk.
///
/// What is read goes into a buffer of zeros, and the text is padded with zeros, so whole words can
/// be compared, however short the rest is: of a string no more is read than is to be compared, and
/// it ends in a zero.
#[inline(always)]
fn compare_text(judging: &Judging, test: &Test) -> Step {
    let mut buffer = [0u64; CHUNK_WORDS + 1];
    let place = (&raw mut buffer).cast::<core::ffi::c_void>();
    let left = u64::from(test.text_bytes).wrapping_sub(judging.position);
    let bytes = if left > CHUNK_BYTES as u64 { CHUNK_BYTES as u64 } else { left };
    if test.source == Source::Comm as u8 {
        // Room for the terminator, which the helper always writes.
        let room = if bytes >= COMM_BYTES { COMM_BYTES } else { bytes + 1 };
        // SAFETY: the buffer has room; the helper can only fail without a current task.
        unsafe { bpf_get_current_comm(place, room as u32) };
    } else {
        let pointer = match value(judging, test) {
            Ok(pointer) => pointer,
            Err(address) => return Step::NotResident { address, bytes: 8 },
        };
        let address = pointer.wrapping_add(judging.position);
        let result = if test.comparison == Comparison::Str as u8 {
            // As above.
            // SAFETY: the buffer has room; the helper checks the address.
            unsafe { bpf_probe_read_user_str(place, bytes as u32 + 1, address as *const _) }
        } else {
            // SAFETY: the buffer has room; the helper checks the address.
            unsafe { bpf_probe_read_user(place, bytes as u32, address as *const _) }
        };
        if result < 0 {
            return Step::NotResident { address, bytes };
        }
    }
    let Some(text) = maps::TEXTS.get_ptr(test.text) else { return Step::Decided(false) };
    let position = masked::<{ (TEXT_BYTES - CHUNK_BYTES) as u64 }>(judging.position);
    // SAFETY: a chunk from here lies within the text.
    let words = unsafe { text.cast::<u8>().add(position as usize) }.cast::<u64>();
    let mut difference = 0;
    for (index, word) in buffer.iter().take(CHUNK_WORDS).enumerate() {
        // SAFETY: as above; texts are eight-byte aligned, and so are chunks.
        difference |= word ^ unsafe { words.add(index).read() };
    }
    if difference != 0 {
        Step::Decided(false)
    } else if left <= CHUNK_BYTES as u64 {
        Step::Decided(true)
    } else {
        Step::GoOn
    }
}

/// Brings what is missing of a chunk into memory, a page at a time; whether to try again.
#[inline(always)]
fn make_resident(site: &Site, address: u64, bytes: u64) -> bool {
    let mut byte = 0u8;
    // SAFETY: the destination is one byte of our stack; the helper checks the address.
    let result = unsafe { bpf_probe_read_user((&raw mut byte).cast(), 1, address as *const _) };
    let mut missing = address;
    if result == 0 {
        missing = (address | (PAGE_BYTES - 1)).wrapping_add(1);
        if missing.wrapping_sub(address) >= bytes {
            // The first page has come by itself, and there is no second one.
            return true;
        }
    }
    fault::fault_in(site, missing).is_ok()
}

/// `value & MASK`, as a number of which the compiler knows nothing: it would otherwise leave the
/// mask out where it sees no need, and the kernel's verifier does.
#[inline(always)]
fn masked<const MASK: u64>(value: u64) -> u64 {
    let mut bounded = value;
    // SAFETY: the instruction only changes its own operand.
    unsafe {
        asm!("{0} &= {1}", inout(reg) bounded, const MASK, options(pure, nomem, nostack));
    }
    bounded
}
