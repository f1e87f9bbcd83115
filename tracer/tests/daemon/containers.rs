//! One file shared by several containers: a call counts once, whichever container it is in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    Target, assert_conserved,
    daemon::{Daemon, own_folder, probe},
    faultline,
    live::{copy_program, wait_counting, wait_until},
    number, target,
};
use serde_json::Value;

/// Calls that each process makes.
const CALLS: u64 = 15;

/// A folder whose programs are started in it and in containers of it.
struct Image(PathBuf);

impl Image {
    /// With `bin/job`, which is the puppet, built with these flags: it runs without any library.
    fn new(flags: &[&str]) -> Self {
        let folder = own_folder();
        fs::create_dir_all(folder.join("low/bin")).unwrap();
        let flags: Vec<&str> = ["-static"].iter().chain(flags).copied().collect();
        copy_program(&target("puppet.c", &flags), &folder.join("low/bin/job"));
        Self(folder)
    }

    /// A process in its own container; the script runs in its merged folder first.
    fn container(&self, name: &str, first: &str) -> Target {
        let folder = self.0.display();
        for kind in ["up", "work", "merged"] {
            fs::create_dir_all(self.0.join(format!("{name}-{kind}"))).unwrap();
        }
        let script = format!(
            "cd {folder} && mount -t overlay overlay -o \
             lowerdir=low,upperdir={name}-up,workdir={name}-work {name}-merged && \
             cd {name}-merged && {first} && exec chroot . /bin/job"
        );
        Target::start(Path::new("/usr/bin/unshare"), &["--mount", "sh", "-c", &script])
    }

