//! The overhead budget: probes that are too expensive are detached, attached again and reported; the others
//! keep counting as if nothing had happened.
//!
//! - runs: `--max-overhead` with either policy, one function and ten thousand
//! - the daemon, with its default
//! - invalid limits
//! - from outside (ignored): what the target itself measures, for docs/budget.md

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    alone,
    support::{
        self, Finished, Target, assert_conserved,
        daemon::{Daemon, probe},
        faultline, is_emulated, kernel_batches,
        live::{private_copy, probes_of, wait_until},
        number, sum, target,
    },
};

/// The target, for tests that trace one process of it.
pub(crate) fn load_program() -> PathBuf {
    target("load.c", &["-O0"])
}

/// A private copy, for tests that trace every process.
pub(crate) fn own_load_program(name: &str) -> PathBuf {
    private_copy(&load_program(), &format!("load_{name}"))
}

/// The target's answer to `mark` and `stop`: its calls.
pub(crate) fn calls(target: &mut Target, command: &str) -> u64 {
    target.send(command);
    target.line().split(' ').next().unwrap().parse().unwrap()
}

/// Makes the target do calls that are not part of its load.
pub(crate) fn call(target: &mut Target, calls: u64) {
    target.send(&format!("call {calls}"));
    assert_eq!(target.line(), "called");
}

/// The line of a probe in a `--json` run.
fn line_of(finished: &Finished, function: &str) -> Value {
    let lines = finished.json().into_iter();
    let is_it = |line: &Value| {
        line["probe"].as_str().is_some_and(|probe| probe.ends_with(&format!(":{function}")))
    };
    lines.filter(|line| line.get("so_far").is_none()).find(is_it).expect("the probe has a line")
}

/// The summary, conserved in total and by CPU.
#[track_caller]
pub(crate) fn summary(finished: &Finished) -> Value {
    let summary = finished.json().pop().unwrap();
    let mut checked = summary.clone();
    if checked["probes"].as_array().is_some_and(Vec::is_empty) {
        checked["probes"] = checked["per_cpu"].clone();
    }
    assert_conserved(&checked);
    summary
}

/// Check that a function that is too expensive is detached and reported with figures; that hits are
/// conserved and never exceed the calls; and that it is attached again when the load is over, and counts
/// exactly from then on.
#[test]
fn detached_and_attached_again() {
    let _alone = alone();
    let program = load_program();
    let mut target = Target::start(&program, &["2", "push"]);
    let pid = target.pid();
    let mut run = faultline(["count", "--json", "--max-overhead", "2%", "-p", &pid]);
    run.command().args(probes_of(&program, &["warm", "hot"]));
    let run = run.stream_attached();
    target.send("go");
    run.stderr.wait_for(1, |line| {
        line.starts_with("over budget: ")
            && line.contains(" % of all CPUs, at most 2 %: detached `")
            && line.contains(":warm` (")
            && line.contains("trying again in ")
    });
    // The report comes before the detach; after that the target is a hundred times as fast.
    let before = calls(&mut target, "mark");
    wait_until("it is detached", || calls(&mut target, "mark") > before + 10_000_000);
    let called = calls(&mut target, "stop");
    run.stderr.wait_for(1, |line| line.starts_with("trying again: `") && line.contains(":warm`"));
    thread::sleep(Duration::from_millis(500));
    call(&mut target, 1000);
    run.signal(libc::SIGINT);
    let finished = run.finish().succeeded();
    let summary = summary(&finished);
    let line = line_of(&finished, "warm");
    let hits = number(&line, "hits");
    assert!(hits >= 1000 && hits < called, "{hits} of {called}");
    let share = line["attached_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{line}");
    assert!(line.get("estimated_hits").is_none(), "{line}");
    let overhead = &summary["overhead"];
    assert_eq!(overhead["max_percent"], 2.0);
    assert_eq!(overhead["policy"], "detach");
    // In an emulated machine, the last thousand calls alone are beyond the budget.
    let most = 1 + u64::from(is_emulated());
    assert!((1..=most).contains(&number(overhead, "exceeded")), "{overhead}");
    assert!((1..=most).contains(&number(overhead, "detached")), "{overhead}");
    assert_eq!(number(overhead, "attached_again"), 1, "{overhead}");
    assert_eq!(number(overhead, "away"), number(overhead, "detached") - 1, "{overhead}");
    assert!(overhead["peak_percent"].as_f64().unwrap() > 2.0, "{overhead}");
    assert!(target.finish().0.success());
}

