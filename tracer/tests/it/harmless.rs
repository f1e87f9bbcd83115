//! A traced program computes what it would have computed: programs that leave functions otherwise than by
//! their return, or run on other stacks than they began on, under traced returns.
//!
//! Each target is run alone and under the probes, and prints and ends alike. The calls add up.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use crate::support::{Finished, compiled, faultline, live::Traced, number, target};

/// Runs a command alone and with these probes, and compares; the traced run's summary.
#[track_caller]
fn ends_alike(command: &[&str], probes: &[String]) -> Value {
    let alone = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(alone.status.success(), "{command:?} alone");
    let mut run = faultline(["trace", "--json", "-c", &command.join(" ")]);
    run.command().args(probes);
    let finished: Finished = run.run().succeeded();
    let printed = String::from_utf8_lossy(&alone.stdout);
    assert!(!printed.is_empty());
    for line in printed.lines() {
        assert!(finished.stderr.contains(line), "`{line}` is missing: {}", finished.stderr);
    }
    let summary = finished.summary();
    assert_eq!(summary["command"]["exit_code"], 0, "{summary}");
    let returns = &summary["returns"];
    let count = |name| number(returns, name);
    assert!(count("opened") > 0, "{summary}");
    let ended = count("returned") + count("lost") + count("unfinished");
    assert_eq!(count("opened"), ended, "{summary}");
    summary
}

/// Functions of a target, with their returns.
fn returning(target: &str, functions: &[&str]) -> Vec<String> {
    functions.iter().map(|function| format!("{target}:{function} -> u64")).collect()
}

/// Runs a mode of `stacks.c` with returns of its own functions and of libc's traced.
#[cfg(target_arch = "x86_64")]
#[track_caller]
fn stacks(mode: &str, functions: &[&str], of_libc: &[&str]) -> Value {
    let program = target("stacks.c", &["-fexceptions"]);
    let mut probes = returning(program.to_str().unwrap(), functions);
    probes.extend(returning("libc", of_libc));
    ends_alike(&[program.to_str().unwrap(), mode], &probes)
}

/// Check that fibers of libc survive, which switch stacks inside a traced call.
#[test]
#[cfg(target_arch = "x86_64")]
fn contexts() {
    stacks("contexts", &["step_context", "yield_context"], &["swapcontext", "malloc"]);
}

/// Check the same with a switch that nothing of libc gives away.
#[test]
#[cfg(target_arch = "x86_64")]
fn switches_by_hand() {
    stacks("by-hand", &["step_by_hand", "yield_by_hand"], &["malloc"]);
}

/// Check that a signal handler on a stack of its own survives, above the stack of a traced call.
#[test]
#[cfg(target_arch = "x86_64")]
fn alternate_signal_stack() {
    let summary = stacks("alternate", &["outer", "inner"], &["raise"]);
    // 20 of `outer`, 20 of `raise`, 40 of `inner`.
    assert_eq!(number(&summary["returns"], "opened"), 80);
}

/// Check that cancelled threads run their handlers, through their own functions and libc's.
#[test]
#[cfg(target_arch = "x86_64")]
fn cancelled_threads() {
    let summary = stacks("cancel", &["wait_inside", "cancelled"], &["read", "pthread_join"]);
    // Of each thread the call of `wait_inside`, of `cancelled` and of `read`.
    assert_eq!(number(&summary["returns"], "lost"), 60, "{summary}");
}

/// Check that exceptions are caught that pass through traced calls, through 1 and 30 of them, whether the
/// unwinder is linked in or not.
#[test]
#[cfg(target_arch = "x86_64")]
fn exceptions() {
    let flavours: [&[&str]; 3] = [&[], &["-static"], &["-static-libstdc++", "-static-libgcc"]];
    for flags in flavours {
        let program = target("throws.cc", flags);
        for depth in ["1", "30"] {
            let functions = ["thrower", "catcher", "plain"];
            let probes = returning(program.to_str().unwrap(), &functions);
            let mut traced = Traced::start(&program, &[depth, "10"], &probes);
            traced.go();
            let summary = traced.finish().well().summary();
            let thrown = depth.parse::<u64>().unwrap() * 10;
            let returns = &summary["returns"];
            assert_eq!(number(returns, "lost"), thrown, "{flags:?} {depth}: {summary}");
            assert_eq!(number(returns, "returned"), 20, "{flags:?} {depth}: {summary}");
        }
    }
}

/// A Go program.
#[cfg(target_arch = "x86_64")]
fn go_target(source: &str) -> PathBuf {
    let mut compiler = Command::new("go");
    compiler.args(["build", "-o"]).env("CGO_ENABLED", "0");
    compiled(source, "routines-go", compiler)
}

/// Check that goroutines survive that continue on other threads and grow their stacks inside traced calls, and
/// that each call is counted once: as returned, or as lost if a panic or the goroutine's end left it.
#[test]
#[cfg(target_arch = "x86_64")]
fn goroutines() {
    let program = go_target("routines.go");
    let program = program.to_str().unwrap();
    let (routines, rounds) = (60, 20);
    let command = [program, &routines.to_string(), &rounds.to_string()];
    let calls = [
        ("main.waits", rounds),
        ("main.leaf", rounds),
        ("main.one.add", rounds),
        ("main.recovers", rounds),
        ("main.panics", rounds),
        // From 40 down to 0.
        ("main.grows", 41),
        ("main.exits", 1),
        ("main.work", 1),
    ];
    let functions = calls.map(|(function, _)| function);
    let summary = ends_alike(&command, &returning(program, &functions));
    let returns = &summary["returns"];
    let a_routine: u64 = calls.iter().map(|(_, calls)| calls).sum();
    assert_eq!(number(returns, "opened"), routines * a_routine, "{summary}");
    // Every other call of `panics`; and every fourth goroutine ends in `exits`, called by `work`.
    assert_eq!(number(returns, "lost"), routines * rounds / 2 + 2 * routines / 4, "{summary}");

    // Without their returns: a function whose stack grows starts again.
    let mut run = faultline(["count", "--json", "-c", &command.join(" ")]);
    run.command().args(functions.map(|function| format!("{program}:{function}")));
    let lines = run.run().succeeded().json();
    for (function, calls) in calls {
        let is_its = |line: &&Value| line["probe"] == format!("routines-go:{function}");
        let line = lines.iter().find(is_its).unwrap();
        assert_eq!(number(line, "hits"), routines * calls, "{function}");
    }
}
