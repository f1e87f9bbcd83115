//! The law of conservation: every hit is accounted for.

use std::{fs, io, io::Read as _, os::unix::process::ExitStatusExt as _};

use super::{
    Ticking, scratch,
    support::{
        Target,
        live::{Bare, Traced, probes_of, summary_of, wait_counting},
        number, target,
    },
    trace_command, values_by_task,
};

/// Check that a million calls from four threads arrive, every single one and in order within its thread, if
/// the buffer is large enough for them.
#[test]
fn a_million_calls() {
    let program = target("calls.c", &[]);
    let file = scratch("a_million_calls.json");
    let mut options = probes_of(&program, &["nop5_u64(value: u64)"]);
    options.extend(["--buffer", "256MiB", "-o", file.to_str().unwrap()].map(str::to_owned));
    let mut traced = Traced::start(&program, &["4", "250000"], &options);
    traced.go();
    let finished = traced.finish().well();
    assert_eq!(finished.stdout, "");
    let output = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let summary = summary_of(&output);
    assert_eq!(number(&summary, "hits"), 1_000_000);
    assert_eq!(number(&summary, "delivered"), 1_000_000, "{summary}");
    let tasks = values_by_task(&output);
    assert_eq!(tasks.len(), 4);
    for values in tasks.into_values() {
        assert!(values.into_iter().eq(0..250_000), "a thread's calls, each once and in order");
    }
}

/// Check that hits that do not fit into the buffer are counted, to the last one, and the rest arrive.
#[test]
fn a_buffer_too_small() {
    let program = target("calls.c", &[]);
    let mut target = Target::start(&program, &["4", "50000"]);
    let (mut unread, stdout) = io::pipe().unwrap();
    let probe = probes_of(&program, &["nop5_u64(value: u64)"]).remove(0);
    let pid = target.pid();
    let args = ["--json", "-p", &pid, &probe, "--buffer", "256KiB"];
    let run = Bare::start(&mut trace_command(args), stdout);
    wait_counting(run.pid());
    target.send("go");
    assert_eq!(target.line(), "done 200000");
    // Nothing has been read yet.
    assert!(target.finish().0.success());
    let mut output = String::new();
    unread.read_to_string(&mut output).unwrap();
    let (status, stderr) = run.finish();
    assert!(status.success(), "{stderr}");
    let summary = summary_of(&output);
    assert_eq!(number(&summary, "hits"), 200_000);
    assert!(number(&summary["dropped"], "ring_full") > 0, "{summary}");
    assert!(number(&summary, "delivered") > 1000, "{summary}");
    let delivered = number(&summary, "delivered");
    assert_eq!(delivered + number(&summary["dropped"], "ring_full"), 200_000, "{summary}");
}

/// Check that `--max-events` writes exactly that many events, and counts those that came after.
#[test]
fn max_events() {
    let Ticking { mut puppet, running } = Ticking::start(&["--max-events", "10"]);
    puppet.step(1000);
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    assert_eq!(number(&summary, "delivered"), 10);
    assert_eq!(
        values_by_task(&finished.stdout).into_values().next().unwrap(),
        (0..10).collect::<Vec<_>>()
    );
    assert_eq!(number(&summary, "hits"), 10 + number(&summary["dropped"], "after_limit"));
    assert_eq!(summary["stopped_by"], "--max-events is reached");
    puppet.ends_well();
}

/// Check that every call up to the one in which a target is killed is accounted for.
#[test]
fn target_killed() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    puppet.go(4);
    puppet.wait_called(2000);
    puppet.target.child.kill().unwrap();
    let status = puppet.target.child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    // Each thread may have counted a call and been killed before it.
    let (hits, called) = (number(&summary, "hits"), puppet.called());
    assert!((called - 4..=called).contains(&hits), "{hits} hits of {called} calls");
    assert_eq!(number(&summary, "delivered"), hits, "{summary}");
    for values in values_by_task(&finished.stdout).into_values() {
        assert!(values.iter().copied().eq(0..values.len() as u64), "no call is missing");
    }
    assert_eq!(summary["stopped_by"], "the traced process ended");
    drop(puppet.take());
}
