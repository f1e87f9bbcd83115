//! A task that is stuck in a page fault hurts nothing else.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    alone,
    support::{
        Faultline, Target, faultline, kernel_batches, number,
        reads::{Read, Reads, assert_reads, unread, whole},
        skip::skip_without,
        streaming::Streaming,
        sum, target,
    },
};

/// Whether a hit that sleeps keeps others waiting. With one link per breakpoint, the kernel holds a lock on
/// a per-CPU buffer while the program runs, and the next hit on that CPU, of any tracer, waits for the lock
/// (`prepare_uprobe_buffer`; seen on 6.1).
pub(crate) fn too_old_for_sleeping_hits() -> bool {
    skip_without(kernel_batches(), "uprobe_multi links: hits that wait for no other hit", (6, 6))
}

/// A run on `stuck`, with a task that has just become stuck in a page fault.
fn hang() -> (Target, Streaming) {
    hang_under(|run| run)
}

/// The same, for a run that is modified before it is started.
fn hang_under(change: impl FnOnce(Faultline) -> Faultline) -> (Target, Streaming) {
    let program = target("stuck.c", &[]);
    let mut stuck = Target::start(&program, &[]);
    let probes = ["same", "other"].map(|name| format!("{}:{name}(text: str)", program.display()));
    let [same, other] = probes;
    let options = ["trace", "--json", "--force", "-p", &stuck.pid(), &same, &other];
    let run = change(faultline(options)).stream_attached();
    stuck.send("hang");
    assert_eq!(stuck.line(), "hanging");
    (stuck, run)
}

