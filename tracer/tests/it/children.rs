//! Children of traced processes: with `--follow` they are traced too, exactly; without it they pay nothing.
//!
//! - `--follow`: forks by the thousand, threads of children, children of children, `exec`, `vfork`,
//!   `posix_spawn`, children that exist before, children that outlive their parent, PID namespaces
//! - without: children are freed of the breakpoints that they inherit, and their parent is still traced

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use serde_json::Value;

use crate::support::{
    Running, Target, assert_conserved,
    attaching::ASSUMPTIONS,
    faultline, is_emulated,
    live::{private_copy, wait_counting, wait_until},
    namespace::Namespace,
    number, target,
};
use faultline_engine::kernel::Features;

/// Calls of a child of `storm`, with its thread and its own child.
const CALLS: u64 = 6;

/// `forks.c`, which forks on command.
struct Forks(Target);

impl Forks {
    fn start(program: &Path) -> Self {
        Self(Target::start(program, &[]))
    }

    #[track_caller]
    fn tell(&mut self, line: &str) {
        self.0.send(line);
        assert_eq!(self.0.line(), "done", "{line}");
    }

    /// Starts a child that waits.
    fn child(&mut self) -> WaitingChild {
        self.0.send("child");
        let line = self.0.line();
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [pid, tick, padded] = numbers[..] else { panic!("{line}") };
        WaitingChild { pid, tick, padded }
    }

    #[track_caller]
    fn ends_well(self) {
        let (status, rest) = self.0.finish();
        assert!(status.success(), "the target ended with {status}");
        assert_eq!(rest, "");
    }
}

/// A child that waits, and where its functions are.
struct WaitingChild {
    pid: u64,
    tick: u64,
    padded: u64,
}

/// The first bytes of a function in a process: `padded` is as long.
fn code(pid: u64, address: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut bytes, address).unwrap();
    bytes
}

fn of(program: &Path, function: &str) -> String {
    format!("{}:{function}", program.display())
}

fn start(command: &str, follow: bool, pid: &str, probes: &[&str]) -> Running {
    let follow = follow.then_some("--follow");
    let args =
        [command, "--json", "-p", pid].into_iter().chain(follow).chain(probes.iter().copied());
    let running = faultline(args).start();
    wait_counting(running.pid());
    running
}

/// Interrupts a run; its lines, the last of which is the summary.
#[track_caller]
fn interrupted(running: Running) -> Vec<Value> {
    running.signal(libc::SIGINT);
    let lines = running.finish().succeeded().json();
    assert_conserved_total(lines.last().unwrap());
    lines
}

/// The law of conservation, in total: `count` and `latency` have no figures by probe in the summary.
#[track_caller]
fn assert_conserved_total(summary: &Value) {
    assert_eq!(summary["type"], "summary", "{summary}");
    if summary["probes"].as_array().is_some_and(|probes| !probes.is_empty()) {
        assert_conserved(summary);
        return;
    }
    let mut whole = summary.clone();
    whole["probes"] = whole["per_cpu"].clone();
    assert_conserved(&whole);
}

/// Check that each call in two thousand children, in their threads and in their own children is counted,
/// and that each child is in the summary.
#[test]
fn each_child_of_two_thousand_is_followed() {
    let program = target("forks.c", &[]);
    let children = if is_emulated() { 100 } else { 2000 };
    let mut forks = Forks::start(&program);
    let mut other = Forks::start(&program);
    let running = start("count", true, &forks.0.pid(), &[&of(&program, "tick")]);
    forks.tell("step 5");
    forks.tell(&format!("storm {children}"));
    other.tell("storm 20");
    let lines = interrupted(running);
    let summary = lines.last().unwrap();
    assert_eq!(number(summary, "hits"), 5 + children * CALLS, "{summary}");
    let told = &summary["children"];
    assert_eq!(number(told, "followed"), children * 2, "{summary}");
    assert_eq!((number(told, "not_followed"), number(told, "inherited")), (0, 0), "{summary}");
    forks.ends_well();
    other.ends_well();
}

