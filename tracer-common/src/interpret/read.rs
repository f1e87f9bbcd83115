//! The interpreter of argument programs: see [`crate::program`].
//!
//! Reads are optimistic. An *attempt* has a record of one size class, runs all operations with reads
//! that do not fault, and either has filled it or says what stood in the way: the class is too small,
//! or memory is not resident. Then the record is given back, one page is faulted in with nothing
//! held, and the next attempt begins from the start.

use super::{Memory, PAGE_BYTES};
use crate::{
    counter::Counter,
    program::{ON_STACK, REGISTERS, ReadKind, ReadOp},
    record::{BlobRef, CLASSES, ReadStatus, SizeClass},
};

/// Attempts per hit. A hit that needs more reads memory that is evicted as fast as it is faulted in.
pub const MAX_ATTEMPTS: u32 = 256;
/// From this attempt on nothing is faulted in: each attempt gives up one slot whose memory is not
/// resident, so that the remaining attempts are enough to finish.
pub const LAST_FAULTING_ATTEMPT: u64 = 200;
/// The most pages that one string or range can span, wherever it begins.
pub const MAX_PAGES: u32 = (CLASSES[3].max_object as u64).div_ceil(PAGE_BYTES) as u32 + 1;

/// All that the attempts of one hit share.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The argument registers.
    pub registers: [u64; REGISTERS],
    /// The stack pointer at the function's entry.
    pub stack_pointer: u64,
    /// [`ReadStatus`] of each slot, four bits each.
    pub statuses: u64,
    /// [`ReadStatus`] of the slots that are not to be read again, four bits each.
    pub given_up: u64,
    /// Operations of the program.
    pub ops_len: u32,
    /// Index of the size class that the next attempt uses.
    pub class: u32,
    /// One bit per slot: a page was faulted in for it.
    pub faulted: u32,
    /// Where the first string or range begins: behind the slots.
    pub first_blob: u32,
}

/// How far an attempt has come.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Where the next string or range begins, from the end of the header.
    pub end: u64,
    /// Why the attempt ended early: [`WHOLE`], [`TOO_SMALL`], [`NOT_RESIDENT`] or [`RING_FULL`].
    pub stop: u64,
    /// With [`NOT_RESIDENT`]: the slot that needs `bytes` bytes at `address`.
    pub slot: u64,
    /// See `slot`.
    pub address: u64,
    /// See `slot`.
    pub bytes: u64,
}

/// All slots are final.
pub const WHOLE: u64 = 0;
/// The next larger class is needed.
pub const TOO_SMALL: u64 = 1;
/// Memory is not resident.
pub const NOT_RESIDENT: u64 = 2;
/// The ring buffer has no room.
pub const RING_FULL: u64 = 3;

/// What an operation works on: the traced program's memory, and what follows the record's header.
///
/// An offset counts from the end of the header.
pub trait Record {
    /// The eight bytes at `address`, if they are resident.
    fn word(&self, address: u64) -> Option<u64>;

    /// What [`set_slot`](Self::set_slot) has put into a slot below 16.
    fn slot(&self, slot: u64) -> u64;

    /// Fills a slot below 16.
    fn set_slot(&mut self, slot: u64, value: u64);

    /// Copies `size` bytes at `address` to `offset`; whether all of them are resident.
    ///
    /// # Safety
    ///
    /// `offset` is at most the class's [`max_offset`](SizeClass::max_offset) and `size` at most its
    /// `max_object`.
    unsafe fn copy(&mut self, offset: u64, size: u32, address: u64) -> bool;

    /// Copies the NUL-terminated string at `address` to `offset`, and no more than `size` bytes. What
    /// the kernel's helper returns: the bytes with the terminator, which is always written; some
    /// kernels say 0 for an empty string; a negative number if some of it is not resident.
    ///
    /// # Safety
    ///
    /// As [`copy`](Self::copy).
    unsafe fn copy_str(&mut self, offset: u64, size: u32, address: u64) -> i64;
}

