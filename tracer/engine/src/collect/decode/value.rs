//! Reads one slot of a record according to its type.

use tracer_common::record::{BlobRef, ReadStatus, SLOT_BYTES};

use super::DecodeError;
use faultline_spec::{
    ValueType,
    types::{Raw, Read, Value},
};

/// Why a value could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Errno {
    /// The memory is not mapped, or not readable.
    Efault,
    /// The length is negative.
    Einval,
    /// The page is not resident and was not faulted in.
    Eagain,
    /// The function has left by a jump to another one, which returns in its place.
    Enodata,
}

impl Errno {
    /// Its name in `errno.h`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Efault => "EFAULT",
            Self::Einval => "EINVAL",
            Self::Eagain => "EAGAIN",
            Self::Enodata => "ENODATA",
        }
    }
}

/// What follows the header: slots, then the bytes of strings and ranges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a> {
    pub(super) statuses: u64,
    pub(super) slots: usize,
    pub(super) data: &'a [u8],
}

impl<'a> Body<'a> {
    /// The value in a slot, or why it could not be read.
    #[inline]
    pub(super) fn value(
        &self,
        slot: usize,
        ty: &'a ValueType,
    ) -> Result<Result<Value<'a>, Errno>, DecodeError> {
        let status = ReadStatus::of_slot(self.statuses, slot);
        let truncated = match status.ok_or(DecodeError::UnknownStatus { slot })? {
            ReadStatus::Whole => false,
            ReadStatus::Truncated => true,
            ReadStatus::Efault => return Ok(Err(Errno::Efault)),
            ReadStatus::Einval => return Ok(Err(Errno::Einval)),
            ReadStatus::Eagain => return Ok(Err(Errno::Eagain)),
            ReadStatus::Enodata => return Ok(Err(Errno::Enodata)),
        };
        let content = self.slot(slot)?;
        let raw = match ty.read() {
            Read::Str { .. } | Read::Bytes(_) => {
                Raw::Memory { bytes: self.blob(slot, content)?, truncated }
            }
            // A register is never truncated.
            Read::Register if truncated => return Err(DecodeError::UnknownStatus { slot }),
            Read::Register => Raw::Register(content),
        };
        Ok(Ok(Value::new(ty, raw)))
    }

    fn slot(&self, slot: usize) -> Result<u64, DecodeError> {
        let chunk = self.data.get(slot * SLOT_BYTES..).and_then(<[u8]>::first_chunk);
        chunk.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(DecodeError::SlotOutside { slot })
    }

    fn blob(&self, slot: usize, content: u64) -> Result<&'a [u8], DecodeError> {
        let BlobRef { offset, length } = BlobRef::from_slot(content);
        let start = offset as usize;
        let bytes = start.checked_add(length as usize).and_then(|end| self.data.get(start..end));
        // The slots themselves are not part of any string.
        let bytes = bytes.filter(|_| start >= self.slots * SLOT_BYTES);
        bytes.ok_or(DecodeError::BlobOutside { slot, offset, length })
    }
}
