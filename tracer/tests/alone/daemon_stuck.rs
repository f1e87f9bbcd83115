//! A task that is stuck inside a probe of the daemon.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    alone,
    support::{
        Target,
        daemon::{Daemon, probe},
        live::{private_copy, wait_until},
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
    wait_until("it is being released", || number(&daemon.ask(&["status"]), "releasing") > 0);
    daemon.running.signal(libc::SIGTERM);
    let finished = daemon.running.finish().succeeded();
    assert!(finished.stderr.contains("did not release all probes"), "{}", finished.stderr);
    tell("serve", "served");
    assert!(stuck.finish().0.success());
    fs::remove_dir_all(daemon.folder).unwrap();
}

/// Far more than the daemon gives a release, and far less than its service manager gives it.
const STOP_TIMEOUT: &str = "[limits]\nstop_timeout = \"5s\"\n";
const SERVICE_PATIENCE: Duration = Duration::from_secs(20);

/// `stuck.c`, which does what it is told.
struct Stuck(Target);

impl Stuck {
    /// A process of its own file, so that no other test's daemon probes it.
    fn start(program: &Path) -> Self {
        Self(Target::start(program, &[]))
    }

    #[track_caller]
    fn tell(&mut self, line: &str, answer: &str) {
        self.0.send(line);
        assert_eq!(self.0.line(), answer);
    }
}

/// Ends the daemon with SIGTERM while a task is inside a handler of its.
#[track_caller]
fn ends_beside_a_stuck_task(daemon: Daemon) {
    let asked = Instant::now();
    daemon.running.signal(libc::SIGTERM);
    let socket = daemon.socket();
    let finished = daemon.running.finish().succeeded();
    let took = asked.elapsed();
    assert!(took < SERVICE_PATIENCE, "it ended after {took:?}: {}", finished.stderr);
    assert!(
        finished.stderr.contains("the kernel did not release all probes within"),
        "{finished:?}"
    );
    assert!(!socket.exists(), "the socket is gone with the daemon");
    fs::remove_dir_all(daemon.folder).unwrap();
}

/// Bug: where an action other than `events` reads memory for its condition, a task that hung in a page
/// fault was not reported, and SIGTERM did not end the daemon beside it.
#[test]
fn conditions_are_watched_as_events_are() {
    let _alone = alone();
    // Of a call whose return is traced, entry and return are a hit each, once its entry is through.
    for (action, hits) in [("count", 12.0), ("latency", 22.0), ("events", 12.0)] {
        let program = private_copy(&target("stuck.c", &[]), &format!("stuck-{action}"));
        let condition = "where = 'text == \"resident\"'";
        let probes = format!(
            "{}action = \"{action}\"\n{condition}\n",
            probe("same", &program, "same(text: str)")
        );
        let daemon = Daemon::start(&probes, STOP_TIMEOUT);
        let mut stuck = Stuck::start(&program);
        stuck.tell("hang", "hanging");
        daemon.wait_metric("faultline_tasks_in_fault", &[], 1.0);
        daemon.wait_metric("faultline_tasks_stuck_total", &[], 1.0);
        let whom = format!("process {} (sleeper), task ", stuck.0.pid());
        let told = daemon.running.stderr.wait_for(1, |line| line.contains(&whom));
        assert!(told[0].text.contains(" in /memfd:slow-storage for "), "{action}: {told:?}");
        assert!(told[0].text.ends_with("this process is read without faulting"), "{told:?}");
        // Nobody serves this page either.
        stuck.tell("cold", "passed");
        stuck.tell("calls 10", "called");
        daemon.wait_metric("faultline_probe_hits_total", &["name=\"same\""], hits);
        assert_eq!(daemon.metric("faultline_tasks_in_fault", &[]), 1.0, "{action}");
        ends_beside_a_stuck_task(daemon);
        assert!(stuck.0.child.try_wait().unwrap().is_none(), "the task was to hang all the time");
        stuck.tell("serve", "served");
        stuck.tell("calls 1", "called");
        assert!(stuck.0.finish().0.success());
    }
}

/// Bug: a task that hung in a handler of a probe which was being released kept the daemon from ending, if
/// another probe was still attached: its link was closed by the daemon itself.
#[test]
fn a_stuck_release_holds_up_no_stop() {
    let _alone = alone();
    let program = private_copy(&target("stuck.c", &[]), "stuck-released");
    let one = |name: &str| {
        let function = format!("{name}(text: str)");
        format!("{}action = \"events\"\n", probe(name, &program, &function))
    };
    // Sets of their own: what they have done differs.
    let other = format!("{}action = \"count\"\n", probe("counted", &program, "other"));
    let daemon = Daemon::start(&format!("{}{other}", one("same")), STOP_TIMEOUT);
    let mut stuck = Stuck::start(&program);
    stuck.tell("hang", "hanging");
    daemon.wait_metric("faultline_tasks_in_fault", &[], 1.0);
    daemon.ctl(&["detach", "same"]).succeeded();
    wait_until("it is being released", || number(&daemon.ask(&["status"]), "releasing") == 1);
    stuck.tell("calls 10", "called");
    daemon.wait_metric("faultline_probe_hits_total", &["name=\"counted\""], 10.0);
    // One more release beside it.
    daemon.ctl(&["attach", "more", &format!("{}:other", program.display())]).succeeded();
    daemon.ctl(&["detach", "more"]).succeeded();
    ends_beside_a_stuck_task(daemon);
    assert!(stuck.0.child.try_wait().unwrap().is_none(), "the task was to hang all the time");
    stuck.tell("serve", "served");
    assert!(stuck.0.finish().0.success());
}
