//! For tests: builds records as the eBPF programs write them.

use tracer_common::record::{
    BlobRef, HEADER_BYTES, KIND_ENTRY, KIND_RETURN, ReadStatus, RecordHeader, SLOT_BYTES,
    STATUS_BITS,
};

/// A value to put into a record.
#[derive(Debug, Clone)]
pub enum Raw {
    Slot(u64),
    Blob(Vec<u8>),
    CutBlob(Vec<u8>),
    Failed(ReadStatus),
}

/// Garbage after the values of each record, as size classes leave it.
const TRAILING: [u8; 13] = [0xa5; 13];

/// An entry of probe 0.
pub fn entry(values: &[Raw]) -> Vec<u8> {
    record(RecordHeader { kind: KIND_ENTRY, ..header() }, values)
}

/// A return of probe 0.
pub fn ret(duration_ns: u64, values: &[Raw]) -> Vec<u8> {
    let statuses = duration_ns << STATUS_BITS;
    record(RecordHeader { kind: KIND_RETURN, statuses, ..header() }, values)
}

/// The header that most tests share.
pub fn header() -> RecordHeader {
    RecordHeader {
        time_ns: 6,
        pid_tgid: (41 << 32) | 42,
        comm: *b"cat\0\0\0\0\0\0\0\0\0\0\0\0\0",
        cpu: 3,
        ..RecordHeader::default()
    }
}

/// Lays out the values after `header`, and sets its `slots` and `statuses`.
pub fn record(mut header: RecordHeader, values: &[Raw]) -> Vec<u8> {
    let mut slots = Vec::new();
    let mut blobs = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let (slot, status) = match value {
            Raw::Slot(slot) => (*slot, ReadStatus::Whole),
            Raw::Failed(status) => (0, *status),
            Raw::Blob(bytes) | Raw::CutBlob(bytes) => {
                let offset = (values.len() * SLOT_BYTES + blobs.len()) as u32;
                blobs.extend_from_slice(bytes);
                let cut = matches!(value, Raw::CutBlob(_));
                let status = if cut { ReadStatus::Truncated } else { ReadStatus::Whole };
                (BlobRef { offset, length: bytes.len() as u32 }.to_slot(), status)
            }
        };
        slots.extend_from_slice(&slot.to_ne_bytes());
        header.statuses |= (status as u64) << (index * 4);
    }
    header.slots = values.len() as u8;
    [&header_bytes(&header), slots.as_slice(), &blobs, &TRAILING].concat()
}

/// The header as it lies in a record.
pub fn header_bytes(header: &RecordHeader) -> [u8; HEADER_BYTES] {
    // SAFETY: a header is plain bytes without padding, and the lengths match.
    unsafe { std::mem::transmute_copy(header) }
}