/// Check that entries and returns of children are events with their own process ids, and that those of their
/// threads have the child's.
#[test]
fn events_of_children() {
    let program = target("forks.c", &[]);
    let mut forks = Forks::start(&program);
    let running = start("trace", true, &forks.0.pid(), &[&of(&program, "tick(value: u64) -> u64")]);
    forks.tell("step 2");
    let child = forks.child();
    forks.tell("let 3");
    forks.tell("storm 10");
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 2 * (2 + 3 + 10 * CALLS));
    let events = finished.events();
    let of_child: Vec<_> = events.iter().filter(|event| event["pid"] == child.pid).collect();
    assert_eq!(of_child.len(), 6);
    assert!(of_child.iter().all(|event| event["tid"] == child.pid), "{of_child:?}");
    let of_threads = events.iter().filter(|event| event["pid"] != event["tid"]).count();
    assert_eq!(of_threads, 2 * 10 * 2, "two calls of each child are in a thread");
    forks.ends_well();
}

/// Check that `latency` has the calls of children, too.
#[test]
fn durations_of_children() {
    let program = target("forks.c", &[]);
    let mut forks = Forks::start(&program);
    let running = start("latency", true, &forks.0.pid(), &[&of(&program, "tick")]);
    forks.tell("step 1");
    forks.tell("storm 50");
    let lines = interrupted(running);
    assert_eq!(number(&lines[0], "count"), 1 + 50 * CALLS, "{lines:?}");
    forks.ends_well();
}

/// Check that children are followed on every kernel, entries and returns, and nobody else is.
#[test]
fn children_on_every_kernel() {
    for (index, assume) in ASSUMPTIONS.into_iter().enumerate() {
        let program = private_copy(&target("forks.c", &[]), &format!("forks{index}"));
        let mut forks = Forks::start(&program);
        let mut other = Forks::start(&program);
        let probe = of(&program, "tick(value: u64) -> u64");
        let mut run = faultline(["trace", "--json", "-f", "-p", &forks.0.pid(), &probe]);
        run.command().env("FAULTLINE_ASSUME", assume);
        let running = run.start();
        wait_counting(running.pid());
        forks.tell("step 2");
        forks.tell("storm 5");
        forks.tell("spawn 3");
        other.tell("storm 5");
        running.signal(libc::SIGINT);
        let summary = running.finish().succeeded().summary();
        let calls = 2 + 5 * CALLS + 3;
        assert_eq!(number(&summary, "hits"), 2 * calls, "{assume}: {summary}");
        assert_eq!(number(&summary["returns"], "returned"), calls, "{assume}: {summary}");
        assert_eq!(number(&summary["children"], "followed"), 11, "{assume}: {summary}");
        forks.ends_well();
        other.ends_well();
    }
}

/// Check that a child is followed into the program that it executes, however it was made, and that the call
/// of a `vfork` child in its parent's memory counts.
#[test]
fn children_that_execute() {
    let program = target("forks.c", &[]);
    for (command, calls) in [("exec 7", 7), ("vfork 7", 8), ("spawn 7", 7)] {
        let mut forks = Forks::start(&program);
        let running = start("count", true, &forks.0.pid(), &[&of(&program, "tick")]);
        forks.tell(command);
        let lines = interrupted(running);
        assert_eq!(number(lines.last().unwrap(), "hits"), calls, "{command}: {lines:?}");
        forks.ends_well();
    }
}

/// Check that `-c` follows the children of a command, into programs that the command itself does not run.
#[test]
fn children_of_a_command() {
    let program = target("forks.c", &[]);
    let shown = program.display();
    let command = format!("sh -c '{shown} tick 7; ({shown} tick 5); : | {shown} tick 3; true'");
    let run = |options: &[&str]| {
        let args = ["count", "--json", "-c", &command].into_iter().chain(options.iter().copied());
        faultline(args.chain([&*of(&program, "tick")])).run().succeeded().json()
    };
    let summary = run(&["-f"]).pop().unwrap();
    assert_conserved_total(&summary);
    assert_eq!(number(&summary, "hits"), 15, "{summary}");
    assert!(number(&summary["children"], "followed") >= 3, "{summary}");
    assert_eq!(number(&run(&[]).pop().unwrap(), "hits"), 0);
}

