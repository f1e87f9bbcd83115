//! The command of `-c`.

use std::{fs, process::Command};

use serde_json::Value;

use super::{
    scratch,
    support::{Finished, faultline, is_emulated, live::probes_of, number, target},
    tick,
};

fn trace_of_command(command: &str) -> Finished {
    faultline(["trace", "--json", &tick(), "-c", command]).run()
}

/// Check that a command is traced from its first instruction to its last, and that what it prints
/// does not mix with the events.
#[test]
fn command_from_first_to_last() {
    let program = target("returns.c", &[]);
    let command = format!("{} plain 500", program.display());
    let probes = probes_of(&program, &["main(argc: i32)", "plain(v: u64) -> u64"]);
    let args = ["trace", "--json", "-c", &command].map(str::to_owned);
    let finished = faultline(args.into_iter().chain(probes)).run().succeeded();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 1001);
    assert_eq!(number(&summary, "delivered"), 1001);
    assert_eq!(finished.events()[0]["args"]["argc"], 3);
    assert_eq!(finished.stderr, "ready\ndone\n");
    assert_eq!(summary["command"]["exit_code"], 0);
    assert_eq!(summary["stopped_by"], "the command ended");
}

/// Check that the summary says how the command ended, and that its exit status is not faultline's.
#[test]
fn command_status() {
    let exited = trace_of_command("sh -c 'exit 3'").succeeded();
    assert_eq!(exited.summary()["command"]["exit_code"], 3);
    let killed = trace_of_command("sh -c 'kill -9 $$'").succeeded();
    assert_eq!(killed.summary()["command"]["signal"], 9);
    // Also in text.
    let text = faultline(["trace", &tick(), "-c", "sh -c 'exit 3'"]).run().succeeded();
    assert!(text.stderr.contains("status 3"), "{}", text.stderr);
}

/// Check that a command that cannot be started is an error in one line, and that an invalid command is
/// wrong usage.
#[test]
fn command_that_cannot_be() {
    let no_program = scratch("no_program");
    fs::write(&no_program, "").unwrap();
    let not_executable = format!("error: failed to start `{0}`: Permission", no_program.display());
    for (command, code, said) in [
        ("/no/such/command", 1, "error: failed to start `/no/such/command`: No such file"),
        (no_program.to_str().unwrap(), 1, &*not_executable),
        ("", 2, "error: `-c` needs a command"),
        ("echo 'oops", 2, "unclosed quote in `-c echo 'oops`"),
    ] {
        let finished = trace_of_command(command);
        assert_eq!(finished.status.code(), Some(code), "{command}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{command}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        assert_eq!(finished.stdout, "");
    }
}

/// Check that a command that outlives the run is ended with it, and that what it was doing is
/// unfinished.
#[test]
fn command_outlives_the_run() {
    let program = target("returns.c", &[]);
    let command = format!("{} nap 1000000", program.display());
    let probe = probes_of(&program, &["nap(ms: u64) -> u64"]).remove(0);
    let finished =
        faultline(["trace", "--json", &probe, "-c", &command, "--duration", "300ms"]).run();
    let summary = finished.succeeded().summary();
    assert_eq!(summary["command"]["signal"], libc::SIGTERM);
    let returns = &summary["returns"];
    assert_eq!((number(returns, "opened"), number(returns, "unfinished")), (1, 1), "{summary}");
    assert_eq!(number(returns, "lost"), 0, "{summary}");
}

/// Check that a command that executes a new program just after the run's end does not start the counting
/// again: nothing counts after the end.
#[test]
fn command_execs_after_the_end() {
    let program = target("returns.c", &[]);
    let command = format!("{} again", program.display());
    let probe = probes_of(&program, &["plain -> u64"]).remove(0);
    // Long enough for it to start a few times.
    let duration = if is_emulated() { "3s" } else { "300ms" };
    let finished =
        faultline(["trace", "--json", &probe, "-c", &command, "--duration", duration]).run();
    let finished = finished.succeeded();
    let summary = finished.summary();
    assert!(number(&summary, "hits") > 2, "{summary}");
    let events = finished.events();
    let seconds_of = |event: &Value| {
        let time = event["time"].as_str().unwrap();
        let seconds: f64 = time[17..29].parse().unwrap();
        let minutes: f64 = time[14..16].parse().unwrap();
        minutes * 60.0 + seconds
    };
    let span = (seconds_of(&events[events.len() - 1]) - seconds_of(&events[0])).rem_euclid(3600.0);
    let ran = summary["duration_ms"].as_f64().unwrap() / 1e3;
    assert!(span <= ran, "events span {span} s of a run of {ran} s");
}

/// Check that a command inherits nothing of ours but the three standard streams.
#[test]
fn command_inherits_no_descriptors() {
    let listed = trace_of_command("ls -l /proc/self/fd").succeeded();
    let files = |listing: &str| -> Vec<String> {
        let lines = listing.lines().filter_map(|line| line.split_once(" -> "));
        lines.map(|(left, _)| left.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    // The command also inherits what the test itself inherited.
    let ours = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let ours = String::from_utf8(ours.stdout).unwrap();
    assert_eq!(files(&listed.stderr), files(&ours), "{} and {ours}", listed.stderr);
}
