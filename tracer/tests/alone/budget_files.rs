//! The overhead budget where the engine lacks open files for the links that a change needs: nothing is
//! reported that did not happen, no hit is lost, and it is tried again.

use std::{
    fs,
    os::unix::{net::UnixStream, process::CommandExt as _},
    thread,
    time::Duration,
};

use crate::{
    alone,
    budget::{call, calls, load_program, own_load_program, summary},
    support::{
        Target,
        daemon::{Daemon, probe},
        faultline, kernel_batches,
        live::{probes_of, wait_until},
        number,
    },
};

/// Limits a process's open files to this many more than it has; nobody can raise that again.
fn limit_files(pid: i32, more: u64) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let limit = libc::rlimit { rlim_cur: open + more, rlim_max: open + more };
    // SAFETY: the process is our child, and the limit lives through the call.
    let done =
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

/// Clients of a daemon that say nothing: as long as they are there, the engine lacks files for a link.
fn crowd(daemon: &Daemon) -> Vec<UnixStream> {
    let before = daemon.descriptors();
    let crowd: Vec<_> = (0..30).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    wait_until("all are served", || daemon.descriptors() >= before + crowd.len());
    crowd
}

/// Has a run keep to the limit of open files that it is given: root may raise its own.
fn forbid_raising(command: &mut std::process::Command) {
    /// `CAP_SYS_RESOURCE` of linux/capability.h.
    const SYS_RESOURCE: libc::c_int = 24;
    let forbid = || {
        // SAFETY: the call takes no pointer.
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, SYS_RESOURCE, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only prctl is called.
    unsafe { command.pre_exec(forbid) };
}

/// Fewer than the engine keeps free, and enough for whoever connects.
const TOO_FEW_FILES: u64 = 40;
/// Enough, if there is no [`crowd`].
const JUST_ENOUGH_FILES: u64 = 64 + 20;

/// Bug: a detach that failed was settled as done: reported, although the probe was still attached, and not
/// tried again.
#[test]
fn the_daemon_tries_a_failed_detach_again() {
    let _alone = alone();
    if !kernel_batches() {
        return;
    }
    for action in ["count", "latency"] {
        let program = own_load_program(&format!("failing_{action}"));
        // What stays of their link needs a new one.
        let probes =
            format!("{}action = \"{action}\"\n", probe("loads", &program, "/^(hot|warm)$/"));
        let daemon = Daemon::start(&probes, "[overhead]\nmax = \"1%\"\n");
        limit_files(daemon.pid(), JUST_ENOUGH_FILES);
        let crowd = crowd(&daemon);
        let mut target = Target::start(&program, &["2", "push"]);
        target.send("go");
        let failed = |line: &str| {
            line.contains("failed to keep the overhead budget: ") && line.contains("open files")
        };
        daemon.running.stderr.wait_for(1, failed);
        daemon.wait_metric("faultline_overhead_detached_functions", &[], 0.0);
        assert_eq!(daemon.listed("loads")["detached"], 0, "{action}");
        thread::sleep(Duration::from_secs(3));
        let called = calls(&mut target, "stop");
        let hits_a_call = if action == "latency" { 2 } else { 1 };
        let warm = format!("probe=\"{}:warm\"", program.file_name().unwrap().to_str().unwrap());
        let hits = (called * hits_a_call) as f64;
        daemon.wait_metric("faultline_probe_hits_total", &[&warm], hits);
        let is_detached = |line: &str| line.contains(": detached `");
        assert!(daemon.running.stderr.lines().iter().all(|line| !is_detached(&line.text)));
        assert_eq!(daemon.metric("faultline_overhead_detached_total", &[]), 0.0, "{action}");
        assert_eq!(daemon.ask(&["status"])["overhead"]["away"], 0, "{action}");

        // It goes once it can. What it has taken until then is paid for first, which takes minutes.
        drop(crowd);
        target.send("go");
        daemon.wait_metric("faultline_overhead_detached_functions", &[], 1.0);
        daemon.running.stderr.wait_for(1, is_detached);
        calls(&mut target, "stop");
        daemon.wait_released();
        assert!(target.finish().0.success());
        daemon.stop();
    }
}

/// Bug: the same in a run.
#[test]
fn a_run_reports_no_detach_that_failed() {
    let _alone = alone();
    if !kernel_batches() {
        return;
    }
    for (action, hits_a_call) in [("count", 1), ("latency", 2)] {
        let program = load_program();
        let mut target = Target::start(&program, &["2", "push"]);
        let pid = target.pid();
        let mut run = faultline([action, "--json", "--max-overhead", "1%", "-p", &pid]);
        run.command().args(probes_of(&program, &["/^(hot|warm)$/"]));
        forbid_raising(run.command());
        let run = run.stream_attached();
        limit_files(run.pid(), TOO_FEW_FILES);
        target.send("go");
        run.stderr.wait_for(1, |line| {
            line.starts_with("warning: failed to keep the overhead budget: ")
                && line.contains("open files")
        });
        thread::sleep(Duration::from_secs(3));
        let called = calls(&mut target, "stop");
        let lines = run.stderr.lines();
        assert!(lines.iter().all(|line| !line.text.contains(": detached `")), "{lines:?}");
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        let summary = summary(&finished);
        assert_eq!(number(&summary, "hits"), called * hits_a_call, "{action}: {summary}");
        let overhead = &summary["overhead"];
        assert!(number(overhead, "exceeded") > 1, "it is tried again: {overhead}");
        assert_eq!(number(overhead, "detached"), 0, "{overhead}");
        assert_eq!(number(overhead, "away"), 0, "{overhead}");
        assert!(target.finish().0.success());
    }
}

/// Bug: where what a budget had detached could not be attached again when the budget was switched off, it
/// stayed detached for ever.
#[test]
fn a_budget_that_ends_gives_everything_back() {
    let _alone = alone();
    if !kernel_batches() {
        return;
    }
    let program = own_load_program("given_back");
    let probes = probe("loads", &program, "/^(hot|warm)$/");
    let daemon = Daemon::start(&probes, "[overhead]\nmax = \"1%\"\n");
    let mut target = Target::start(&program, &["2", "push"]);
    target.send("go");
    daemon.wait_metric("faultline_overhead_detached_functions", &[], 1.0);
    daemon.wait_released();
    limit_files(daemon.pid(), JUST_ENOUGH_FILES);
    let crowd = crowd(&daemon);
    daemon.configure(&probes, "[overhead]\nmax = \"off\"\n");
    daemon.ask(&["reload"]);
    daemon.running.stderr.wait_for(1, |line| line.contains("open files"));
    calls(&mut target, "stop");
    drop(crowd);
    let hits = || daemon.metric("faultline_probe_hits_total", &["name=\"loads\""]);
    wait_until("it is attached again", || {
        let before = hits();
        call(&mut target, 1000);
        hits() >= before + 1000.0
    });
    let before = hits();
    call(&mut target, 1000);
    daemon.wait_metric("faultline_probe_hits_total", &["name=\"loads\""], before + 1000.0);
    assert!(target.finish().0.success());
    daemon.stop();
}
