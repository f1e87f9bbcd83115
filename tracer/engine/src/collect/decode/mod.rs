//! Decodes raw records into [`Event`]s.
//!
//! Takes the bytes of one record and the plan's probes; gives an event that borrows from both. It allocates
//! nothing and trusts nothing: bytes that no eBPF program of this build writes give a [`DecodeError`],
//! which the caller counts, and never a panic or a wrong value.

mod clock;
#[cfg(test)]
mod roundtrip;
#[cfg(any(test, feature = "testbed"))]
#[doc(hidden)]
pub mod testbed;
#[cfg(test)]
mod tests;
mod value;

use std::mem::offset_of;

use tracer_common::record::{HEADER_BYTES, KIND_ENTRY, KIND_RETURN, RecordHeader, STATUS_BITS};

use self::value::Body;
pub use self::{
    clock::{Clock, WallTime},
    value::Errno,
};
use faultline_plan::{PlannedProbe, ProbeId};
use faultline_spec::types::Value;

/// One hit of a probe.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// When the breakpoint was hit.
    pub time: WallTime,
    /// The probe's index in the plan.
    pub id: ProbeId,
    /// The probe.
    pub probe: &'a PlannedProbe,
    /// Entry or return.
    pub kind: EventKind,
    /// The process, as faultline's own PID namespace numbers it; 0 for a process of another one.
    pub pid: u32,
    /// The thread, likewise.
    pub tid: u32,
    /// The thread's name, without padding: at most 16 bytes, in no particular encoding.
    pub comm: &'a [u8],
    /// The CPU of the hit.
    pub cpu: u16,
    body: Body<'a>,
}

/// Which end of a call an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The function was called, or the probed instruction inside it reached.
    Entry,
    /// The function returned.
    Return {
        /// Nanoseconds since the entry of the same call.
        duration_ns: u64,
    },
}

/// Why bytes are not a valid record of this plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header is incomplete.
    #[error("a record of {bytes} bytes has no header, which is {HEADER_BYTES} bytes")]
    Short {
        /// Bytes of the record.
        bytes: usize,
    },
    /// The plan has no such probe.
    #[error("a record names probe {probe} of {probes}")]
    UnknownProbe {
        /// Index of the probe.
        probe: u32,
        /// Probes in the plan.
        probes: usize,
    },
    /// Neither entry nor return.
    #[error("a record of probe {probe} is of unknown kind {kind}")]
    UnknownKind {
        /// Index of the probe.
        probe: u32,
        /// The kind.
        kind: u8,
    },
    /// The record's slots do not match the probe's values.
    #[error("a record of probe {probe} has {slots} values instead of {expected}")]
    WrongSlots {
        /// Index of the probe.
        probe: u32,
        /// Slots of the record.
        slots: u8,
        /// Values of the probe.
        expected: usize,
    },
    /// A slot lies past the end of the record.
    #[error("value {slot} lies outside its record")]
    SlotOutside {
        /// Index of the slot.
        slot: usize,
    },
    /// A slot's status is unknown, or not valid for a value of its type.
    #[error("value {slot} has an unknown status")]
    UnknownStatus {
        /// Index of the slot.
        slot: usize,
    },
    /// A string or range lies outside the area for strings and ranges.
    #[error("value {slot}, {length} bytes at {offset}, lies outside its record")]
    BlobOutside {
        /// Index of the slot.
        slot: usize,
        /// Where it begins, from the end of the header.
        offset: u32,
        /// Its bytes.
        length: u32,
    },
}

/// Reads one record. Bytes after its values are ignored, because a record fills whole slots of the ring.
///
/// # Errors
///
/// Any [`DecodeError`]; the record is then unusable and must be counted as undecodable.
pub fn decode<'a>(
    bytes: &'a [u8],
    probes: &'a [PlannedProbe],
    clock: &Clock,
) -> Result<Event<'a>, DecodeError> {
    let (header, data) = split(bytes)?;
    let probe = probes
        .get(header.probe as usize)
        .ok_or(DecodeError::UnknownProbe { probe: header.probe, probes: probes.len() })?;
    let (kind, expected, statuses) = match header.kind {
        KIND_ENTRY => (EventKind::Entry, probe.args.len(), header.statuses),
        KIND_RETURN => {
            let duration_ns = header.statuses >> STATUS_BITS;
            let status = header.statuses & ((1 << STATUS_BITS) - 1);
            (EventKind::Return { duration_ns }, usize::from(probe.ret.is_some()), status)
        }
        kind => return Err(DecodeError::UnknownKind { probe: header.probe, kind }),
    };
    let slots = usize::from(header.slots);
    if slots != expected {
        let (probe, slots) = (header.probe, header.slots);
        return Err(DecodeError::WrongSlots { probe, slots, expected });
    }
    let event = Event {
        time: clock.wall(header.time_ns),
        id: ProbeId(header.probe),
        probe,
        kind,
        pid: (header.pid_tgid >> 32) as u32,
        tid: header.pid_tgid as u32,
        comm: comm(bytes),
        cpu: header.cpu,
        body: Body { statuses, slots, data },
    };
    event.check()?;
    Ok(event)
}

impl<'a> Event<'a> {
    /// The named arguments, in the probe's order, each with its value or why there is none. A return has no
    /// arguments.
    pub fn values(&self) -> impl Iterator<Item = (&'a str, Result<Value<'a>, Errno>)> + use<'a> {
        let (probe, body): (&'a PlannedProbe, Body<'a>) = (self.probe, self.body);
        let args: &'a [_] = if self.kind == EventKind::Entry { &probe.args } else { &[] };
        args.iter()
            .enumerate()
            // `check` has already decoded each of them.
            .filter_map(move |(slot, arg)| Some((&*arg.name, body.value(slot, &arg.ty).ok()?)))
    }

    /// The function's return value, or why it could not be read. An entry has none.
    #[must_use]
    pub fn ret(&self) -> Option<Result<Value<'a>, Errno>> {
        match (self.kind, &self.probe.ret) {
            (EventKind::Return { .. }, Some(ty)) => self.body.value(0, ty).ok(),
            _ => None,
        }
    }

    /// Reads every value once, so that no later reader has to expect an error.
    fn check(&self) -> Result<(), DecodeError> {
        match (self.kind, &self.probe.ret) {
            (EventKind::Entry, _) => self
                .probe
                .args
                .iter()
                .enumerate()
                .try_for_each(|(slot, arg)| self.body.value(slot, &arg.ty).map(drop)),
            (EventKind::Return { .. }, Some(ty)) => self.body.value(0, ty).map(drop),
            (EventKind::Return { .. }, None) => Ok(()),
        }
    }
}

fn split(bytes: &[u8]) -> Result<(RecordHeader, &[u8]), DecodeError> {
    let short = DecodeError::Short { bytes: bytes.len() };
    let (header, data) = bytes.split_at_checked(HEADER_BYTES).ok_or(short)?;
    // SAFETY: `header` has the length of a header, and every bit pattern is a valid one; the read needs no
    // alignment.
    let header = unsafe { header.as_ptr().cast::<RecordHeader>().read_unaligned() };
    Ok((header, data))
}

/// The task's name in the record itself, so that the event can borrow it.
fn comm(bytes: &[u8]) -> &[u8] {
    const PLACE: usize = offset_of!(RecordHeader, comm);
    let padded = bytes.get(PLACE..PLACE + 16).unwrap_or_default();
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    &padded[..end]
}