/// Check that a run within its budget is as exact as one without a budget, and reports what it used.
#[test]
fn within_the_budget_all_is_exact() {
    let _alone = alone();
    let program = load_program();
    let mut target = Target::start(&program, &["2", "one", "5"]);
    let pid = target.pid();
    let mut run = faultline(["count", "--json", "--max-overhead", "20%", "-p", &pid]);
    run.command().args(probes_of(&program, &["hot"]));
    let run = run.start();
    support::live::wait_counting(run.pid());
    target.send("go");
    thread::sleep(Duration::from_secs(1));
    let called = calls(&mut target, "stop");
    run.signal(libc::SIGINT);
    let finished = run.finish().succeeded();
    let line = line_of(&finished, "hot");
    assert_eq!(number(&line, "hits"), called);
    assert!(line.get("attached_share").is_none(), "{line}");
    assert_eq!(number(&summary(&finished)["overhead"], "exceeded"), 0);
    assert!(target.finish().0.success());
}

/// Check that under the duty cycle hits are conserved and match what was seen, and that the estimate is
/// close to the target's own count; in JSON and, marked as such, in text.
#[test]
fn duty_cycle_estimates() {
    let _alone = alone();
    for json in [true, false] {
        let program = load_program();
        // 300,000 calls a second: about ten percent of a CPU.
        let mut target = Target::start(&program, &["2", "one", "150"]);
        let pid = target.pid();
        let options = ["--max-overhead", "2%", "--overhead-policy", "duty-cycle", "-p", &pid];
        let mut run = faultline(["count"].into_iter().chain(options));
        run.command().args(json.then_some("--json")).args(probes_of(&program, &["hot"]));
        let run = run.start();
        support::live::wait_counting(run.pid());
        target.send("go");
        thread::sleep(Duration::from_secs(8));
        let called = calls(&mut target, "stop");
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        assert!(finished.stderr.contains("attached only part of the time"), "{}", finished.stderr);
        assert!(target.finish().0.success());
        let near = |estimate: u64| {
            let ratio = estimate as f64 / called as f64;
            // With few CPUs, the attached part of the time and the target compete with each other.
            assert!((0.4..1.6).contains(&ratio), "{estimate} of {called}");
        };
        if !json {
            let row = finished.stdout.lines().nth(1).unwrap();
            let estimate = row.split_whitespace().nth(1).unwrap();
            near(estimate.strip_prefix('~').unwrap().parse().unwrap());
            assert!(
                finished.stderr.contains("figures with ~ are estimates"),
                "{}",
                finished.stderr
            );
            continue;
        }
        let line = line_of(&finished, "hot");
        let hits = number(&line, "hits");
        assert!(hits > 0 && hits < called, "{hits} of {called}");
        near(number(&line, "estimated_hits"));
        let overhead = &summary(&finished)["overhead"];
        assert_eq!(overhead["policy"], "duty-cycle");
        let share = overhead["attached_share"].as_f64().unwrap();
        assert!(share > 0.0 && share < 1.0, "{overhead}");
        assert!(overhead["attach_work_ms"].as_f64().unwrap() > 0.0, "{overhead}");
    }
}