    /// A process that sees the file itself.
    fn on_host(&self) -> Target {
        Target::start(&self.0.join("low/bin/job"), &[])
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn step(targets: &mut [Target]) {
    for target in targets {
        target.send(&format!("step {CALLS}"));
        assert_eq!(target.line(), "stepped");
    }
}

/// Traces these processes in one run; returns the hits of each line.
#[track_caller]
fn counted_by_run(path: &str, targets: &mut [Target]) -> Vec<u64> {
    let mut run = faultline(["count", "--json", &format!("{path}:tick")]);
    for target in &*targets {
        run.command().args(["-p", &target.pid()]);
    }
    let run = run.start();
    wait_counting(run.pid());
    step(targets);
    run.signal(libc::SIGINT);
    let finished = run.finish().succeeded();
    let lines: Vec<Value> = finished.json();
    let counts = lines.iter().filter(|line| line["type"] == "count");
    let hits: Vec<u64> = counts.map(|line| number(line, "hits")).collect();
    let summary = lines.last().unwrap();
    // The probes of a count are its lines.
    let mut checked = summary.clone();
    checked["probes"] = checked["per_cpu"].clone();
    assert_conserved(&checked);
    assert_eq!(number(summary, "hits"), hits.iter().sum::<u64>(), "{summary}");
    hits
}

/// Traces them with the daemon, by their pids; returns the hits.
#[track_caller]
fn counted_by_daemon(path: &str, targets: &mut [Target]) -> u64 {
    let pids: Vec<_> = targets.iter().map(Target::pid).collect();
    let pids = format!("pids = [{}]\n", pids.join(", "));
    let daemon = Daemon::start(&format!("{}{pids}", probe("ticks", Path::new(path), "tick")), "");
    step(targets);
    counted(daemon, targets.len())
}

/// Traces every process that has the file, with the daemon; returns the hits.
#[track_caller]
fn counted_by_daemon_for_all(path: &str, targets: &mut [Target]) -> u64 {
    let daemon = Daemon::start(&probe("ticks", Path::new(path), "tick"), "");
    step(targets);
    counted(daemon, targets.len())
}

#[track_caller]
fn counted(daemon: Daemon, targets: usize) -> u64 {
    let hits = || daemon.metric("faultline_probe_hits_total", &["name=\"ticks\""]) as u64;
    wait_until("every call counts", || hits() >= targets as u64 * CALLS);
    let found = hits();
    assert_eq!(found, targets as u64 * CALLS);
    daemon.stop();
    found
}

fn end(targets: Vec<Target>) {
    for target in targets {
        assert!(target.finish().0.success());
    }
}

/// Bug: with two containers of one image each call counted twice, because their files differ by device.
#[test]
fn containers_of_one_image_count_once() {
    for containers in [2, 3] {
        let image = Image::new(&[]);
        let mut targets: Vec<_> =
            (0..containers).map(|n| image.container(&format!("c{n}"), "true")).collect();
        let calls = containers * CALLS;
        assert_eq!(counted_by_run("/bin/job", &mut targets), [calls]);
        assert_eq!(counted_by_daemon("/bin/job", &mut targets), calls);
        assert_eq!(counted_by_daemon_for_all("/bin/job", &mut targets), calls);
        end(targets);
    }
}

/// Check the same of two processes of one file without any container.
#[test]
fn processes_of_one_file_count_once() {
    let image = Image::new(&[]);
    let mut targets = vec![image.on_host(), image.on_host()];
    let path = image.0.join("low/bin/job");
    let path = path.to_str().unwrap();
    assert_eq!(counted_by_run(path, &mut targets), [2 * CALLS]);
    assert_eq!(counted_by_daemon(path, &mut targets), 2 * CALLS);
    assert_eq!(counted_by_daemon_for_all(path, &mut targets), 2 * CALLS);
    end(targets);
}

/// Check the same where a container has the host's file by a bind mount.
#[test]
fn a_bind_mounted_file_counts_once() {
    let image = Image::new(&[]);
    let folder = image.0.display();
    let bound = image.0.join("bound/bin");
    fs::create_dir_all(&bound).unwrap();
    let script =
        format!("mount --bind {folder}/low {folder}/bound && exec chroot {folder}/bound /bin/job");
    let inside = Target::start(Path::new("/usr/bin/unshare"), &["--mount", "sh", "-c", &script]);
    let mut targets = vec![inside, image.on_host()];
    // Each finds it under its own path: only the base name is the same.
    for target in &targets {
        assert!(fs::metadata(format!("/proc/{}/exe", target.pid())).is_ok());
    }
    let path = image.0.join("low/bin/job");
    assert_eq!(counted_by_daemon_for_all(path.to_str().unwrap(), &mut targets), 2 * CALLS);
    assert_eq!(counted_by_run("job", &mut targets), [2 * CALLS]);
    assert_eq!(counted_by_daemon("job", &mut targets), 2 * CALLS);
    end(targets);
}

/// Check that two builds of one program each count their own calls.
#[test]
fn two_builds_count_their_own() {
    let (one, other) = (Image::new(&[]), Image::new(&["-O2"]));
    let mut targets = vec![one.container("a", "true"), other.container("b", "true")];
    assert_eq!(counted_by_run("/bin/job", &mut targets), [CALLS, CALLS]);
    assert_eq!(counted_by_daemon("/bin/job", &mut targets), 2 * CALLS);
    assert_eq!(counted_by_daemon_for_all("/bin/job", &mut targets), 2 * CALLS);
    end(targets);
}

/// Bug: a container that has changed its file's owner or mode has a copy of it, of the same number, size,
/// time and content; it was taken for the image's, and not probed where all processes are.
#[test]
fn a_copied_up_file_is_probed_as_well() {
    let image = Image::new(&[]);
    let mut targets =
        vec![image.container("kept", "true"), image.container("copied", "chmod 711 bin/job")];
    assert_eq!(counted_by_run("/bin/job", &mut targets), [2 * CALLS]);
    assert_eq!(counted_by_daemon("/bin/job", &mut targets), 2 * CALLS);
    assert_eq!(counted_by_daemon_for_all("/bin/job", &mut targets), 2 * CALLS);
    end(targets);
}