/// Check that children which exist before the run are followed, and with them their own children.
#[test]
fn children_that_exist() {
    let program = target("forks.c", &[]);
    let mut forks = Forks::start(&program);
    forks.child();
    let running = start("count", true, &forks.0.pid(), &[&of(&program, "tick")]);
    forks.tell("let 9");
    let lines = interrupted(running);
    assert_eq!(number(lines.last().unwrap(), "hits"), 9, "{lines:?}");
    forks.ends_well();
}

/// Check that a run goes on while a followed child lives, and ends with it.
#[test]
fn children_that_outlive_their_parent() {
    let program = target("forks.c", &[]);
    let mut forks = Forks::start(&program);
    let running = start("count", true, &forks.0.pid(), &[&of(&program, "tick")]);
    forks.child();
    forks.0.send("leave");
    forks.ends_well();
    let summary = running.finish().succeeded().json().pop().unwrap();
    assert_eq!(number(&summary, "hits"), 5, "{summary}");
    assert_eq!(summary["stopped_by"], "the traced process ended");
}

/// Check that children are followed inside a PID namespace, where their numbers differ from the kernel's.
#[test]
fn children_inside_a_pid_namespace() {
    let program = target("forks.c", &[]);
    let namespace = Namespace::start();
    let mut forks = namespace.within(|| Forks::start(&program));
    let mut other = namespace.within(|| Forks::start(&program));
    let status = std::fs::read_to_string(format!("/proc/{}/status", forks.0.pid())).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    let inner = numbers.split_ascii_whitespace().last().unwrap();
    let tick = of(&program, "tick(value: u64)");
    let running = namespace.counting(&["trace", "--json", "-f", "-p", inner, &tick]);
    forks.tell("step 1");
    forks.tell("storm 20");
    other.tell("storm 20");
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!(number(&finished.summary(), "hits"), 1 + 20 * CALLS);
    assert!(finished.events().iter().all(|event| number(event, "pid") != 0));
    forks.ends_well();
    other.ends_well();
}

/// Bug: a child forked after attaching kept the breakpoints for its whole life, and paid for each call. The
/// kernel takes them out of it, and they stay in its parent, whose calls all count.
#[test]
fn a_child_that_is_not_followed_is_freed() {
    let features = Features::probe().unwrap();
    let program = private_copy(&target("forks.c", &[]), "forks-freed");
    let mut forks = Forks::start(&program);
    let master: u64 = forks.0.pid().parse().unwrap();
    let before = forks.child();
    forks.tell("let 1");
    let untouched = [before.tick, before.padded].map(|address| code(master, address));

    // Breakpoints at the entries and at the `ret` instructions.
    let probes = ["tick", "padded"].map(|function| of(&program, function));
    let args = ["--returns", "ret", &probes[0], &probes[1]];
    let running = start("latency", false, &master.to_string(), &args);
    forks.tell("step 3");
    let child = forks.child();
    let of_child = || [child.tick, child.padded].map(|address| code(child.pid, address));
    if features.pid_filter {
        wait_until("the child is free", || of_child() == untouched);
    }
    for (address, untouched) in [child.tick, child.padded].into_iter().zip(untouched) {
        assert_ne!(code(master, address)[0], untouched[0], "the parent is still probed");
    }
    if cfg!(target_arch = "x86_64") {
        let ret = [code(master, child.padded), untouched[1]].map(|code| code[9]);
        assert_ne!(ret[0], ret[1], "the parent is still probed at the `ret`");
    }
    forks.tell("let 100");
    forks.tell("step 4");
    let lines = interrupted(running);
    let summary = lines.last().unwrap();
    assert_eq!(number(summary, "hits"), 2 * 7, "{summary}");
    assert_eq!(number(&lines[0], "count"), 7, "{lines:?}");
    if features.pid_filter {
        let told = &summary["children"];
        assert_eq!((number(told, "inherited"), number(told, "inherited_to_the_end")), (1, 0));
        assert_eq!((number(told, "followed"), number(told, "freed_times")), (0, 1));
    }
    forks.ends_well();
}
