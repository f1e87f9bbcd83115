//! One slot of a record as a value of its type.

use tracer_common::record::{BlobRef, ReadStatus, SLOT_BYTES};

use super::DecodeError;
use faultline_spec::{IntFormat, ValueType};

/// A value, as its probe's author wants to see it. Strings and ranges point into the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i8…i64`
    Int(i64),
    /// `u8…u64`
    Uint(u64),
    /// `x8…x64`
    Hex {
        /// The number.
        value: u64,
        /// 1, 2, 4 or 8.
        width_bytes: u8,
    },
    /// `bool`
    Bool(bool),
    /// `char`: one byte, in whatever encoding the program uses.
    Char(u8),
    /// `ptr`
    Ptr(u64),
    /// `str`, without its terminator.
    Str {
        /// What was read.
        bytes: &'a [u8],
        /// The string goes on.
        truncated: bool,
    },
    /// `bytes[…]`
    Bytes {
        /// What was read.
        bytes: &'a [u8],
        /// More was asked for than the limit.
        truncated: bool,
    },
    /// The value could not be read.
    Unread(Errno),
}

/// Why a value could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Errno {
    /// The memory is not mapped, or not readable.
    Efault,
    /// The length is negative.
    Einval,
    /// The page is not resident and was not faulted in.
    Eagain,
}

impl Errno {
    /// As `errno.h` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Efault => "EFAULT",
            Self::Einval => "EINVAL",
            Self::Eagain => "EAGAIN",
        }
    }
}

/// What follows the header: slots, then what strings and ranges refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a> {
    pub(super) statuses: u64,
    pub(super) slots: usize,
    pub(super) data: &'a [u8],
}

impl<'a> Body<'a> {
    /// The value in a slot.
    #[inline]
    pub(super) fn value(&self, slot: usize, ty: &ValueType) -> Result<Value<'a>, DecodeError> {
        let status = ReadStatus::of_slot(self.statuses, slot);
        let truncated = match status.ok_or(DecodeError::UnknownStatus { slot })? {
            ReadStatus::Whole => false,
            ReadStatus::Truncated => true,
            ReadStatus::Efault => return Ok(Value::Unread(Errno::Efault)),
            ReadStatus::Einval => return Ok(Value::Unread(Errno::Einval)),
            ReadStatus::Eagain => return Ok(Value::Unread(Errno::Eagain)),
        };
        let raw = self.slot(slot)?;
        Ok(match ty {
            ValueType::Str { .. } => Value::Str { bytes: self.blob(slot, raw)?, truncated },
            ValueType::Bytes(_) => Value::Bytes { bytes: self.blob(slot, raw)?, truncated },
            // A register is never cut.
            _ if truncated => return Err(DecodeError::UnknownStatus { slot }),
            ValueType::Int { width_bytes, format } => integer(raw, *width_bytes, *format),
            ValueType::Bool => Value::Bool(raw & 0xff != 0),
            ValueType::Char => Value::Char((raw & 0xff) as u8),
            ValueType::Ptr => Value::Ptr(raw),
        })
    }

    fn slot(&self, slot: usize) -> Result<u64, DecodeError> {
        let chunk = self.data.get(slot * SLOT_BYTES..).and_then(<[u8]>::first_chunk);
        chunk.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(DecodeError::SlotOutside { slot })
    }

    fn blob(&self, slot: usize, raw: u64) -> Result<&'a [u8], DecodeError> {
        let BlobRef { offset, length } = BlobRef::from_slot(raw);
        let start = offset as usize;
        let bytes = start.checked_add(length as usize).and_then(|end| self.data.get(start..end));
        // What lies in the slots is no string.
        let bytes = bytes.filter(|_| start >= self.slots * SLOT_BYTES);
        bytes.ok_or(DecodeError::BlobOutside { slot, offset, length })
    }
}

/// The low `width_bytes` of a register: what lies above them is whatever the caller left there.
fn integer(raw: u64, width_bytes: u8, format: IntFormat) -> Value<'static> {
    let unused_bits = 64_u32.saturating_sub(u32::from(width_bytes) * 8).min(63);
    let value = (raw << unused_bits) >> unused_bits;
    match format {
        IntFormat::Signed => Value::Int(((raw << unused_bits) as i64) >> unused_bits),
        IntFormat::Unsigned => Value::Uint(value),
        IntFormat::Hex => Value::Hex { value, width_bytes },
    }
}
