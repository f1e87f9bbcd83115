use proptest::prelude::*;
use tracer_common::record::{BlobRef, ReadStatus, RecordHeader, SLOT_BYTES, STATUS_BITS};

use super::{
    testbed::{Raw, entry, header, record, ret},
    *,
};
use faultline_plan::testbed::planned;

const CLOCK: Clock = Clock::with_offset_ns(1_000);

fn values(probe: &str, raw: &[Raw]) -> Vec<String> {
    let probes = [planned(probe)];
    let bytes = entry(raw);
    let event = decode(&bytes, &probes, &CLOCK).unwrap();
    let text = |value: Result<Value<'_>, Errno>| match value {
        Ok(value) => value.to_string(),
        Err(errno) => errno.name().to_owned(),
    };
    event.values().map(|(name, value)| format!("{name}={}", text(value))).collect()
}

fn error(probe: &str, bytes: &[u8]) -> DecodeError {
    decode(bytes, &[planned(probe)], &CLOCK).map(drop).unwrap_err()
}

/// Check that the header's fields are in the event.
#[test]
fn header_fields() {
    let probes = [planned("libc:a"), planned("libc:open(_, flags: u8) -> i32")];
    let header = RecordHeader {
        probe: 1,
        kind: KIND_RETURN,
        statuses: 5 << STATUS_BITS,
        comm: *b"sixteen bytes ok",
        ..header()
    };
    let bytes = record(header, &[Raw::Slot(u64::from(u32::MAX))]);
    let event = decode(&bytes, &probes, &CLOCK).unwrap();
    assert_eq!(event.time, WallTime(1_006));
    assert_eq!(event.id, ProbeId(1));
    assert_eq!(&*event.probe.label, "libc:open");
    assert_eq!(event.kind, EventKind::Return { duration_ns: 5 });
    assert_eq!((event.pid, event.tid, event.cpu), (41, 42, 3));
    assert_eq!(event.comm, b"sixteen bytes ok");
    assert_eq!(event.ret().unwrap().unwrap().number(), Some(-1));
    assert_eq!(event.values().count(), 0);
}

/// Check that bytes above an integer's width are ignored, and that only signed integers have a sign.
#[test]
fn integers_have_their_width() {
    let raw = Raw::Slot(0xdead_beef_8000_80ff);
    let probe = "l:f(a: i8, b: u8, c: x16, d: i32, e: u32, f: i64, g: x64, h: ptr)";
    assert_eq!(
        values(probe, &vec![raw; 8]),
        [
            "a=-1",
            "b=255",
            "c=0x80ff",
            "d=-2147450625",
            "e=2147516671",
            "f=-2401053090464628481",
            "g=0xdeadbeef800080ff",
            "h=0xdeadbeef800080ff",
        ]
    );
}

/// Check that booleans and characters use one byte of their register.
#[test]
fn bytes_of_a_register() {
    let raw = [0x100, 0x102, 0xff41].map(Raw::Slot);
    assert_eq!(values("l:f(a: bool, b: bool, c: char)", &raw), ["a=false", "b=true", "c='A'"]);
}

/// Check that strings and ranges are found, including empty ones, with how each read ended.
#[test]
fn strings_and_ranges() {
    let raw = [
        Raw::Blob(b"abc".to_vec()),
        Raw::CutBlob(b"xy".to_vec()),
        Raw::Blob(Vec::new()),
        Raw::Failed(ReadStatus::Efault),
        Raw::Failed(ReadStatus::Einval),
        Raw::Failed(ReadStatus::Eagain),
    ];
    assert_eq!(
        values("l:f(a: str, b: bytes[2], c: str, d: str, e: bytes[1], f: u64)", &raw),
        ["a=\"abc\"", "b=\"xy\"…", "c=\"\"", "d=EFAULT", "e=EINVAL", "f=EAGAIN",]
    );
}

/// Check that each kind of corruption has its own error.
#[test]
fn corrupt_records() {
    assert_eq!(error("l:f", &[0; 47]), DecodeError::Short { bytes: 47 });
    let of_probe_7 = record(RecordHeader { probe: 7, ..header() }, &[]);
    assert_eq!(error("l:f", &of_probe_7), DecodeError::UnknownProbe { probe: 7, probes: 1 });
    let of_kind_9 = record(RecordHeader { kind: 9, ..header() }, &[]);
    assert_eq!(error("l:f", &of_kind_9), DecodeError::UnknownKind { probe: 0, kind: 9 });
    assert_eq!(
        error("l:f(a: u8)", &entry(&[])),
        DecodeError::WrongSlots { probe: 0, slots: 0, expected: 1 }
    );
    assert_eq!(
        error("l:f", &ret(1, &[Raw::Slot(1)])),
        DecodeError::WrongSlots { probe: 0, slots: 1, expected: 0 }
    );
    let whole = entry(&[Raw::Slot(1)]);
    assert_eq!(error("l:f(a: u8)", &whole[..52]), DecodeError::SlotOutside { slot: 0 });
    let unknown = record(RecordHeader { statuses: 0xf, ..header() }, &[Raw::Slot(1)]);
    assert_eq!(error("l:f(a: u8)", &unknown), DecodeError::UnknownStatus { slot: 0 });
    let cut_register = record(RecordHeader { statuses: 1, ..header() }, &[Raw::Slot(1)]);
    assert_eq!(error("l:f(a: u8)", &cut_register), DecodeError::UnknownStatus { slot: 0 });
    for (offset, length) in [(0, 1), (7, 4), (8, 14), (22, 0), (u32::MAX, u32::MAX)] {
        let slot = BlobRef { offset, length }.to_slot();
        assert_eq!(
            error("l:f(a: str)", &entry(&[Raw::Slot(slot)])),
            DecodeError::BlobOutside { slot: 0, offset, length }
        );
    }
}

/// Check that an error reads well.
#[test]
fn error_text() {
    let text = DecodeError::WrongSlots { probe: 2, slots: 0, expected: 1 }.to_string();
    assert_eq!(text, "a record of probe 2 has 0 values instead of 1");
}

proptest! {
    /// Check that no bytes cause a panic, and that every decoded record has all its values.
    #[test]
    fn any_bytes(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        plausible in any::<bool>(),
        probe in 0..3_u32,
        kind in 0..3_u8,
        small_slots in any::<bool>(),
    ) {
        let probes = [
            planned("l:f(a: i32, b: str, c: bytes[b2], b2: u8) -> str"),
            planned("l:g(a: char) -> bool"),
        ];
        if plausible && bytes.len() >= HEADER_BYTES {
            // Mostly valid, so that the checks after the first are reached.
            bytes[16..24].copy_from_slice(&[0x10, 0, 0, 0, 0, 0, 0, 0]);
            bytes[40..44].copy_from_slice(&probe.to_ne_bytes());
            bytes[46] = kind;
            bytes[47] = if kind == KIND_RETURN { 1 } else { [4, 1, 0][probe as usize] };
            if small_slots {
                for slot in bytes[HEADER_BYTES..].as_chunks_mut::<SLOT_BYTES>().0 {
                    slot[1..4].fill(0);
                    slot[5..].fill(0);
                }
            }
        }
        if let Ok(event) = decode(&bytes, &probes, &CLOCK) {
            let is_entry = event.kind == EventKind::Entry;
            let expected = if is_entry { event.probe.args.len() } else { 0 };
            prop_assert_eq!(event.values().count(), expected);
            prop_assert_eq!(event.ret().is_some(), !is_entry);
        }
    }
}
