//! Processes that run other code than the file says, under the daemon.

use crate::support::{
    Target,
    daemon::{Daemon, probe},
    live::private_copy,
    target,
};

/// Check that the daemon attaches no breakpoint to a function that a process has overwritten, whether it is
/// for that process or for all, and says so; the process computes what it would have.
#[test]
fn overwritten_functions_are_left_alone() {
    let program = private_copy(&target("changes.c", &[]), "overwritten");
    let mut target = Target::start(&program, &[]);
    target.send("patch");
    assert_eq!(target.line(), "done 0");
    let of_process =
        |name, function| format!("{}pids = [{}]\n", probe(name, &program, function), target.pid());
    let probes = [
        of_process("hooked", "hooked"),
        of_process("plain", "plain"),
        probe("hooked-anywhere", &program, "hooked"),
        probe("moved-anywhere", &program, "moved"),
    ];
    let daemon = Daemon::start(&probes.concat(), "");
    let said = format!(
        "hooked` is not probed: its code was changed in memory (a hook, or a program that patches \
         itself), and a breakpoint would run it as it is in the file: process {}",
        target.pid()
    );
    daemon.running.stderr.wait_for(1, |line| line.contains(&said));
    target.send("go 10");
    assert_eq!(target.line(), format!("done {}", 6 * 45 + 10 * 1017));
    for (name, hits) in [("plain", 10.0), ("moved-anywhere", 10.0)] {
        let label = format!("name=\"{name}\"");
        daemon.wait_metric("faultline_probe_hits_total", &[&label], hits);
    }
    assert!(target.finish().0.success());
    daemon.stop();
}
