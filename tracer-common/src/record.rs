//! What the eBPF program writes into the [ring buffer](crate::ring): a header, one slot per value, then the
//! bytes of strings and ranges, each at the offset in its slot.
//!
//! Room is claimed in a few size classes, because the kernel requires a constant size. A record starts in the
//! smallest class, and is read again into a larger one only if its contents do not fit. What it has not used
//! is given back.

use crate::program::MAX_VALUES;

/// First bytes of every record.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// `CLOCK_MONOTONIC` in nanoseconds when the breakpoint was hit.
    pub time_ns: u64,
    /// Process (upper half) and task (lower half), as faultline's own PID namespace numbers them; 0 for a
    /// task of another one.
    pub pid_tgid: u64,
    /// One [`ReadStatus`] per slot, four bits each, slot 0 lowest. A return has at most one slot; above its
    /// status are the nanoseconds since the entry of the same call.
    pub statuses: u64,
    /// Name of the task, NUL-padded.
    pub comm: [u8; 16],
    /// Index of the probe in the plan.
    pub probe: u32,
    /// CPU of the hit.
    pub cpu: u16,
    /// [`KIND_ENTRY`] or [`KIND_RETURN`].
    pub kind: u8,
    /// Slots that follow the header.
    pub slots: u8,
}

/// The record is of a function's entry.
pub const KIND_ENTRY: u8 = 0;
/// The record is of a function's return.
pub const KIND_RETURN: u8 = 1;

/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<RecordHeader>();
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 8;

/// How the read of one value ended. Failures are named after the errno that the user sees.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadStatus {
    /// Read completely.
    Whole = 0,
    /// Read, and truncated at the limit.
    Truncated = 1,
    /// The memory is not mapped, or not readable.
    Efault = 2,
    /// The length is negative.
    Einval = 3,
    /// The page is not resident and was not faulted in: its process has hung in a fault before, the hit
    /// has reached its limit of faults, or this kernel has no sleepable uprobes.
    Eagain = 4,
    /// The function has left by a jump to another one, which returns in its place: the value was not seen.
    Enodata = 5,
}

impl ReadStatus {
    /// The status of a slot in [`RecordHeader::statuses`]; `None` for bits no version writes.
    pub const fn of_slot(statuses: u64, slot: usize) -> Option<Self> {
        match (statuses >> (slot * 4)) & 0xf {
            0 => Some(Self::Whole),
            1 => Some(Self::Truncated),
            2 => Some(Self::Efault),
            3 => Some(Self::Einval),
            4 => Some(Self::Eagain),
            5 => Some(Self::Enodata),
            _ => None,
        }
    }
}

/// Where a string's or range's bytes lie: `length << 32 | offset`, the offset counted from the
/// end of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRef {
    /// Bytes from the end of the header.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

impl BlobRef {
    /// As a slot holds it.
    pub const fn to_slot(self) -> u64 {
        ((self.length as u64) << 32) | self.offset as u64
    }

    /// From a slot.
    pub const fn from_slot(slot: u64) -> Self {
        Self { offset: slot as u32, length: (slot >> 32) as u32 }
    }
}

/// The bits of [`RecordHeader::statuses`] below a return's duration.
pub const STATUS_BITS: u32 = 4;

/// Bytes of a slot of the ring: a record of up to two registers fits into one.
pub const SLOT_ROOM: usize = HEADER_BYTES + 2 * SLOT_BYTES;

/// The size of a record with strings and ranges. Each of them may begin anywhere in the first
/// `max_offset` bytes past the header and be up to `max_object` bytes long. The kernel's verifier adds the
/// two maxima, so their sum must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClass {
    /// Bytes past the header.
    pub data_bytes: usize,
    /// The largest string (with its terminator and one more byte, to distinguish an exact fit from a
    /// truncated one) or range.
    pub max_object: usize,
}

impl SizeClass {
    /// Largest offset at which an object may begin.
    pub const fn max_offset(&self) -> usize {
        self.data_bytes - self.max_object
    }

    const fn of(record_bytes: usize, max_object: usize) -> Self {
        Self { data_bytes: record_bytes - HEADER_BYTES, max_object }
    }

    /// Slots of the ring.
    pub const fn slots(&self) -> u64 {
        ((HEADER_BYTES + self.data_bytes) / SLOT_ROOM) as u64
    }
}

/// The classes of records with strings and ranges, smallest first.
pub const CLASSES: [SizeClass; 4] = [
    SizeClass::of(512, 256),
    SizeClass::of(4096, 2048),
    SizeClass::of(16 * 1024, 8 * 1024),
    SizeClass::of(68 * 1024, 32 * 1024 + 8),
];

/// Largest string or range that a probe may ask for, in bytes.
pub const MAX_READ_BYTES: u32 = 32 * 1024;

/// All strings and ranges of a hit but the last one must end before this offset, counted from the end of
/// the header, so that there is room for the last one.
pub const MAX_OFFSET: usize = CLASSES[3].max_offset();

const _: () = assert!(core::mem::offset_of!(RecordHeader, comm).is_multiple_of(8));
const _: () = assert!(HEADER_BYTES == 48 && SLOT_ROOM == 64);
const _: () = assert!(MAX_READ_BYTES as usize + 2 <= CLASSES[3].max_object);
const _: () = assert!(CLASSES[0].max_offset() > MAX_VALUES * SLOT_BYTES);
const _: () = assert!(MAX_VALUES * 4 <= 64);
