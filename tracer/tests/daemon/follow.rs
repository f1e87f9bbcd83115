//! `follow = true`: children of the probed processes are probed too, from their first instruction.

use crate::support::{
    Target,
    daemon::{Daemon, Setup, probe},
    live::{private_copy, wait_until},
    target,
};
use faultline_engine::kernel::Features;

/// Nothing but the fork itself may find a child.
const NO_SCANS: &str = "[targets]\nsettle = \"1h\"\nrescan_every = \"1h\"\n";
/// Calls of a child of `storm`, with its thread and its own child.
const CALLS: u64 = 6;

fn start(program: &std::path::Path) -> Target {
    Target::start(program, &[])
}

#[track_caller]
fn tell(target: &mut Target, line: &str) {
    target.send(line);
    assert_eq!(target.line(), "done", "{line}");
}

/// Check that each call in children of a process counts, whether the process was chosen by its name or by
/// its number, in the configuration or with `ctl attach`, and that nothing counts twice.
#[test]
fn children_are_followed() {
    let program = private_copy(&target("forks.c", &[]), "forks-daemon");
    let name = program.file_name().unwrap().to_str().unwrap();
    let mut forks = start(&program);
    let mut other = start(&program);
    let pid = forks.pid();
    let by_name =
        format!("{}process = \"{name}\"\nfollow = true\n", probe("named", &program, "tick"));
    let by_pid = format!("{}pids = [{pid}]\nfollow = true\n", probe("numbered", &program, "tick"));
    let alone = format!("{}pids = [{pid}]\n", probe("alone", &program, "tick"));
    let daemon = Daemon::start(&format!("{by_name}{by_pid}{alone}"), NO_SCANS);
    let tick = format!("{}:tick", program.display());
    daemon.ctl(&["attach", "later", &tick, "--follow", "--pid", &pid]).succeeded();
    tell(&mut forks, "step 3");
    tell(&mut forks, "storm 50");
    tell(&mut forks, "spawn 4");
    tell(&mut other, "storm 10");
    let (of_forks, of_other) = (3 + 50 * CALLS + 4, 10 * CALLS);
    for (name, hits) in
        [("named", of_forks + of_other), ("numbered", of_forks), ("later", of_forks), ("alone", 3)]
    {
        let label = format!("name=\"{name}\"");
        daemon.wait_metric("faultline_probe_hits_total", &[&label], hits as f64);
    }
    // By name: 50 and 10 children that each have a child, and one that is spawned; twice the same without the 10.
    // Not followed: 50, whose own children are forked by processes that are not probed.
    let children = |outcome: &str| {
        daemon.metric("faultline_children_total", &[&format!("outcome=\"{outcome}\"")])
    };
    assert_eq!((children("followed"), children("not_followed")), (323.0, 0.0));
    if Features::probe().unwrap().pid_filter {
        assert_eq!(children("inherited"), 50.0);
    }
    daemon.ctl(&["detach", "later"]).succeeded();
    daemon.wait_metric("faultline_children_total", &["outcome=\"followed\""], 323.0);
    assert!(forks.finish().0.success());
    assert!(other.finish().0.success());
    daemon.stop();
}

/// Bug: where links are not limited to a process, as with `follow` or before Linux 6.10, each process that was
/// found later had a link of its own, and every hit in any of them counted twice.
#[test]
fn processes_that_are_found_later_count_once() {
    for (assume, follow) in [("", true), ("no-pid-filter", false), ("no-pid-filter", true)] {
        let program = private_copy(&target("forks.c", &[]), &format!("later{assume}{follow}"));
        let name = program.file_name().unwrap().to_str().unwrap();
        let mut first = start(&program);
        let probe = probe("ticks", &program, "tick");
        let probe = format!("{probe}process = \"{name}\"\nfollow = {follow}\n");
        let scans = "[targets]\nsettle = \"50ms\"\nrescan_every = \"1s\"\n";
        let mut setup = Setup::new(&probe, scans);
        setup.command.command().env("FAULTLINE_ASSUME", assume);
        let daemon = setup.start();
        let mut later = start(&program);
        wait_until("the later process is found", || {
            daemon.listed("ticks")["processes"].as_array().is_some_and(|all| all.len() == 2)
        });
        tell(&mut first, "step 3");
        tell(&mut later, "step 4");
        let hits =
            |hits| daemon.wait_metric("faultline_probe_hits_total", &["name=\"ticks\""], hits);
        hits(7.0);
        // The link that serves both stays when the process that it was attached for ends.
        assert!(first.finish().0.success());
        wait_until("the process is gone", || {
            daemon.listed("ticks")["processes"].as_array().is_some_and(|all| all.len() == 1)
        });
        tell(&mut later, "step 5");
        hits(12.0);
        assert!(later.finish().0.success());
        daemon.stop();
    }
}

/// Check that a probe without a selection cannot follow: it covers every process.
#[test]
fn every_process_cannot_be_followed() {
    let program = target("forks.c", &[]);
    let daemon = Daemon::start("", NO_SCANS);
    let refused = daemon.ctl(&["attach", "all", &format!("{}:tick", program.display()), "-f"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("`follow`: every process is traced"), "{}", refused.stderr);
    daemon.stop();
}
