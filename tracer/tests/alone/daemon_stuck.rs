//! A task that is stuck inside a probe of the daemon.

use std::{fs, thread, time::Duration};

use crate::{
    alone,
    support::{
        Target,
        daemon::{Daemon, probe},
        live::private_copy,
        number, target,
    },
};

/// Check that a task that delays the release of its probes is still counted as inside a fault.
#[test]
fn a_stuck_task_is_counted_while_its_probe_goes() {
    let _alone = alone();
    let program = private_copy(&target("stuck.c", &[]), "stuck-leaving");
    let probes = format!("{}action = \"events\"\n", probe("same", &program, "same(text: str)"));
    let daemon = Daemon::start(&probes, "");
    let mut stuck = Target::start(&program, &[]);
    let mut tell = |line: &str, answer: &str| {
        stuck.send(line);
        assert_eq!(stuck.line(), answer);
    };
    tell("hang", "hanging");
    daemon.wait_metric("faultline_tasks_in_fault", &[], 1.0);
    daemon.wait_metric("faultline_tasks_stuck_total", &[], 1.0);
    daemon.ctl(&["detach", "same"]).succeeded();
    // This is still true several looks later.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.metric("faultline_tasks_in_fault", &[]), 1.0);
    assert_eq!(number(&daemon.ask(&["status"]), "releasing"), 1);
    tell("serve", "served");
    daemon.wait_metric("faultline_tasks_in_fault", &[], 0.0);
    daemon.wait_released();
    assert!(stuck.finish().0.success());
    daemon.stop();
}

/// Check that a task that is stuck in a page fault delays nothing: not events, changes, scrapes or the end
/// of the daemon.
#[test]
fn a_stuck_task_holds_up_nothing() {
    let _alone = alone();
    let program = private_copy(&target("stuck.c", &[]), "stuck-daemon");
    let same = probe("same", &program, "same(text: str)");
    let probes = format!("{same}action = \"events\"\n");
    let daemon = Daemon::start(&probes, "");
    let mut stuck = Target::start(&program, &[]);
    let mut tell = |line: &str, answer: &str| {
        stuck.send(line);
        assert_eq!(stuck.line(), answer);
    };
    tell("hang", "hanging");
    daemon.wait_metric("faultline_tasks_stuck_total", &[], 1.0);
    assert_eq!(daemon.metric("faultline_tasks_in_fault", &[]), 1.0);
    daemon.running.stderr.wait_for(1, |line| line.contains("(sleeper)"));
    tell("calls 1000", "called");
    daemon.wait_metric("faultline_probe_events_total", &["name=\"same\""], 1000.0);
    // A release has to wait for the task, but nothing waits for the release.
    let other = format!("{}:other", program.display());
    for name in ["one", "two"] {
        daemon.ctl(&["attach", name, &other]).succeeded();
        daemon.ctl(&["detach", name]).succeeded();
    }
    assert!(number(&daemon.ask(&["status"]), "releasing") > 0);
    daemon.running.signal(libc::SIGTERM);
    let finished = daemon.running.finish().succeeded();
    assert!(finished.stderr.contains("did not release all probes"), "{}", finished.stderr);
    tell("serve", "served");
    assert!(stuck.finish().0.success());
    fs::remove_dir_all(daemon.folder).unwrap();
}