/// Check that calls that are open while their probes are attached and detached are accounted for: events
/// and returns, under either policy.
#[test]
fn returns_are_conserved() {
    let _alone = alone();
    for policy in ["detach", "duty-cycle"] {
        let program = load_program();
        let mut target = Target::start(&program, &["2", "many"]);
        let pid = target.pid();
        let options = ["--max-overhead", "2%", "--overhead-policy", policy, "--json", "-p", &pid];
        let mut run = faultline(["latency"].into_iter().chain(options));
        run.command().args(probes_of(&program, &["fn_00?? -> i32", "work -> u64"]));
        let run = run.start();
        support::live::wait_counting(run.pid());
        target.send("go");
        thread::sleep(Duration::from_secs(3));
        calls(&mut target, "stop");
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        let summary = summary(&finished);
        let returns = &summary["returns"];
        let ended = ["returned", "lost", "unfinished"].map(|how| number(returns, how));
        assert_eq!(number(returns, "opened"), ended.iter().sum::<u64>(), "{policy}: {summary}");
        assert!(number(&summary["overhead"], "exceeded") > 0, "{policy}: {summary}");
        assert!(target.finish().0.success());
    }
}

/// Check that probes that are attached and detached count whole calls: per thread and change at most one
/// call is lost, which was open at that moment, and for none is only the end seen. (Bugs: a fifth of all
/// calls began after the return's breakpoint was removed; and a later call ended one from before the pause,
/// with the pause as its duration.)
#[test]
fn calls_come_and_go_whole() {
    let _alone = alone();
    if !kernel_batches() {
        return;
    }
    for policy in ["detach", "duty-cycle"] {
        let program = load_program();
        // 300,000 calls a second, still running at the end.
        let mut target = Target::start(&program, &["2", "one", "150"]);
        let pid = target.pid();
        let options = ["--max-overhead", "1%", "--overhead-policy", policy, "--json", "-p", &pid];
        let mut run = faultline(["latency"].into_iter().chain(options));
        run.command().args(probes_of(&program, &["hot"]));
        let run = run.start();
        support::live::wait_counting(run.pid());
        target.send("go");
        thread::sleep(Duration::from_secs(7));
        calls(&mut target, "stop");
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        let summary = summary(&finished);
        let overhead = &summary["overhead"];
        let changes = 2 * number(overhead, "exceeded") + number(overhead, "attached_again");
        assert!(changes > 0, "{policy}: {summary}");
        let broken = number(&summary["returns"], "lost") + number(&summary["dropped"], "no_entry");
        assert!(broken <= 2 * changes, "{policy}: {broken} of {changes} changes: {summary}");
        assert!(target.finish().0.success());
    }
}

/// Check that of ten thousand functions called in turn nearly all are detached, or all are attached for
/// part of the time, and that none is reported with more hits than calls.
#[test]
fn budget_of_ten_thousand() {
    let _alone = alone();
    let pattern = if kernel_batches() { "fn_*" } else { "fn_000?" };
    for policy in ["detach", "duty-cycle"] {
        let program = load_program();
        let mut target = Target::start(&program, &["2", "many"]);
        let pid = target.pid();
        let options = ["--max-overhead", "2%", "--overhead-policy", policy, "--json", "-p", &pid];
        let mut run = faultline(["count"].into_iter().chain(options));
        run.command().args(probes_of(&program, &[pattern]));
        let run = run.start();
        support::live::wait_counting(run.pid());
        target.send("go");
        thread::sleep(Duration::from_secs(4));
        let rounds = calls(&mut target, "stop") / 10_000;
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        let summary = summary(&finished);
        assert_eq!(sum(&summary["dropped"]), 0, "{summary}");
        let overhead = &summary["overhead"];
        if kernel_batches() {
            assert!(number(overhead, "exceeded") > 0, "{overhead}");
        }
        if kernel_batches() && policy == "detach" {
            assert!(number(overhead, "detached") > 5_000, "{overhead}");
        }
        for line in finished.json().iter().filter(|line| line["type"] == "count") {
            let hits = number(line, "hits");
            assert!(hits <= rounds, "{rounds} rounds: {line}: {summary}\n{}", finished.stderr);
        }
        assert!(target.finish().0.success());
    }
}

