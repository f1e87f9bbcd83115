use proptest::prelude::*;
use serde_json::Value as Json;
use tracer_common::record::{ReadStatus, RecordHeader};

use super::*;
use faultline_engine::collect::decode::{
    Clock, decode,
    testbed::{Raw, entry, header, record, ret},
};
use faultline_plan::testbed::planned;
use faultline_spec::is_hidden;

/// 2026-01-02 03:04:05 UTC, to which [`header`] adds 6 ns.
const CLOCK: Clock = Clock::with_offset_ns(1_767_323_045_000_000_000);

const HEAD: &str = concat!(
    r#"{"type":"event","time":"2026-01-02T03:04:05.000000006Z","probe":"libc.so.6:f","#,
    r#""kind":"entry","pid":41,"tid":42,"comm":"cat","cpu":3,"args":"#
);

fn line(probe: &str, record: &[u8]) -> String {
    let probes = [planned(probe)];
    let event = decode(record, &probes, &CLOCK).unwrap();
    let mut out = b"before\n".to_vec();
    JsonSink::new().event(&event, &mut out);
    String::from_utf8(out).unwrap().strip_prefix("before\n").unwrap().to_owned()
}

/// What stands behind `"args":` for an entry with these values.
fn args(args: &str, values: &[Raw]) -> String {
    let line = line(&format!("libc.so.6:f{args}"), &entry(values));
    line.strip_prefix(HEAD).unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn text(text: impl AsRef<[u8]>) -> Raw {
    Raw::Blob(text.as_ref().to_vec())
}

/// Check that an entry has the fields of the contract, in their order.
#[test]
fn entries() {
    let values = [text("/etc/hostname"), Raw::Slot(0)];
    assert_eq!(
        line("libc.so.6:open(path: str, flags: i32)", &entry(&values)),
        concat!(
            r#"{"type":"event","time":"2026-01-02T03:04:05.000000006Z","probe":"libc.so.6:open","#,
            r#""kind":"entry","pid":41,"tid":42,"comm":"cat","cpu":3,"#,
            r#""args":{"path":"/etc/hostname","flags":0}}"#,
            "\n"
        )
    );
    assert_eq!(args("", &[]), "{}}\n");
}

/// Check that a return has its value and its duration, and no arguments.
#[test]
fn returns() {
    let tail = |probe, values: &[Raw]| {
        let line = line(probe, &ret(5_120, values));
        line.split_once(r#""cpu":3,"#).unwrap().1.to_owned()
    };
    assert_eq!(tail("l:f(a: u8) -> i32", &[Raw::Slot(3)]), "\"ret\":3,\"duration_ns\":5120}\n");
    assert_eq!(tail("l:f", &[]), "\"duration_ns\":5120}\n");
    assert_eq!(
        tail("l:f -> str", &[Raw::Failed(ReadStatus::Efault)]),
        "\"ret\":null,\"duration_ns\":5120,\"unread\":{\"ret\":\"EFAULT\"}}\n"
    );
    assert_eq!(
        tail("l:f -> str", &[Raw::CutBlob(b"\xff".to_vec())]),
        concat!(r#""ret":"\\xff","duration_ns":5120,"truncated":["ret"],"escaped":["ret"]}"#, "\n")
    );
}

/// Check that integers are whole numbers of any size, and hex and pointers strings.
#[test]
fn numbers() {
    let raw = [i64::MIN as u64, u64::MAX, u64::MAX, 0x10, 0].map(Raw::Slot);
    assert_eq!(
        args("(a: i64, b: u64, c: i64, d: x64, e: ptr)", &raw),
        concat!(
            r#"{"a":-9223372036854775808,"b":18446744073709551615,"c":-1,"d":"0x10","e":"0x0"}}"#,
            "\n"
        )
    );
}

/// Check that booleans and characters are what JSON has for them.
#[test]
fn booleans_and_characters() {
    let raw = [0, 1, u64::from(b'x'), u64::from(b'"'), 0x1b, 0xe9].map(Raw::Slot);
    assert_eq!(
        args("(a: bool, b: bool, c: char, d: char, e: char, f: char)", &raw),
        concat!(
            r#"{"a":false,"b":true,"c":"x","d":"\"","e":"\u001b","f":"\\xe9"},"escaped":["f"]}"#,
            "\n"
        )
    );
}

/// Check that strings keep their text, and that nothing in them reaches a terminal.
#[test]
fn strings() {
    for (bytes, json) in [
        ("", r#""""#),
        ("say \"hi\"\n", r#""say \"hi\"\n""#),
        (r"C:\x41", r#""C:\\x41""#),
        ("\u{1b}]0;owned\u{7}", r#""\u001b]0;owned\u0007""#),
        ("\u{7f}\u{9b}31m\u{202e}", r#""\u007f\u009b31m\u202e""#),
        ("grüße 漢字", r#""grüße 漢字""#),
    ] {
        assert_eq!(args("(s: str)", &[text(bytes)]), format!("{{\"s\":{json}}}}}\n"));
    }
}

/// Check that bytes that are not UTF-8 are escaped once more, and said to be.
#[test]
fn invalid_utf8() {
    assert_eq!(
        args("(s: str, b: bytes[3])", &[text(b"\\\xff\n"), text("\\ok")]),
        concat!(r#"{"s":"\\\\\\xff\n","b":"\\ok"},"escaped":["s"]}"#, "\n")
    );
}

/// Check that each value that was not read, cut or escaped is named, in the order of the
/// arguments.
#[test]
fn remarks() {
    let values = [
        Raw::Failed(ReadStatus::Efault),
        Raw::CutBlob(b"abc".to_vec()),
        Raw::Failed(ReadStatus::Einval),
        Raw::CutBlob(b"\xc3".to_vec()),
        Raw::Failed(ReadStatus::Eagain),
        text(b"\xff"),
    ];
    assert_eq!(
        args("(a: str, b: str, c: bytes[9], d: str, e: u64, f: str)", &values),
        concat!(
            r#"{"a":null,"b":"abc","c":null,"d":"\\xc3","e":null,"f":"\\xff"},"#,
            r#""unread":{"a":"EFAULT","c":"EINVAL","e":"EAGAIN"},"#,
            r#""truncated":["b","d"],"escaped":["d","f"]}"#,
            "\n"
        )
    );
}

/// Check that the task's name is escaped like a string, and never confused with an argument.
#[test]
fn task_names() {
    let header = RecordHeader { comm: *b"\x1b[2J\xffname\0\0\0\0\0\0\0", ..header() };
    let record = record(header, &[text(b"\xff")]);
    let line = line("l:f(comm: str)", &record);
    assert!(line.contains(r#""comm":"\u001b[2J\\xffname","cpu""#), "{line}");
    assert!(line.ends_with(",\"escaped\":[\"comm\",\"args.comm\"]}\n"), "{line}");
}

/// Check that a hostile symbol name is escaped.
#[test]
fn labels() {
    let mut probe = planned("l:f");
    probe.label = "l:\u{1b}[2J\"\u{9b}".into();
    let probes = [probe];
    let record = entry(&[]);
    let mut out = Vec::new();
    JsonSink::new().event(&decode(&record, &probes, &CLOCK).unwrap(), &mut out);
    let line = String::from_utf8(out).unwrap();
    assert!(line.contains(r#""probe":"l:\u001b[2J\"\u009b","#), "{line}");
}

/// Check that a sink keeps its probes apart, whatever their order.
#[test]
fn several_probes() {
    let probes = [planned("l:a"), planned("l:b(x: u8)"), planned("l:c")];
    let mut sink = JsonSink::new();
    let mut out = Vec::new();
    for probe in [2, 0, 1, 2] {
        let values = if probe == 1 { vec![Raw::Slot(7)] } else { Vec::new() };
        let record = record(RecordHeader { probe, ..header() }, &values);
        sink.event(&decode(&record, &probes, &CLOCK).unwrap(), &mut out);
    }
    let labels = String::from_utf8(out).unwrap();
    let labels: Vec<_> = labels
        .lines()
        .map(|line| {
            let json: Json = serde_json::from_str(line).unwrap();
            format!("{} {}", json["probe"].as_str().unwrap(), json["args"])
        })
        .collect();
    assert_eq!(labels, ["l:c {}", "l:a {}", r#"l:b {"x":7}"#, "l:c {}"]);
}

/// The bytes that a string stands for, if `escaped` names it.
fn unescaped(text: &str, is_escaped: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' || !is_escaped {
            bytes.push(*first);
        } else if tail[0] == b'\\' {
            bytes.push(b'\\');
            rest = &tail[1..];
        } else {
            assert_eq!(tail[0], b'x');
            let digits = std::str::from_utf8(&tail[1..3]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &tail[3..];
        }
    }
    bytes
}

/// Bytes as strings and buffers hold them: text, binary, and text with some binary in it.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = any::<String>().prop_map(String::into_bytes);
    let cut = (any::<String>(), any::<usize>()).prop_map(|(text, at)| {
        let at = at % (text.len() + 1);
        text.as_bytes()[..at].to_vec()
    });
    let tricky = proptest::collection::vec(
        prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff_u8), Just(b'"'), Just(0x1b)],
        0..40,
    );
    prop_oneof![text, cut, tricky, proptest::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    /// Check that each line is JSON from which every byte and number can be had again.
    #[test]
    fn lossless(
        string in bytes(),
        range in bytes(),
        cut in any::<bool>(),
        signed in any::<i64>(),
        unsigned in any::<u64>(),
        byte in any::<u8>(),
        comm in any::<[u8; 16]>(),
    ) {
        let values = [
            Raw::Blob(string.clone()),
            if cut { Raw::CutBlob(range.clone()) } else { Raw::Blob(range.clone()) },
            Raw::Slot(signed as u64),
            Raw::Slot(unsigned),
            Raw::Slot(u64::from(byte)),
        ];
        let record = record(RecordHeader { comm, ..header() }, &values);
        let line = line("l:f(s: str, b: bytes[1], i: i64, u: u64, c: char)", &record);
        prop_assert!(!line.trim_end_matches('\n').chars().any(is_hidden), "{}", line);
        let json: Json = serde_json::from_str(&line).unwrap();
        let empty = Vec::new();
        let escaped = json["escaped"].as_array().unwrap_or(&empty);
        let string_at = |value: &Json, name: &str| {
            unescaped(value.as_str().unwrap(), escaped.contains(&Json::from(name)))
        };
        let args = &json["args"];
        prop_assert_eq!(string_at(&args["s"], "s"), string);
        prop_assert_eq!(string_at(&args["b"], "b"), range);
        prop_assert_eq!(string_at(&args["c"], "c"), [byte]);
        let name: Vec<_> = comm.into_iter().take_while(|byte| *byte != 0).collect();
        prop_assert_eq!(string_at(&json["comm"], "comm"), name);
        prop_assert_eq!(args["i"].as_i64(), Some(signed));
        prop_assert_eq!(args["u"].as_u64(), Some(unsigned));
        let truncated = cut.then(|| Json::from(vec!["b"]));
        prop_assert_eq!(json.get("truncated"), truncated.as_ref());
    }
}