impl Reading {
    /// Runs one operation in a record of this class; whether the attempt ends with it.
    #[inline(always)]
    pub fn run(
        &mut self,
        op: &ReadOp,
        record: &mut impl Record,
        progress: &mut Progress,
        class: &SizeClass,
    ) -> bool {
        let slot = u64::from(op.slot & 0xf);
        let given_up = status(self.given_up, slot);
        let end = progress.end;
        let read =
            if given_up != 0 { Read::Failed(given_up) } else { self.read(op, record, end, class) };
        let (value, status) = match read {
            Read::Value(value) => (value, ReadStatus::Whole as u64),
            Read::Blob { length, truncated } => {
                progress.end = end + u64::from(length);
                (BlobRef { offset: end as u32, length }.to_slot(), u64::from(truncated))
            }
            Read::Failed(status) => (0, status),
            Read::TooSmall => {
                progress.stop = TOO_SMALL;
                return true;
            }
            Read::NotResident { address, bytes } => {
                progress.stop = NOT_RESIDENT;
                progress.slot = slot;
                progress.address = address;
                progress.bytes = bytes;
                return true;
            }
        };
        self.statuses |= status << (slot * 4);
        record.set_slot(slot, value);
        false
    }

    /// One operation; strings and ranges go to `end`.
    #[inline(always)]
    fn read(&self, op: &ReadOp, record: &mut impl Record, end: u64, class: &SizeClass) -> Read {
        let mut value = argument(&self.registers, op);
        if op.register == ON_STACK {
            let address = self.stack_pointer.wrapping_add(u64::from(op.stack_offset));
            match record.word(address) {
                Some(word) => value = word,
                None => return Read::NotResident { address, bytes: 8 },
            }
        }
        if op.kind == ReadKind::Value as u8 {
            return Read::Value(value);
        }
        if end > class.max_offset() as u64 {
            return Read::TooSmall;
        }
        if op.kind == ReadKind::Str as u8 {
            return read_str(value, op.max_bytes, end, record, class);
        }
        let mut length = u64::from(op.max_bytes);
        if op.kind == ReadKind::BytesOf as u8 {
            let length_slot = u64::from(op.length_slot & 0xf);
            let status = status(self.statuses, length_slot);
            if status != ReadStatus::Whole as u64 {
                return Read::Failed(status);
            }
            match range_length(op, record.slot(length_slot)) {
                Some(known) => length = known,
                None => return Read::Failed(ReadStatus::Einval as u64),
            }
        }
        read_bytes(value, length, op.max_bytes, end, record, class)
    }

    /// Makes the next attempt better than one that was [`NOT_RESIDENT`]: faults in the first page that
    /// is missing, or gives the slot up.
    #[inline(always)]
    pub fn make_resident(
        &mut self,
        progress: &Progress,
        may_fault: bool,
        memory: &impl Memory,
        find: impl FnOnce(&mut Search),
    ) {
        let slot = progress.slot & 0xf;
        let end = progress.address.saturating_add(progress.bytes);
        let mut search = Search { address: progress.address, end };
        find(&mut search);
        let result = if !may_fault {
            Err(ReadStatus::Eagain)
        } else if search.end == FOUND {
            memory.fault_in(search.address)
        } else {
            // The page has become resident in the meantime.
            return;
        };
        match result {
            Ok(()) => self.faulted |= 1 << slot,
            Err(status) => self.given_up |= (status as u64) << (slot * 4),
        }
    }

    /// Where an operation that reads memory is counted, once all slots are final.
    #[inline(always)]
    pub fn outcome(&self, op: &ReadOp) -> Option<Counter> {
        if op.kind == ReadKind::Value as u8 && op.register != ON_STACK {
            return None;
        }
        let slot = u64::from(op.slot & 0xf);
        let status = status(self.statuses, slot);
        Some(if status == ReadStatus::Whole as u64 {
            if self.faulted & (1 << slot) != 0 {
                Counter::ReadFaulted
            } else {
                Counter::ReadResident
            }
        } else if status == ReadStatus::Truncated as u64 {
            Counter::ReadTruncated
        } else if status == ReadStatus::Efault as u64 {
            Counter::ReadEfault
        } else if status == ReadStatus::Einval as u64 {
            Counter::ReadEinval
        } else {
            Counter::ReadEagain
        })
    }
}

