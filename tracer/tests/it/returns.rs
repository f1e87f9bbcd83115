//! `-> TYPE`: the value and the duration of calls, in every way that a call can end.
//!
//! Every call whose return is traced is opened, and then is exactly one of returned, lost or unfinished.
//! The targets check their own results and abort where one is wrong.
//!
//! Contents: values; nesting and recursion; tail calls; calls that never return; long calls,
//! attach and detach; threads and processes; several probes on one function.

use std::{
    cell::Cell,
    panic::{catch_unwind, resume_unwind},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::Value;

use crate::support::{
    Finished, Target, faultline,
    live::{Traced, private_copy, probe, probes_of, wait_counting},
    number, target,
};

/// How calls ended: (opened, returned, lost, unfinished).
type Calls = (u64, u64, u64, u64);

fn program() -> PathBuf {
    target("returns.c", &[])
}

thread_local! {
    /// How the test that runs on this thread watches returns.
    static WAY: Cell<&'static [&'static str]> =
        const { Cell::new(&["--returns", "uretprobe", "--force"]) };
}

/// At the functions' own `ret` instructions.
const AT_EXITS: &[&str] = &["--returns", "ret"];

/// The probes, whose returns are watched in the test's way.
fn watched(probes: &[String]) -> Vec<String> {
    WAY.get().iter().map(|word| (*word).to_owned()).chain(probes.iter().cloned()).collect()
}

/// Runs a mode of `returns.c` under these probes, until both have ended.
fn trace(mode: &[&str], functions: &[&str]) -> Finished {
    let program = program();
    let mut traced = Traced::start(&program, mode, &watched(&probes_of(&program, functions)));
    traced.go();
    traced.finish().well()
}

/// Asserts how the calls ended, in total; and that every probe's calls, hits and events add up.
#[track_caller]
fn assert_calls(finished: &Finished, expected: Calls) -> Value {
    let summary = finished.summary();
    assert_eq!(calls(&summary), expected, "(opened, returned, lost, unfinished): {summary}");
    for part in summary["probes"].as_array().unwrap() {
        let (opened, returned, lost, unfinished) = calls(part);
        assert_eq!(opened, returned + lost + unfinished, "calls are missing: {part}");
        let returns = returned + number(&part["dropped"], "no_entry");
        assert_eq!(number(part, "hits"), opened + returns, "hits are not calls: {part}");
    }
    summary
}

fn calls(part: &Value) -> Calls {
    let returns = &part["returns"];
    let count = |name| number(returns, name);
    (count("opened"), count("returned"), count("lost"), count("unfinished"))
}

/// The events of a kind of one function, in their order.
fn events(finished: &Finished, function: &str, kind: &str) -> Vec<Value> {
    let mut events = finished.events();
    events.retain(|event| {
        event["kind"] == kind
            && event["probe"].as_str().unwrap().rsplit(':').next() == Some(function)
    });
    events
}

fn durations(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| number(event, "duration_ns")).collect()
}

// ---- values ----

/// Check that each type of return value is shown as what the function returned, whatever a
/// compiler leaves in the upper bits of its register.
#[test]
fn values_of_every_type() {
    let expected: [(&str, &str, Value); 18] = [
        ("get_i8", "i8", (-128).into()),
        ("get_u8", "u8", 255.into()),
        ("get_i16", "i16", (-32768).into()),
        ("get_u16", "u16", 65535.into()),
        ("get_i32", "i32", i32::MIN.into()),
        ("get_u32", "u32", u32::MAX.into()),
        ("get_i64", "i64", i64::MIN.into()),
        ("get_u64", "u64", u64::MAX.into()),
        ("get_x32", "x32", "0xdeadbeef".into()),
        ("get_true", "bool", true.into()),
        ("get_false", "bool", false.into()),
        ("get_char", "char", "x".into()),
        ("get_ptr", "ptr", "0x1234".into()),
        ("get_str", "str", "résumé".into()),
        ("get_null", "str", Value::Null),
        ("get_dirty_u8", "u8", 7.into()),
        ("get_dirty_i16", "i16", (-2).into()),
        ("get_dirty_bool", "bool", false.into()),
    ];
    let functions: Vec<_> =
        expected.iter().map(|(function, ty, _)| format!("{function} -> {ty}")).collect();
    let functions: Vec<_> = functions.iter().map(String::as_str).collect();
    let finished = trace(&["values"], &functions);
    assert_calls(&finished, (18, 18, 0, 0));
    for (function, ty, value) in expected {
        let returns = events(&finished, function, "return");
        assert_eq!(returns.len(), 1, "{function}");
        assert_eq!(returns[0]["ret"], value, "{function} -> {ty}");
        assert!(number(&returns[0], "duration_ns") > 0, "{function}");
    }
    let null = &events(&finished, "get_null", "return")[0];
    assert_eq!(null["unread"]["ret"], "EFAULT", "{null}");
}

