//! A task is stuck in a page fault while the overhead budget detaches probes.

use serde_json::Value;

use crate::{
    alone,
    stuck::too_old_for_sleeping_hits,
    support::{
        Finished, Target, assert_conserved, faultline, number, streaming::Streaming, sum, target,
    },
};

const POLICIES: [&str; 2] = ["detach", "duty-cycle"];

/// A run with a budget of one percent on `stuck`, with a task that is stuck in a page fault and two that
/// call the same function without pause. The budget was exceeded.
fn exceeded(policy: &str) -> (Target, Streaming) {
    let program = target("stuck.c", &[]);
    let mut stuck = Target::start(&program, &[]);
    let pid = stuck.pid();
    let mut run = faultline(["count", "--json", "--force", "-p", &pid]);
    run.command().args(["--max-overhead", "1%", "--overhead-policy", policy]);
    run.command().args(["--where", r#"text == "resident""#]);
    run.command()
        .args(["same", "other"].map(|name| format!("{}:{name}(text: str)", program.display())));
    let run = run.stream_attached();
    let mut tell = |line: &str, answer: &str| {
        stuck.send(line);
        assert_eq!(stuck.line(), answer);
    };
    // First: once its probe is taken out, nothing hangs there.
    tell("hang", "hanging");
    tell("load 2", "loading");
    run.stderr.wait_for(1, |line| line.starts_with("over budget: "));
    (stuck, run)
}

/// The summary; asserts conservation.
#[track_caller]
fn summary(finished: &Finished) -> Value {
    let summary = finished.json().pop().unwrap();
    let mut checked = summary.clone();
    if checked["probes"].as_array().is_some_and(Vec::is_empty) {
        checked["probes"] = checked["per_cpu"].clone();
    }
    assert_conserved(&checked);
    assert!(!finished.stderr.contains("not add up"), "{}", finished.stderr);
    summary
}

/// Bug: with a budget, hits were off by one if a task was stuck in a handler, and three Ctrl-C did not end
/// the run: the run itself closed the budget's links, and then waited for the task.
#[test]
fn second_interrupt_ends_a_run_with_a_budget() {
    let _alone = alone();
    if too_old_for_sleeping_hits() {
        return;
    }
    for policy in POLICIES {
        let (mut stuck, run) = exceeded(policy);
        run.signal(libc::SIGINT);
        let whom = format!("waiting for process {} (sleeper), task ", stuck.pid());
        let told = run.stderr.wait_for(1, |line| line.starts_with("waiting for "));
        assert!(told[0].text.starts_with(&whom), "{policy}: {told:?}");
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        let summary = summary(&finished);
        assert_eq!(number(&summary["dropped"], "abandoned"), 1, "{policy}: {summary}");
        assert_eq!(sum(&summary["dropped"]), 1, "{policy}: {summary}");
        let overhead = &summary["overhead"];
        assert!(number(overhead, "exceeded") > 0, "{policy}: {summary}");
        // Bug: what the run ended in the middle of was detached at its end, but never detached.
        let away = number(overhead, "detached") - number(overhead, "attached_again");
        assert_eq!(number(overhead, "away"), away, "{policy}: {overhead}");
        assert_eq!(away != 0, policy == "detach", "{policy}: {overhead}");
        assert!(stuck.child.try_wait().unwrap().is_none(), "the task was to hang all the time");
        stuck.send("stop");
        let called: u64 = stuck.line().parse().unwrap();
        let hits = number(&summary, "hits");
        assert!(hits > 1 && hits <= called + 1, "{policy}: {hits} hits of {called} calls");
        stuck.send("serve");
        assert_eq!(stuck.line(), "served");
        assert!(stuck.finish().0.success());
    }
}

/// Check that a run with a budget is just as exact if the page arrives before the wait is given up.
#[test]
fn a_page_that_comes_sets_a_run_with_a_budget_free() {
    let _alone = alone();
    if too_old_for_sleeping_hits() {
        return;
    }
    for policy in POLICIES {
        let (mut stuck, run) = exceeded(policy);
        run.signal(libc::SIGINT);
        run.stderr.wait_for(1, |line| line.starts_with("waiting for "));
        stuck.send("serve");
        assert_eq!(stuck.line(), "served");
        let finished = run.finish().succeeded();
        let summary = summary(&finished);
        assert_eq!(sum(&summary["dropped"]), 0, "{policy}: {summary}");
        // `served at last` does not match the condition.
        assert_eq!(number(&summary, "filtered"), 1, "{policy}: {summary}");
        stuck.send("stop");
        stuck.line();
        assert!(stuck.finish().0.success());
    }
}
