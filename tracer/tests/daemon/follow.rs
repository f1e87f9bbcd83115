//! `follow = true`: children of the probed processes are probed too, from their first instruction.

use crate::support::{
    Target,
    daemon::{Daemon, probe},
    live::private_copy,
    target,
};

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
    assert!(forks.finish().0.success());
    assert!(other.finish().0.success());
    daemon.stop();
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