// ---- nesting and recursion ----

/// Check that each of 50 nested calls of one function returns once, each longer than the one
/// inside it.
#[test]
fn recursion() {
    let finished = trace(&["recursion", "50"], &["down(depth: u64) -> u64", "plain -> u64"]);
    assert_calls(&finished, (51, 51, 0, 0));
    let entries = events(&finished, "down", "entry");
    let depths: Vec<_> = entries.iter().map(|event| number(&event["args"], "depth")).collect();
    assert_eq!(depths, (1..=50).rev().collect::<Vec<_>>());
    let returns = events(&finished, "down", "return");
    let values: Vec<_> = returns.iter().map(|event| number(event, "ret")).collect();
    assert_eq!(values, (1..=50).collect::<Vec<_>>());
    assert!(durations(&returns).is_sorted_by(|inner, outer| inner < outer), "{returns:?}");
}

/// Check that of 100 nested calls the 64 that the kernel follows return, and the others are
/// counted as lost.
#[test]
fn recursion_deeper_than_the_kernel_follows() {
    let finished = trace(&["recursion", "100"], &["down -> u64", "plain -> u64"]);
    let summary = assert_calls(&finished, (101, 65, 36, 0));
    assert_eq!(calls(probe(&summary, "down")), (100, 64, 36, 0));
    assert_eq!(number(&summary, "hits"), 166);
    let values: Vec<_> =
        events(&finished, "down", "return").iter().map(|e| number(e, "ret")).collect();
    assert_eq!(values, (37..=100).collect::<Vec<_>>(), "the outermost 64 return");
}

/// Check that two functions that call each other are kept apart.
#[test]
fn nested_functions() {
    let finished = trace(&["nesting"], &["outer(v: u64) -> u64", "inner(v: u64) -> u64"]);
    assert_calls(&finished, (3, 3, 0, 0));
    let order: Vec<_> = finished
        .events()
        .iter()
        .map(|event| {
            let function = event["probe"].as_str().unwrap().rsplit(':').next().unwrap();
            let value = event["args"]["v"].as_u64().or(event["ret"].as_u64()).unwrap();
            format!("{function} {} {value}", event["kind"].as_str().unwrap())
        })
        .collect();
    let expected = [
        "outer entry 10",
        "inner entry 10",
        "inner return 20",
        "inner entry 11",
        "inner return 22",
        "outer return 42",
    ];
    assert_eq!(order, expected);
    let inner: u64 = durations(&events(&finished, "inner", "return")).iter().sum();
    let outer = durations(&events(&finished, "outer", "return"));
    assert!(outer[0] > inner, "{outer:?} holds {inner}");
}

// ---- tail calls ----

/// When a call began whose return this is, within its day.
fn began_ns(returned: &Value) -> u64 {
    let time = returned["time"].as_str().unwrap().trim_end_matches('Z');
    let (_, clock) = time.split_once('T').unwrap();
    let (whole, nanoseconds) = clock.split_once('.').unwrap();
    let parts = whole.split(':').map(|part| part.parse::<u64>().unwrap());
    let seconds = parts.fold(0, |sum, part| sum * 60 + part);
    seconds * 1_000_000_000 + nanoseconds.parse::<u64>().unwrap() - number(returned, "duration_ns")
}

