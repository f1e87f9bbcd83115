//! Breakpoints are there during a run and gone after it, even ten thousand of them.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    TICK,
    privileges::Reachable,
    support::{
        Target, faultline, kernel_batches,
        live::{Puppet, Traced, private_copy, probes_of, summary_of, wait_counting, wait_until},
        number, target,
    },
};

/// The code of `tick` as it is in a process's memory.
fn code_of(puppet: &Puppet, address: u64) -> [u8; 16] {
    use std::os::unix::fs::FileExt as _;
    let memory = File::open(format!("/proc/{}/mem", puppet.pid())).unwrap();
    let mut code = [0; 16];
    memory.read_exact_at(&mut code, address).unwrap();
    code
}

fn address_of_tick(puppet: &mut Puppet) -> u64 {
    u64::from_str_radix(puppet.tell("where").trim_start_matches("0x"), 16).unwrap()
}

/// Check that a breakpoint is there during a run, gone after it, and and also gone after faultline was
/// killed; that other processes have none; and that the target keeps running through all of it.
#[test]
fn breakpoints_go() {
    let program = private_copy(&Puppet::program(), "breakpoints_go");
    let tick = probes_of(&program, &[TICK]).remove(0);
    let mut puppet = Puppet::start_program(&program);
    let mut other = Puppet::start_program(&program);
    let (address, of_other) = (address_of_tick(&mut puppet), address_of_tick(&mut other));
    let before = code_of(&puppet, address);
    // Multi links before 6.10 cannot be limited to a process, only to a thread.
    let features = faultline_engine::kernel::Features::probe().unwrap();
    let limits_to_processes = features.pid_filter || !features.batches();
    puppet.go(2);
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let running = faultline(["trace", "--json", "-p", &puppet.pid(), &tick]).start();
        wait_counting(running.pid());
        assert_ne!(code_of(&puppet, address), before, "a breakpoint is set");
        if limits_to_processes {
            assert_eq!(code_of(&other, of_other), before, "but in no other process");
        }
        puppet.wait_called(500);
        running.signal(signal);
        let finished = running.finish();
        if signal == libc::SIGINT {
            assert_eq!(code_of(&puppet, address), before, "gone when the run has ended");
            finished.succeeded().summary();
        } else {
            assert_eq!(finished.status.signal(), Some(libc::SIGKILL));
            wait_until("the breakpoint is gone", || code_of(&puppet, address) == before);
        }
        puppet.wait_called(500);
    }
    puppet.ends_well();
    other.ends_well();
}

/// Check that `--dry-run` shows what would be attached and attaches nothing: it does not even need the
/// privileges for it.
#[test]
fn dry_run() {
    let program = Reachable::new("dry_run");
    let probe = format!("{}:{TICK} -> u64", program.puppet.display());
    let text = program.unprivileged(&[]).args(["trace", "--dry-run", &probe]).output().unwrap();
    let shown = String::from_utf8(text.stdout).unwrap();
    assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
    assert!(shown.contains("puppet:tick(value) and its return"), "{shown}");
    assert!(shown.contains("would attach 1 probe in every process with 2 links"), "{shown}");

    let args = ["trace", "--dry-run", "--json", &probe];
    let json = program.unprivileged(&[]).args(args).output().unwrap();
    let json = String::from_utf8(json.stdout).unwrap();
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [line, total] = &lines[..] else { panic!("{json}") };
    assert_eq!(line["type"], "planned");
    assert_eq!(total["type"], "plan");
    let of_total = |name| number(total, name);
    assert_eq!((of_total("probes"), of_total("links"), of_total("skipped")), (1, 2, 0));
    assert_eq!((&line["probe"], &line["ret"]), (&"puppet:tick".into(), &true.into()));
}

/// Check that ten thousand probes attach, trace and detach in one run, with a link for all of
/// them, and each counts its own.
#[test]
fn ten_thousand_probes() {
    let program = target("functions.c", &["-O0"]);
    let (functions, count, links) =
        if kernel_batches() { ("fn_*", 10_000, 1) } else { ("fn_000?", 10, 10) };
    let mut traced = Traced::start(&program, &["3", "wait"], &probes_of(&program, &[functions]));
    traced.go();
    let finished = traced.finish().well();
    let summary = summary_of(&finished.stdout);
    assert_eq!(number(&summary, "hits"), count * 3);
    assert_eq!(number(&summary["attach"], "probes"), count);
    assert_eq!(number(&summary["attach"], "links"), links);
    let probes = summary["probes"].as_array().unwrap();
    assert_eq!(probes.len() as u64, count);
    assert!(probes.iter().all(|probe| number(probe, "hits") == 3));
}

/// The code that a process of a program runs, as it is in memory.
fn text_of(pid: &str, program: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let name = program.to_str().unwrap();
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with(name)).unwrap();
    let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
    let mut text = vec![0; (to - from) as usize];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut text, from).unwrap();
    text
}

/// Check that Ctrl-C while ten thousand probes are being attached, at whatever moment, ends the run with
/// its summary and leaves none of them.
#[test]
fn interrupted_while_attaching() {
    let program = target("functions.c", &["-O0"]);
    let functions = if kernel_batches() { "fn_*" } else { "fn_000?" };
    let target = Target::start(&program, &["1", "wait"]);
    let before = text_of(&target.pid(), &program);
    let mut attaching = 0;
    // Until some have come after its attaching.
    let mut delays_ms = (0..).step_by(20);
    while attaching < 5 {
        let delay_ms = delays_ms.next().unwrap();
        let mut run = faultline(["trace", "--json", "-p", &target.pid()]);
        run.command().args(probes_of(&program, &[functions]));
        let run = run.start();
        thread::sleep(Duration::from_millis(delay_ms));
        run.signal(libc::SIGINT);
        let finished = run.finish();
        if finished.status.signal() == Some(libc::SIGINT) {
            // Interrupted before it began to attach: there is no summary.
            assert_eq!(finished.stdout, "");
        } else {
            let summary = finished.succeeded().summary();
            assert_eq!(summary["stopped_by"], "SIGINT", "{summary}");
            assert_eq!(number(&summary, "hits"), 0);
            attaching += 1;
        }
        assert!(text_of(&target.pid(), &program) == before, "a breakpoint is left");
    }
    // After an interrupted attach, the same probes can be attached again.
    let mut traced = Traced::attach(target, &probes_of(&program, &[functions]));
    traced.go();
    assert!(number(&summary_of(&traced.finish().well().stdout), "hits") > 0);
}