fn is_event(line: &str) -> bool {
    line.contains(r#""type":"event""#)
}

/// Waits until the run has reported that the task is stuck.
fn wait_told(run: &Streaming, stuck: &Target) -> String {
    let told = run.stderr.wait_for(1, |line| line.starts_with("warning: process "));
    assert!(told[0].text.contains(&format!("process {} (sleeper)", stuck.pid())), "{told:?}");
    told[0].text.clone()
}

/// Check that a task that is stuck in a page fault does not delay another task's events; that it is
/// reported to the user; that its process is then read without faulting; that a detach says which task it
/// is waiting for; and that everything is accounted for once the page arrives.
#[test]
fn stuck_fault_hurts_nobody_else() {
    let _alone = alone();
    if too_old_for_sleeping_hits() {
        return;
    }
    let (mut stuck, run) = hang();
    let asked = Instant::now();
    stuck.send("calls 1000");
    assert_eq!(stuck.line(), "called");
    let events = run.stdout.wait_for(2000, is_event);
    let took = events[1999].at - asked;
    assert!(took < Duration::from_secs(1), "2,000 events took {took:?}");
    assert!(events.iter().all(|line| line.text.contains(r#""text":"resident""#)));

    let told = wait_told(&run, &stuck);
    assert!(told.contains(", task "), "{told}");
    let (_, since) = told.split_once(" in /memfd:slow-storage for ").unwrap();
    let seconds: f64 = since.split_once(" s; ").unwrap().0.parse().unwrap();
    assert!(seconds >= 1.0, "{told}");

    stuck.send("cold");
    assert_eq!(stuck.line(), "passed", "a page that nobody serves was faulted in");
    let cold = run.stdout.wait_for(2001, is_event).remove(2000);
    let cold = serde_json::from_str(&cold.text).unwrap();
    assert_eq!(Read::of(&cold, "text"), unread("EAGAIN"));

    run.signal(libc::SIGINT);
    // Reported repeatedly for as long as it lasts.
    let waiting = run.stderr.wait_for(2, |line| line.starts_with("waiting for "));
    for line in &waiting {
        let whom = format!("waiting for process {} (sleeper), task ", stuck.pid());
        assert!(line.text.starts_with(&whom), "{line:?}");
        assert!(line.text.contains(" in /memfd:slow-storage for "), "{line:?}");
    }

    stuck.send("serve");
    assert_eq!(stuck.line(), "served");
    let run = run.finish().succeeded();
    let last = run.events().pop().unwrap();
    assert_eq!(last["comm"], "sleeper");
    assert_eq!(Read::of(&last, "text"), whole("served at last"));
    let summary = run.summary();
    assert_eq!(number(&summary, "hits"), 2002);
    assert_eq!(sum(&summary["dropped"]), 0, "{summary}");
    assert_reads(&summary, Reads { resident: 2000, faulted: 1, truncated: 0, failed: 1 });
    assert_eq!(number(&summary["reads"]["failed_by_errno"], "EAGAIN"), 1);
    println!("2,000 events {took:?} after they were asked for; {told}");
    stuck.finish();
}

/// Bug: in a time namespace behind or ahead of the host, a stuck task was not reported, or every task that
/// waited for a page was: the eBPF programs read the host's clock.
#[test]
fn stuck_fault_is_told_in_a_time_namespace() {
    let _alone = alone();
    if too_old_for_sleeping_hits() {
        return;
    }
    let (mut stuck, run) = hang_under(|run| run.ahead_of_the_host(1_000_000));
    let told = wait_told(&run, &stuck);
    let (_, since) = told.split_once(" in /memfd:slow-storage for ").unwrap();
    let seconds: f64 = since.split_once(" s; ").unwrap().0.parse().unwrap();
    assert!((1.0..1_000.0).contains(&seconds), "{told}");
    stuck.send("serve");
    assert_eq!(stuck.line(), "served");
    run.signal(libc::SIGINT);
    run.finish().succeeded();
    stuck.finish();
}

/// Bug: on kernels from 6.13 a hit that slept in a page fault kept its variables in per-CPU instead of
/// per-task memory, and ended up with the arguments of later hits on that CPU.
#[test]
fn sleeping_hit_keeps_its_own_arguments() {
    let _alone = alone();
    if too_old_for_sleeping_hits() {
        return;
    }
    let (mut stuck, run) = hang();
    stuck.send("calls 10");
    assert_eq!(stuck.line(), "called");
    stuck.send("serve");
    assert_eq!(stuck.line(), "served");
    run.stdout.wait_for(21, is_event);
    run.signal(libc::SIGINT);
    let run = run.finish().succeeded();
    let by = |comm: &str| -> Vec<Value> {
        run.events().into_iter().filter(|event| event["comm"] == comm).collect()
    };
    let of_sleeper: Vec<_> = by("sleeper").iter().map(|event| Read::of(event, "text")).collect();
    assert_eq!(of_sleeper, [whole("served at last")]);
    for event in by("stuck") {
        assert_eq!(Read::of(&event, "text"), whole("resident"), "{event}");
    }
    let summary = run.summary();
    assert_reads(&summary, Reads { resident: 20, faulted: 1, ..Reads::default() });
}

/// Check that a second Ctrl-C ends the run although a task is still stuck, that its hit is accounted for,
/// that nothing remains that keeps a pipeline waiting, and that the task is not harmed.
#[test]
fn second_interrupt_does_not_wait() {
    let _alone = alone();
    let (mut stuck, run) = hang();
    run.signal(libc::SIGINT);
    run.stderr.wait_for(1, |line| line.starts_with("waiting for "));
    run.signal(libc::SIGINT);
    let run = run.finish().succeeded();
    let summary = run.summary();
    assert_eq!(number(&summary, "hits"), 1);
    assert_eq!(number(&summary["dropped"], "abandoned"), 1);
    assert!(stuck.child.try_wait().unwrap().is_none(), "the task was to hang all the time");
    stuck.send("serve");
    assert_eq!(stuck.line(), "served");
    stuck.send("calls 1");
    assert_eq!(stuck.line(), "called");
    assert!(stuck.finish().0.success());
}

/// Check that killing a stuck task lets the run continue, and that its hit is accounted for.
#[test]
fn killed_while_stuck() {
    let _alone = alone();
    let (mut stuck, run) = hang();
    wait_told(&run, &stuck);
    run.signal(libc::SIGINT);
    run.stderr.wait_for(1, |line| line.starts_with("waiting for "));
    stuck.child.kill().unwrap();
    stuck.child.wait().unwrap();
    let run = run.finish().succeeded();
    assert_eq!(number(&run.summary(), "hits"), 1);
}