fn trace_tails(depth: &str, functions: &[&str]) -> Finished {
    let program = target("tails.c", &["-O2", "-foptimize-sibling-calls"]);
    let probes = watched(&probes_of(&program, functions));
    let mut traced = Traced::start(&program, &["20", depth], &probes);
    traced.go();
    traced.finish().well()
}

/// Check that functions that end in a jump return together, each with its own duration.
#[test]
fn tail_calls() {
    let functions = ["tail_start -> u64", "tail_middle(v: u64) -> u64", "tail_end(v: u64) -> u64"];
    let finished = trace_tails("1", &functions);
    // tail_end is called once more by itself.
    assert_calls(&finished, (61, 61, 0, 0));
    let starts = events(&finished, "tail_start", "return");
    let middles = events(&finished, "tail_middle", "return");
    let ends = events(&finished, "tail_end", "return");
    assert_eq!((starts.len(), middles.len(), ends.len()), (20, 20, 21));
    for (call, ((start, middle), end)) in starts.iter().zip(&middles).zip(&ends).enumerate() {
        let value = call as u64 * 2 + 4;
        for event in [start, middle, end] {
            assert_eq!(number(event, "ret"), value);
        }
        // They end together, so what differs is when each began.
        assert!(began_ns(start) < began_ns(middle) && began_ns(middle) < began_ns(end));
    }
}

/// Check that a function that jumps to its own entry returns as often as it was entered.
#[test]
fn tail_recursion() {
    let finished = trace_tails("30", &["self_tail(depth: u64) -> i32", "tail_end -> u64"]);
    let summary = assert_calls(&finished, (52, 52, 0, 0));
    assert_eq!(calls(probe(&summary, "self_tail")), (31, 31, 0, 0));
    let returns = events(&finished, "self_tail", "return");
    assert!(returns.iter().all(|event| event["ret"] == 7), "{returns:?}");
    assert!(durations(&returns).is_sorted_by(|inner, outer| inner < outer), "{returns:?}");
}

/// Check that tail recursion beyond what the kernel follows is counted as lost, and leaks nothing
/// into later calls.
#[test]
fn tail_recursion_deeper_than_the_kernel_follows() {
    let finished = trace_tails("99", &["self_tail -> i32", "tail_end -> u64"]);
    let summary = assert_calls(&finished, (121, 85, 36, 0));
    assert_eq!(calls(probe(&summary, "self_tail")), (100, 64, 36, 0));
}

// ---- calls that never return ----

/// Check that calls that `longjmp` jumps over are lost, every one, and the calls around and after
/// them return.
#[test]
fn longjmp() {
    let functions = ["land -> u64", "jump_from -> u64", "jump_from_deeper -> u64", "plain -> u64"];
    let finished = trace(&["longjmp", "5"], &functions);
    let summary = assert_calls(&finished, (75, 14, 61, 0));
    assert_eq!(calls(probe(&summary, "land")), (12, 12, 0, 0));
    assert_eq!(calls(probe(&summary, "jump_from")), (60, 0, 60, 0));
    assert_eq!(calls(probe(&summary, "jump_from_deeper")), (1, 0, 1, 0));
    assert_eq!(calls(probe(&summary, "plain")), (2, 2, 0, 0));
    let landed = events(&finished, "land", "return");
    assert!(landed.iter().all(|event| event["ret"] == 77), "{landed:?}");
}

/// Check that threads that end inside calls leave lost calls, and nothing open.
#[test]
fn thread_exit_inside_calls() {
    assert_left(8);
}