/// The register that an operation names; of no meaning where it names the stack.
#[inline(always)]
pub fn argument(registers: &[u64; REGISTERS], op: &ReadOp) -> u64 {
    registers[op.register as usize & (REGISTERS - 1)]
}

/// The status of a slot below 16.
#[inline(always)]
fn status(statuses: u64, slot: u64) -> u64 {
    (statuses >> (slot * 4)) & 0xf
}

/// The length that [`ReadKind::BytesOf`] finds in a slot; `None` if it is negative.
#[inline(always)]
fn range_length(op: &ReadOp, raw: u64) -> Option<u64> {
    let unused_bits = 64u32.wrapping_sub(u32::from(op.length_bits)) & 63;
    if op.length_signed != 0 && ((raw << unused_bits) as i64) < 0 {
        return None;
    }
    Some((raw << unused_bits) >> unused_bits)
}

/// What came of one operation.
enum Read {
    Value(u64),
    Blob { length: u32, truncated: bool },
    Failed(u64),
    TooSmall,
    NotResident { address: u64, bytes: u64 },
}

#[inline(always)]
fn read_str(
    address: u64,
    max_bytes: u32,
    end: u64,
    record: &mut impl Record,
    class: &SizeClass,
) -> Read {
    // The terminator and one more byte, to distinguish an exact fit from a truncated string.
    let wanted = max_bytes.saturating_add(2);
    let limit = class.max_object as u32;
    let size = if wanted < limit { wanted } else { limit };
    // SAFETY: `run` has compared `end` with the largest offset; `size` is bounded just above.
    let result = unsafe { record.copy_str(end, size, address) };
    if result < 0 {
        return Read::NotResident { address, bytes: u64::from(size) };
    }
    // With the terminator; but kernels as of 6.12 return 0 for an empty string.
    let length = result as u32;
    if length < size {
        Read::Blob { length: length.saturating_sub(1), truncated: false }
    } else if size < wanted {
        Read::TooSmall
    } else {
        Read::Blob { length: max_bytes, truncated: true }
    }
}

#[inline(always)]
fn read_bytes(
    address: u64,
    length: u64,
    max_bytes: u32,
    end: u64,
    record: &mut impl Record,
    class: &SizeClass,
) -> Read {
    let truncated = length > u64::from(max_bytes);
    let size = if truncated { u64::from(max_bytes) } else { length };
    if size > class.max_object as u64 {
        return Read::TooSmall;
    }
    if size != 0 {
        // SAFETY: `run` has compared `end` with the largest offset; `size` is bounded just above.
        let resident = unsafe { record.copy(end, size as u32, address) };
        if !resident {
            return Read::NotResident { address, bytes: size };
        }
    }
    Read::Blob { length: size as u32, truncated }
}

/// The search for the first page of a range that is not resident. [`MAX_PAGES`] steps are enough.
///
/// It is small on purpose: on Linux 6.1 the stacks of all functions that call each other just fit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Where to look next, and at the end where a page is missing.
    pub address: u64,
    /// The end of the range, or [`FOUND`].
    pub end: u64,
}

/// [`Search::end`] once a page is missing. No range that begins elsewhere ends here.
pub const FOUND: u64 = 0;

impl Search {
    /// Looks at a page; whether the search is over.
    #[inline(always)]
    pub fn step(&mut self, index: u64, is_resident: impl FnOnce(u64) -> bool) -> bool {
        if index != 0 && self.address >= self.end {
            return true;
        }
        if !is_resident(self.address) {
            self.end = FOUND;
            return true;
        }
        self.address = (self.address & !(PAGE_BYTES - 1)).saturating_add(PAGE_BYTES);
        false
    }
}
