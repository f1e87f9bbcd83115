use proptest::prelude::*;
use tracer_common::record::{ReadStatus, RecordHeader};

use super::*;
use crate::time::utc_of_day;
use faultline_engine::collect::decode::{
    Clock, decode,
    testbed::{Raw, entry, header, record, ret},
};
use faultline_plan::testbed::planned;
use faultline_spec::is_hidden;

/// 2026-01-02 03:04:05 UTC, to which [`header`] adds 6 ns.
const CLOCK: Clock = Clock::with_offset_ns(1_767_323_045_000_006_000);

const HEAD: &str = "03:04:05.000006 41/42   cat             ";

fn line_of(sink: &mut TextSink, probe: PlannedProbe, record: &[u8]) -> String {
    let probes = [probe];
    let mut out = Vec::new();
    sink.event(&decode(record, &probes, &CLOCK).unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

fn line(probe: &str, record: &[u8]) -> String {
    line_of(&mut TextSink::with_time(false, utc_of_day), planned(probe), record)
}

/// What stands in the last column.
fn call(probe: &str, record: &[u8]) -> String {
    let line = line(probe, record);
    line.strip_prefix(HEAD).unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn text(text: impl AsRef<[u8]>) -> Raw {
    Raw::Blob(text.as_ref().to_vec())
}

/// Check that an entry shows its arguments, and that a probe without any shows that.
#[test]
fn entries() {
    let values = [text("/etc/hostname"), Raw::Slot(0)];
    assert_eq!(
        call("libc.so.6:open(path: str, flags: i32)", &entry(&values)),
        "libc.so.6:open(path=\"/etc/hostname\", flags=0)\n"
    );
    assert_eq!(call("libc.so.6:open", &entry(&[])), "libc.so.6:open()\n");
}

/// Check that a return shows its value and its duration.
#[test]
fn returns() {
    assert_eq!(
        call("libc.so.6:open(path: str) -> i32", &ret(5_120, &[Raw::Slot(3)])),
        "libc.so.6:open → 3  5.12µs\n"
    );
    assert_eq!(call("l:f", &ret(512, &[])), "l:f → 512ns\n");
    assert_eq!(
        call("l:f -> str", &ret(1, &[Raw::Failed(ReadStatus::Efault)])),
        "l:f → <EFAULT>  1ns\n"
    );
}

/// Check that every type shows its edges.
#[test]
fn values() {
    let raw = [i64::MIN as u64, u64::MAX, 0x10, 0, 1].map(Raw::Slot);
    assert_eq!(
        call("l:f(a: i64, b: u64, c: x8, d: ptr, e: bool)", &entry(&raw)),
        "l:f(a=-9223372036854775808, b=18446744073709551615, c=0x10, d=0x0, e=true)\n"
    );
    let raw = [b'x', b'\'', b'"', b'\n', b'\\', 0x1b, 0xe9].map(|byte| Raw::Slot(byte.into()));
    assert_eq!(
        call("l:f(a: char, b: char, c: char, d: char, e: char, f: char, g: char)", &entry(&raw)),
        concat!(r#"l:f(a='x', b='\'', c='"', d='\n', e='\\', f='\x1b', g='\xe9')"#, "\n")
    );
}

/// Check that strings show what is in them without passing it on to the terminal.
#[test]
fn strings() {
    for (bytes, shown) in [
        (&b""[..], r#""""#),
        (b"say \"hi\"\n\t\\", r#""say \"hi\"\n\t\\""#),
        (b"\x1b]0;owned\x07", r#""\x1b]0;owned\x07""#),
        (b"\xff\xc3", r#""\xff\xc3""#),
        ("\u{9b}31m".as_bytes(), r#""\xc2\x9b31m""#),
        ("grüße 漢字".as_bytes(), r#""grüße 漢字""#),
    ] {
        assert_eq!(call("l:f(s: str)", &entry(&[text(bytes)])), format!("l:f(s={shown})\n"));
    }
}

/// Check that cut and failed reads are seen to be so.
#[test]
fn cut_and_failed() {
    let values = [
        Raw::CutBlob(b"ab".to_vec()),
        Raw::Failed(ReadStatus::Efault),
        Raw::Failed(ReadStatus::Einval),
        Raw::Failed(ReadStatus::Eagain),
    ];
    assert_eq!(
        call("l:f(a: bytes[2], b: str, c: bytes[9], d: u64)", &entry(&values)),
        "l:f(a=\"ab\"…, b=<EFAULT>, c=<EINVAL>, d=<EAGAIN>)\n"
    );
}

/// Check that the columns stay aligned: a first thread, long numbers, long and wide names.
#[test]
fn columns() {
    let mut sink = TextSink::with_time(false, utc_of_day);
    let header_before = sink.header();
    let mut lines = Vec::new();
    for (pid, tid, comm) in [
        (1_u64, 1, *b"cat\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        (4_194_304, 4_194_303, *b"fifteen bytes \xc3\xa9"),
        (2, 2, *b"\xe6\xbc\xa2\xe5\xad\x97 \x1b\0\0\0\0\0\0\0\0"),
    ] {
        let record = record(RecordHeader { pid_tgid: pid << 32 | tid, comm, ..header() }, &[]);
        lines.push(line_of(&mut sink, planned("l:f"), &record));
    }
    assert_eq!(header_before, "TIME            PID/TID COMM            CALL\n");
    assert_eq!(sink.header(), "TIME            PID/TID         COMM            CALL\n");
    assert_eq!(
        lines,
        [
            "03:04:05.000006 1       cat             l:f()\n",
            "03:04:05.000006 4194304/4194303 fifteen bytes é l:f()\n",
            "03:04:05.000006 2               漢字 \\x1b       l:f()\n",
        ]
    );
}

/// Check that colours are where they belong, and nowhere without being asked for.
#[test]
fn colours() {
    let values = [text("x"), Raw::Failed(ReadStatus::Efault)];
    let line = line_of(
        &mut TextSink::with_time(true, utc_of_day),
        planned("l:f(s: str, t: str)"),
        &entry(&values),
    );
    assert_eq!(
        line,
        concat!(
            "\x1b[2m03:04:05.000006\x1b[0m 41/42   cat             \x1b[1ml:f\x1b[0m(",
            "s=\x1b[32m\"x\"\x1b[0m, t=\x1b[31m<EFAULT>\x1b[0m)\n"
        )
    );
}

/// Check that a hostile symbol name is escaped.
#[test]
fn labels() {
    let mut probe = planned("l:f");
    probe.label = "l:\u{1b}[2J\n\"\u{9b}".into();
    let line = line_of(&mut TextSink::with_time(false, utc_of_day), probe, &entry(&[]));
    assert_eq!(line.strip_prefix(HEAD), Some("l:\\x1b[2J\\n\"\\xc2\\x9b()\n"));
}

proptest! {
    /// Check that whatever a process puts into its strings, its event is one line without a
    /// character that controls a terminal.
    #[test]
    fn one_harmless_line(
        string in any::<Vec<u8>>(),
        range in any::<String>(),
        byte in any::<u8>(),
        comm in any::<[u8; 16]>(),
    ) {
        let values = [text(string), Raw::CutBlob(range.into_bytes()), Raw::Slot(byte.into())];
        let record = record(RecordHeader { comm, ..header() }, &values);
        let line = line("l:f(s: str, b: bytes[1], c: char)", &record);
        let shown = line.strip_suffix('\n').unwrap();
        prop_assert!(!shown.bytes().any(|byte| byte < b' '), "{}", line);
        prop_assert!(!shown.chars().any(is_hidden), "{}", line);
    }
}