/// Check the same while tasks of other processes exit without pause: 7.2 then does not run our program for
/// every exit.
#[test]
fn thread_exit_among_others() {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        let left = catch_unwind(|| (0..3).for_each(|_| assert_left(32)));
        over.store(true, Ordering::Relaxed);
        left.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Makes threads end inside calls.
#[track_caller]
fn assert_left(threads: u64) {
    let functions = ["leave_through -> u64", "leave_thread(value: u64) -> u64", "plain -> u64"];
    let finished = trace(&["leave", &threads.to_string()], &functions);
    let summary = assert_calls(&finished, (3 * threads, threads, 2 * threads, 0));
    assert_eq!(calls(probe(&summary, "leave_through")), (threads, 0, threads, 0));
    assert_eq!(calls(probe(&summary, "leave_thread")), (threads, 0, threads, 0));
}

/// Check that a call that replaces the program is lost, and that the new program is still traced.
#[test]
fn exec_inside_a_call() {
    let finished = trace(&["replace"], &["replace(mode: str) -> u64", "plain(v: u64) -> u64"]);
    let summary = assert_calls(&finished, (4, 3, 1, 0));
    assert_eq!(calls(probe(&summary, "replace")), (1, 0, 1, 0));
    assert_eq!(calls(probe(&summary, "plain")), (3, 3, 0, 0));
}

// ---- long calls, attach and detach ----

/// Check that a call that is longer than the kernel's lease on return probes (0.1 s) returns, with
/// its whole duration.
#[test]
fn a_call_longer_than_the_lease() {
    let finished = trace(&["nap", "300"], &["nap(ms: u64) -> u64"]);
    assert_calls(&finished, (1, 1, 0, 0));
    let returns = events(&finished, "nap", "return");
    assert_eq!(returns[0]["ret"], 300);
    assert!(number(&returns[0], "duration_ns") >= 300_000_000, "{returns:?}");
}

/// Check that a call that was entered before the probes were attached is not reported, and the next one is.
#[test]
fn a_call_in_flight_at_attach() {
    let program = program();
    let mut target = Target::start(&program, &["hold", "2"]);
    target.send("go");
    assert_eq!(target.line(), "inside");
    let mut traced = Traced::attach(target, &watched(&probes_of(&program, &["hold -> u64"])));
    traced.target.send("return");
    assert_eq!(traced.target.line(), "inside");
    traced.go();
    let finished = traced.finish().well();
    assert_calls(&finished, (1, 1, 0, 0));
    assert_eq!(events(&finished, "hold", "return")[0]["ret"], 5);
}

/// Check that a call that has not returned when the run ends is unfinished, and returns to its
/// caller unharmed.
#[test]
fn a_call_in_flight_at_detach() {
    let program = program();
    let target = Target::start(&program, &["hold", "2"]);
    let Traced { mut target, running } =
        Traced::attach(target, &watched(&probes_of(&program, &["hold -> u64"])));
    target.send("go");
    assert_eq!(target.line(), "inside");
    target.send("return");
    assert_eq!(target.line(), "inside");
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    target.send("return");
    assert_eq!(target.line(), "done");
    assert!(target.finish().0.success());
    assert_calls(&finished, (2, 1, 0, 1));
}

// ---- threads and processes ----

/// Check that concurrent calls of eight threads are kept apart: none is lost, and none is taken for another
/// thread's.
#[test]
fn eight_threads() {
    let rounds = 200;
    let functions = ["outer(v: u64) -> u64", "inner(v: u64) -> u64", "down -> u64"];
    let finished = trace(&["threads", "200"], &functions);
    // A round: outer, two of inner, three of down.
    let opened = 8 * rounds * 6;
    assert_calls(&finished, (opened, opened, 0, 0));
    let threads: std::collections::BTreeSet<_> =
        events(&finished, "outer", "entry").iter().map(|event| number(event, "tid")).collect();
    assert_eq!(threads.len(), 8);
    for thread in threads {
        let of_thread = |function, kind| {
            let mut events = events(&finished, function, kind);
            events.retain(|event| event["tid"] == thread);
            events
        };
        let entered: Vec<_> =
            of_thread("outer", "entry").iter().map(|e| number(&e["args"], "v") * 4 + 2).collect();
        let returned: Vec<_> =
            of_thread("outer", "return").iter().map(|e| number(e, "ret")).collect();
        assert_eq!(entered, returned, "each thread's calls return what was called");
        assert_eq!(entered.len() as u64, rounds);
    }
}

/// Check that with `-p` a child that returns from its parent's call does not count for the traced process.
#[test]
fn fork_inside_a_call() {
    let finished = trace(&["split"], &["split -> i32", "plain(v: u64) -> u64"]);
    let summary = assert_calls(&finished, (2, 2, 0, 0));
    assert_eq!(number(&summary, "hits"), 4);
    let pids: Vec<_> = finished.events().iter().map(|event| number(event, "pid")).collect();
    assert!(pids.windows(2).all(|pair| pair[0] == pair[1]), "one process: {pids:?}");
    assert!(events(&finished, "split", "return")[0]["ret"].as_u64().unwrap() > 1);
}

/// Check that, where every process is traced, a child that returns from its parent's call is a hit whose
/// entry was not seen: dropped, and counted; or one that passes an exit.
#[test]
fn fork_inside_a_call_with_every_process_traced() {
    let program = private_copy(&program(), "fork_inside_a_call");
    let probes = watched(&probes_of(&program, &["split -> i32", "plain(v: u64) -> u64"]));
    let mut target = Target::start(&program, &["split"]);
    let running =
        faultline(["trace", "--json"].into_iter().map(str::to_owned).chain(probes)).start();
    wait_counting(running.pid());
    target.send("go");
    assert_eq!(target.line(), "done");
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert!(target.finish().0.success());
    let summary = assert_calls(&finished, (3, 3, 0, 0));
    let (no_entry, passed) = if WAY.get() == AT_EXITS { (0, 1) } else { (1, 0) };
    assert_eq!(number(&summary, "hits"), 6 + no_entry);
    for part in [&summary, probe(&summary, "split")] {
        assert_eq!(number(&part["dropped"], "no_entry"), no_entry);
        assert_eq!(number(&part["returns"], "passed"), passed);
    }
}

// ---- several probes on one function ----

/// Check that two probes on one function that read different values both see every return.
#[test]
fn two_probes_on_one_function() {
    let functions = ["plain(value: u64) -> u64", "plain -> x8", "outer -> u64"];
    let finished = trace(&["plain", "100"], &functions);
    let summary = assert_calls(&finished, (200, 200, 0, 0));
    assert_eq!(number(&summary, "hits"), 400);
    assert_eq!(events(&finished, "plain", "return").len(), 200);
}

// ---- the same at the functions' exits ----

/// Tests that are run again with returns watched at the functions' own `ret` instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! at_exits {
    ($($test:ident)*) => {
        mod at_exits {
            $(
                #[test]
                fn $test() {
                    super::WAY.set(super::AT_EXITS);
                    super::$test();
                }
            )*
        }
    };
}

#[cfg(target_arch = "x86_64")]
at_exits! {
    values_of_every_type
    recursion
    recursion_deeper_than_the_kernel_follows
    nested_functions
    tail_calls
    longjmp
    thread_exit_inside_calls
    exec_inside_a_call
    a_call_longer_than_the_lease
    a_call_in_flight_at_attach
    a_call_in_flight_at_detach
    eight_threads
    fork_inside_a_call
    fork_inside_a_call_with_every_process_traced
    two_probes_on_one_function
}

/// Check that a function that jumps to its entry is refused at its exits: its calls cannot be told from a
/// loop.
#[test]
#[cfg(target_arch = "x86_64")]
fn tail_recursion_is_refused_at_exits() {
    let program = target("tails.c", &["-O2", "-foptimize-sibling-calls"]);
    let mut run = faultline(["latency", "--returns", "ret", "--dry-run"]);
    run.command().args(probes_of(&program, &["self_tail"]));
    let refused = run.run();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("it jumps back to its entry"), "{}", refused.stderr);
}
