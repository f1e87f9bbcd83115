//! How long an event takes. Run by hand, since a figure is no test:
//!
//! `cargo test --release -p faultline-output --lib -- --ignored --nocapture speed`

use std::{hint::black_box, time::Instant};

use tracer_common::record::{KIND_RETURN, RecordHeader, STATUS_BITS};

use crate::{JsonSink, Sink, TextSink};
use faultline_engine::collect::decode::{
    Clock, decode,
    testbed::{Raw, header, record},
};
use faultline_plan::{PlannedProbe, testbed::planned};

/// Best of five, in nanoseconds an event, with the decoding.
fn measure(name: &str, sink: &mut dyn Sink, probes: &[PlannedProbe], record: &mut [u8]) {
    // About as many bytes in each case.
    let events = 200_000_000 / (record.len() as u32 + 100);
    let clock = Clock::with_offset_ns(1_767_323_045_000_000_000);
    let mut out = Vec::with_capacity(1 << 20);
    let mut best_ns = f64::MAX;
    let mut bytes = 0;
    for _ in 0..5 {
        bytes = 0;
        let start = Instant::now();
        for index in 0..events {
            record[..8].copy_from_slice(&(u64::from(index) * 1_000).to_ne_bytes());
            if let Ok(event) = decode(black_box(record), probes, &clock) {
                sink.event(&event, &mut out);
            }
            if out.len() > 1 << 19 {
                bytes += black_box(&out).len();
                out.clear();
            }
        }
        best_ns = best_ns.min(start.elapsed().as_nanos() as f64 / f64::from(events));
    }
    println!("{name:<28} {best_ns:6.1} ns/event {:4} bytes", bytes / events as usize);
}

/// Check by eye that a million events of one integer take well under 0.2 s.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_event() {
    let cases = [
        ("entry(n: u64)", "libc.so.6:malloc(size: u64) -> u64", 0, vec![Raw::Slot(123_456)]),
        ("return u64", "libc.so.6:malloc(size: u64) -> u64", 1, vec![Raw::Slot(123_456)]),
        (
            "entry(path: str, flags: i32)",
            "libc.so.6:open(path: str, flags: i32)",
            0,
            vec![Raw::Blob(b"/usr/lib/x86_64-linux-gnu/libc.so.6".to_vec()), Raw::Slot(0)],
        ),
        (
            "entry(buf: 4096 random)",
            "libc.so.6:write(buf: bytes[4096])",
            0,
            vec![Raw::Blob((0..4096_u32).map(|n| ((n * n * 31) >> 7) as u8).collect())],
        ),
    ];
    for (name, probe, kind, values) in cases {
        let probes = [planned(probe)];
        let statuses = if kind == KIND_RETURN { 5_120 << STATUS_BITS } else { 0 };
        let mut bytes = record(RecordHeader { kind, statuses, ..header() }, &values);
        measure(&format!("json {name}"), &mut JsonSink::new(), &probes, &mut bytes);
        measure(&format!("text {name}"), &mut TextSink::new(false), &probes, &mut bytes);
    }
}
