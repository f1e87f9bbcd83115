//! What ends a run.

use super::{Ticking, support::number};

/// Check that Ctrl-C, SIGTERM and SIGHUP are the normal end of a run, in the middle of the target's calls,
/// and that the target keeps running.
#[test]
fn signals() {
    for (signal, name) in
        [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM"), (libc::SIGHUP, "SIGHUP")]
    {
        let Ticking { mut puppet, running } = Ticking::start(&[]);
        puppet.go(4);
        puppet.wait_called(1000);
        running.signal(signal);
        let finished = running.finish().succeeded();
        let summary = finished.summary();
        assert!(number(&summary, "hits") >= 996, "{summary}");
        assert_eq!(number(&summary, "hits"), number(&summary, "delivered"), "{summary}");
        assert_eq!(summary["stopped_by"], name);
        puppet.ends_well();
    }
}

/// Check that `--duration` ends a run.
#[test]
fn duration() {
    let Ticking { mut puppet, running } = Ticking::start(&["--duration", "500ms"]);
    puppet.step(7);
    let summary = running.finish().succeeded().summary();
    assert_eq!(number(&summary, "hits"), 7);
    assert_eq!(summary["stopped_by"], "--duration is over");
    assert!(summary["duration_ms"].as_f64().unwrap() >= 500.0, "{summary}");
    puppet.ends_well();
}

/// Check that a run ends with the process that it traces, and does not start if there is no such process.
#[test]
fn end_of_the_process() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    puppet.step(3);
    puppet.target.send("exit 9");
    assert_eq!(puppet.take().finish().0.code(), Some(9));
    let summary = running.finish().succeeded().summary();
    assert_eq!(number(&summary, "hits"), 3);
    assert_eq!(summary["stopped_by"], "the traced process ended");
}

/// Check that a dead process counts as ended although its parent has not waited for it.
#[test]
fn end_of_a_process_that_nobody_waits_for() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    puppet.step(3);
    puppet.target.send("exit 9");
    let summary = running.finish().succeeded().summary();
    assert_eq!(number(&summary, "hits"), 3);
    assert_eq!(summary["stopped_by"], "the traced process ended");
    assert_eq!(puppet.take().finish().0.code(), Some(9));
}