/// Check that the daemon has a budget by default: a probe that is too expensive is detached, is shown as
/// such everywhere, and is attached again; and that a reload applies another budget.
#[test]
fn the_daemon_has_a_budget() {
    let _alone = alone();
    let program = own_load_program("daemon");
    let probes = probe("loads", &program, "hot");
    // No setting: the default.
    let daemon = Daemon::start(&probes, "[overhead]\n");
    let mut target = Target::start(&program, &["2", "one"]);
    target.send("go");
    daemon.wait_metric("faultline_overhead_detached_functions", &[], 1.0);
    daemon.running.stderr.wait_for(1, |line| {
        line.contains("over budget: ") && line.contains("at most 2 %: detached `")
    });
    assert_eq!(daemon.listed("loads")["detached"], 1);
    assert!(daemon.ctl(&["list"]).succeeded().stdout.contains("1 over the overhead budget"));
    let status = daemon.ask(&["status"]);
    assert_eq!(status["overhead"]["max_percent"], 2.0, "{status}");
    assert_eq!(status["overhead"]["away"], 1, "{status}");
    assert!(
        daemon.ctl(&["status"]).succeeded().stdout.contains("at most 2 % of all CPUs (detach)")
    );
    calls(&mut target, "stop");
    daemon.wait_metric("faultline_overhead_detached_functions", &[], 0.0);
    daemon.wait_released();
    let before = daemon.metric("faultline_probe_hits_total", &["name=\"loads\""]);
    call(&mut target, 1000);
    daemon.wait_metric("faultline_probe_hits_total", &["name=\"loads\""], before + 1000.0);

    // Another policy, and then none.
    daemon.configure(&probes, "[overhead]\nmax = \"1%\"\npolicy = \"duty-cycle\"\n");
    daemon.ask(&["reload"]);
    // Hits from before the new limit do not count against it.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.metric("faultline_overhead_exceeded_total", &[]), 0.0);
    target.send("go");
    daemon.running.stderr.wait_for(1, |line| line.contains("attached only part of the time"));
    wait_until("it has come and gone", || {
        daemon.metric("faultline_overhead_exceeded_total", &[]) >= 3.0
    });
    calls(&mut target, "stop");
    daemon.configure(&probes, "[overhead]\nmax = \"off\"\n");
    daemon.ask(&["reload"]);
    wait_until("the budget is off", || daemon.ask(&["status"]).get("overhead").is_none());
    daemon.wait_released();
    let before = daemon.metric("faultline_probe_hits_total", &["name=\"loads\""]);
    call(&mut target, 1000);
    daemon.wait_metric("faultline_probe_hits_total", &["name=\"loads\""], before + 1000.0);
    assert!(target.finish().0.success());
    daemon.stop();
}

/// Check that the daemon detaches part of a link, and the probe's other functions keep counting exactly.
#[test]
fn the_daemon_exchanges_links() {
    let _alone = alone();
    let program = own_load_program("daemon_exchange");
    let probes = probe("loads", &program, "/^(hot|warm)$/");
    let daemon = Daemon::start(&probes, "[overhead]\n");
    // `warm` is called without pause; `hot` is not called until it has been detached.
    let mut target = Target::start(&program, &["2", "push"]);
    let mut other = Target::start(&program, &["1", "one", "2"]);
    other.send("go");
    target.send("go");
    daemon.wait_metric("faultline_overhead_detached_functions", &[], 1.0);
    calls(&mut target, "stop");
    daemon.wait_metric("faultline_overhead_detached_functions", &[], 0.0);
    let called = calls(&mut other, "stop");
    daemon.wait_released();
    let hot = [format!("probe=\"{}:hot\"", program.file_name().unwrap().to_str().unwrap())];
    let hot: Vec<&str> = hot.iter().map(String::as_str).collect();
    daemon.wait_metric("faultline_probe_hits_total", &hot, called as f64);
    assert!(target.finish().0.success());
    assert!(other.finish().0.success());
    daemon.stop();
}

