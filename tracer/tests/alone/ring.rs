//! The ring buffer under threads that outnumber the CPUs, signals, and hits that wait for pages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use faultline_engine::{
    Host, Options, Settings, Tracer,
    collect::{decode::Event, events},
    discovery::Prepared,
    kernel::Holding,
    request::{Request, RequestText, Selection},
};
use faultline_plan::ProbeId;
use faultline_resolve::Pid;
use faultline_spec::types::{Raw, Value};
use tracer_common::{Action, counter::Counter};

use crate::{
    alone,
    support::{Target, is_emulated, kernel_batches, live::probes_of, target},
};

/// What arrived of a stream of calls: how many, and the number of the last.
type Streams = BTreeMap<u64, (u64, Option<u64>)>;

/// Checks an event by itself, and that it comes after the last one of its stream.
fn see(event: &Event<'_>, streams: &mut Streams) {
    let values: Vec<_> = event.values().map(|(_, value)| value.unwrap()).collect();
    let number = |index: usize| values[index].number().unwrap() as u64;
    let (stream, count) = (number(0), number(1));
    match values.get(2).map(Value::raw) {
        None => {}
        Some(Raw::Register(sum)) => assert_eq!(sum, stream + count),
        Some(Raw::Memory { bytes, .. }) => {
            assert_eq!(bytes, format!("stream {stream}, call {count}").as_bytes());
        }
    }
    let (arrived, last) = streams.entry(stream).or_default();
    assert!(last.is_none_or(|last| last < count), "stream {stream}: {count} after {last:?}");
    (*arrived, *last) = (*arrived + 1, Some(count));
}

/// Traces the program with a buffer of this size, and a reader that pauses after every `pause_after` events;
/// returns how many records were lost.
fn trace(calls: u64, buffer_bytes: u32, pause_after: u64) -> u64 {
    let program = target("ring.c", &["-O1"]);
    let mut target = Target::start(&program, &[&calls.to_string()]);
    let pid: Pid = target.pid().parse().unwrap();
    let mut functions =
        vec!["number(stream: u64, count: u64, sum: u64)", "pair(stream: u64, count: u64)"];
    // On older kernels no page is faulted in.
    let has_faults = kernel_batches();
    if has_faults {
        functions.push("text(stream: u64, count: u64, string: str)");
    }
    let requests = functions.iter().map(|function| {
        let text = RequestText {
            name: "ring".to_owned(),
            probe: probes_of(&program, &[function]).remove(0),
            action: Action::Events,
            ..RequestText::default()
        };
        Request {
            name: (*function).into(),
            selection: Selection::Pids(vec![pid]),
            ..text.check().unwrap()
        }
    });
    let requests: Vec<_> = requests.collect();
    let host = Host::detect();
    let prepared = Prepared::new(&host, requests);
    let streams = Arc::new(Mutex::new(Streams::new()));
    let seen = Arc::clone(&streams);
    let mut events = 0;
    let handlers = events::each(move |event| {
        see(event, &mut seen.lock().unwrap());
        events += 1;
        if events % pause_after == 0 {
            thread::sleep(Duration::from_millis(400));
        }
    });
    let tracer = Tracer::start(Options {
        host,
        settings: Settings { buffer_bytes, ..Settings::default() },
        holding: Holding::Here,
        helper: false,
        diagnostics: false,
        changes: false,
        handlers: Some(handlers),
        observer: Arc::new(|notice| eprintln!("{notice}")),
    })
    .unwrap();
    let attached = tracer.attach(prepared, &Arc::default()).blocking_recv().unwrap().unwrap();
    let set = attached.set;
    set.begin();
    target.send("go");
    let mut called = BTreeMap::new();
    loop {
        let line = target.line();
        let Some((stream, calls)) = line.split_once(' ') else { break };
        called.insert(stream.parse::<u64>().unwrap(), calls.parse::<u64>().unwrap());
    }
    assert_eq!(called.len(), 14, "{called:?}");
    called.retain(|stream, _| has_faults || *stream < 20);
    let counters = &set.source.counters;
    let sum = |counter| -> u64 {
        (0..functions.len()).map(|probe| counters.sum(ProbeId(probe as u32), counter)).sum()
    };
    let (hits, lost) = (sum(Counter::PlainHits), sum(Counter::RingFull));
    let failed = sum(Counter::ReadEfault) + sum(Counter::ReadEagain);
    let faulted = sum(Counter::ReadFaulted);
    let stopped = tracer.stop(None, &Arc::default()).blocking_recv().unwrap();
    assert!(stopped.complete);
    let streams = streams.lock().unwrap();
    let arrived: u64 = streams.values().map(|(arrived, _)| arrived).sum();
    let all: u64 = called.values().sum();
    eprintln!("{all} calls, {arrived} arrived, {lost} lost, {faulted} strings were faulted in");
    assert_eq!((hits, arrived + lost, failed), (all, all, 0), "{called:?} {streams:?}");
    assert_eq!(faulted > 0, has_faults);
    assert!(target.finish().0.success());
    lost
}

/// Check that every record arrives whole and once, those of one stream in their order, or is counted as lost:
/// with room for all, and in the smallest ring, which wraps every few thousand records and is full
/// whenever the reader pauses.
#[test]
fn every_record_arrives_or_is_counted() {
    let _alone = alone();
    let calls = if is_emulated() { 1_000 } else { 20_000 };
    assert_eq!(trace(calls, 64 << 20, u64::MAX), 0);
    let lost = trace(2 * calls, 256 << 10, 40_000);
    assert!(lost > 0 || is_emulated(), "the ring was never full");
}