/// Check that an invalid limit is refused with a reason, and a policy without a limit too.
#[test]
fn limits_that_are_none() {
    let _alone = alone();
    for (wrong, why) in [
        ("0%", "above 0 %"),
        ("200%", "below 100 %"),
        ("abc", "such as `2%`, found `abc`"),
        ("2", "such as `2%`, found `2`"),
    ] {
        let finished = faultline(["count", "--max-overhead", wrong, "libc:open"]).run();
        assert_eq!(finished.status.code(), Some(2), "{wrong}: {}", finished.stderr);
        assert!(finished.stderr.contains(why), "{wrong}: {}", finished.stderr);
    }
    let finished = faultline(["count", "--overhead-policy", "detach", "libc:open"]).run();
    assert_eq!(finished.status.code(), Some(2));
    assert!(finished.stderr.contains("--max-overhead"), "{}", finished.stderr);
    let finished =
        faultline(["count", "--max-overhead", "2%", "--overhead-policy", "x", "libc:open"]).run();
    assert_eq!(finished.status.code(), Some(2));
    assert!(finished.stderr.contains("duty-cycle"), "{}", finished.stderr);
}

/// What the target reports about itself: the CPU nanoseconds of its threads, and when.
fn mark(target: &mut Target) -> (f64, Instant) {
    target.send("mark");
    let at = Instant::now();
    let line = target.line();
    (line.split_once(' ').unwrap().1.parse().unwrap(), at)
}

/// The percentage of all CPUs that the target uses.
fn percent(target: &mut Target, time: Duration) -> f64 {
    let (from_ns, from) = mark(target);
    thread::sleep(time);
    let (to_ns, to) = mark(target);
    let cpus = thread::available_parallelism().unwrap().get() as f64;
    (to_ns - from_ns) / 1e7 / (to - from).as_secs_f64() / cpus
}

/// Prints, for docs/budget.md, how much tracing under the budget costs as seen by the target: the CPU time
/// that 300,000 calls a second take from two seconds after attaching, above what they take before and
/// after. At full speed a target's own speed varies more than that from second to second. Asserts nothing:
/// run it on an idle machine with `cargo xtask test --test alone -- --ignored --nocapture from_outside`.
#[test]
#[ignore = "a measurement of five minutes"]
fn from_outside() {
    let _alone = alone();
    let program = load_program();
    eprintln!("| called | budget | policy | from outside | told | without probes |");
    for (mode, function) in [("one", "hot"), ("many", "fn_*")] {
        for max in ["99%", "1%", "2%", "5%"] {
            for policy in ["detach", "duty-cycle"] {
                let mut target = Target::start(&program, &["2", mode, "150"]);
                target.send("go");
                thread::sleep(Duration::from_millis(500));
                let before = percent(&mut target, Duration::from_secs(4));
                let pid = target.pid();
                let options =
                    ["--json", "--max-overhead", max, "--overhead-policy", policy, "-p", &pid];
                let mut run = faultline(["count"].into_iter().chain(options));
                run.command().args(probes_of(&program, &[function]));
                let run = run.start();
                support::live::wait_counting(run.pid());
                thread::sleep(Duration::from_secs(2));
                let traced = percent(&mut target, Duration::from_secs(8));
                run.signal(libc::SIGINT);
                let finished = run.finish().succeeded();
                let told = summary(&finished)["overhead"]["mean_percent"].as_f64().unwrap();
                let after = percent(&mut target, Duration::from_secs(4));
                let without = f64::midpoint(before, after);
                eprintln!(
                    "| {mode} | {max} | {policy} | {:.2} % | {told:.2} % | {without:.2} % |",
                    traced - without
                );
                let _ = target.child.kill();
                let _ = target.finish();
            }
        }
    }
}
