//! Runs from beginning to end: every hit accounted for, exactly, and a clean end whatever ends it.
//!
//! Contents: the law of conservation; what ends a run; the command of `-c`; processes; outputs;
//! probes that cannot be; breakpoints; privileges; ten thousand probes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what a test cannot do is a failed test"
)]

mod support;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{
    Finished, Target, assert_conserved, faultline, is_emulated, kernel_batches,
    live::{Bare, Puppet, Traced, probe, probes_of, summary_of, wait_counting, wait_until},
    number, target,
};

const TICK: &str = "tick(value: u64)";

fn tick() -> String {
    probes_of(&Puppet::program(), &[TICK]).remove(0)
}

/// A file of a test's own.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The command `faultline trace …`.
fn trace_command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faultline"));
    command.arg("trace").args(args).stdin(Stdio::null()).env_remove("FAULTLINE_LOG");
    command
}

/// A run that traces `tick` of a puppet with `--json`, and the puppet.
struct Ticking {
    puppet: Puppet,
    running: support::Running,
}

impl Ticking {
    fn start(options: &[&str]) -> Self {
        let puppet = Puppet::start();
        let (pid, tick) = (puppet.pid(), tick());
        let args = ["trace", "--json", "-p", &pid, &tick];
        let running = faultline(args.iter().chain(options)).start();
        wait_counting(running.pid());
        Self { puppet, running }
    }
}

/// The last line of what a run said: its summary, when it could not be written where it belongs.
#[track_caller]
fn summary_on_stderr(stderr: &str) -> Value {
    let line = stderr.lines().find(|line| line.starts_with(r#"{"type":"summary""#));
    let line = line.unwrap_or_else(|| panic!("no summary: {stderr}"));
    let summary = serde_json::from_str(line).unwrap();
    assert_conserved(&summary);
    summary
}

/// The argument of every event, by task, in the order of the output.
fn values_by_task(output: &str) -> HashMap<u64, Vec<u64>> {
    let mut tasks: HashMap<u64, Vec<u64>> = HashMap::new();
    for line in output.lines().filter(|line| line.starts_with(r#"{"type":"event""#)) {
        let number = |name: &str| -> u64 {
            let start = line.find(name).unwrap() + name.len();
            let digits = line[start..].bytes().take_while(u8::is_ascii_digit).count();
            line[start..start + digits].parse().unwrap()
        };
        tasks.entry(number(r#""tid":"#)).or_default().push(number(r#""value":"#));
    }
    tasks
}

// ---- the law of conservation ----

/// Check that a million calls from four threads arrive, every single one and in the order of its
/// thread, where the buffer is large enough for them.
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

/// Check that what does not fit into the buffer is counted, to the last hit, and the rest arrives.
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
    // Nobody has read yet.
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

/// Check that `--max-events` writes just so many events, and counts what came after.
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

// ---- what ends a run ----

/// Check that Ctrl-C, SIGTERM and SIGHUP are the normal end of a run, in the middle of the
/// target's calls, and that the target goes on.
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

/// Check that a run ends with the process that it traces, and without it there is nothing to end.
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

/// Check that a process has ended when it is dead, although its parent does not ask for its status.
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

// ---- the command of -c ----

fn trace_of_command(command: &str) -> Finished {
    faultline(["trace", "--json", &tick(), "-c", command]).run()
}

/// Check that a command is traced from its first instruction to its last, and that what it prints
/// does not mix with the events.
#[test]
fn command_from_first_to_last() {
    let program = target("returns.c", &[]);
    let command = format!("{} plain 500", program.display());
    let probes = probes_of(&program, &["main(argc: i32)", "plain(v: u64) -> u64"]);
    let args = ["trace", "--json", "-c", &command].map(str::to_owned);
    let finished = faultline(args.into_iter().chain(probes)).run().succeeded();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 1001);
    assert_eq!(number(&summary, "delivered"), 1001);
    assert_eq!(finished.events()[0]["args"]["argc"], 3);
    assert_eq!(finished.stderr, "ready\ndone\n");
    assert_eq!(summary["command"]["exit_code"], 0);
    assert_eq!(summary["stopped_by"], "the command ended");
}

/// Check that the summary tells how the command ended, and that its status is not faultline's.
#[test]
fn command_status() {
    let exited = trace_of_command("sh -c 'exit 3'").succeeded();
    assert_eq!(exited.summary()["command"]["exit_code"], 3);
    let killed = trace_of_command("sh -c 'kill -9 $$'").succeeded();
    assert_eq!(killed.summary()["command"]["signal"], 9);
    // To people as well.
    let text = faultline(["trace", &tick(), "-c", "sh -c 'exit 3'"]).run().succeeded();
    assert!(text.stderr.contains("status 3"), "{}", text.stderr);
}

/// Check that a command that cannot be started is an error in one line, and one that is none is
/// wrong usage.
#[test]
fn command_that_cannot_be() {
    let no_program = scratch("no_program");
    fs::write(&no_program, "").unwrap();
    let not_executable = format!("error: failed to start `{0}`: Permission", no_program.display());
    for (command, code, said) in [
        ("/no/such/command", 1, "error: failed to start `/no/such/command`: No such file"),
        (no_program.to_str().unwrap(), 1, &*not_executable),
        ("", 2, "error: `-c` needs a command"),
        ("echo 'oops", 2, "a quote in `-c echo 'oops` is not closed"),
    ] {
        let finished = trace_of_command(command);
        assert_eq!(finished.status.code(), Some(code), "{command}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{command}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        assert_eq!(finished.stdout, "");
    }
}

/// Check that a command that outlives the run is ended with it, and that what it was doing is
/// unfinished.
#[test]
fn command_outlives_the_run() {
    let program = target("returns.c", &[]);
    let command = format!("{} nap 1000000", program.display());
    let probe = probes_of(&program, &["nap(ms: u64) -> u64"]).remove(0);
    let finished =
        faultline(["trace", "--json", &probe, "-c", &command, "--duration", "300ms"]).run();
    let summary = finished.succeeded().summary();
    assert_eq!(summary["command"]["signal"], libc::SIGTERM);
    let returns = &summary["returns"];
    assert_eq!((number(returns, "opened"), number(returns, "unfinished")), (1, 1), "{summary}");
    assert_eq!(number(returns, "lost"), 0, "{summary}");
}

/// Check that a command that starts a new program just after the run's end does not begin it anew:
/// nothing counts after it.
#[test]
fn command_execs_after_the_end() {
    let program = target("returns.c", &[]);
    let command = format!("{} again", program.display());
    let probe = probes_of(&program, &["plain -> u64"]).remove(0);
    // Long enough for it to start a few times.
    let duration = if is_emulated() { "3s" } else { "300ms" };
    let finished =
        faultline(["trace", "--json", &probe, "-c", &command, "--duration", duration]).run();
    let finished = finished.succeeded();
    let summary = finished.summary();
    assert!(number(&summary, "hits") > 2, "{summary}");
    let events = finished.events();
    let seconds_of = |event: &Value| {
        let time = event["time"].as_str().unwrap();
        let seconds: f64 = time[17..29].parse().unwrap();
        let minutes: f64 = time[14..16].parse().unwrap();
        minutes * 60.0 + seconds
    };
    let span = (seconds_of(&events[events.len() - 1]) - seconds_of(&events[0])).rem_euclid(3600.0);
    let ran = summary["duration_ms"].as_f64().unwrap() / 1e3;
    assert!(span <= ran, "events span {span} s of a run of {ran} s");
}

/// Check that a command inherits nothing of ours but the three standard streams.
#[test]
fn command_inherits_no_descriptors() {
    let listed = trace_of_command("ls -l /proc/self/fd").succeeded();
    let files = |listing: &str| -> Vec<String> {
        let lines = listing.lines().filter_map(|line| line.split_once(" -> "));
        lines.map(|(left, _)| left.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    // What the test itself has inherited, it hands on.
    let ours = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let ours = String::from_utf8(ours.stdout).unwrap();
    assert_eq!(files(&listed.stderr), files(&ours), "{} and {ours}", listed.stderr);
}

// ---- processes ----

/// Check that `-p` traces its process with all its threads, and neither its children nor anybody
/// else who runs the same program.
#[test]
fn only_the_process_and_its_threads() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    let mut other = Puppet::start();
    puppet.step(10);
    other.step(1000);
    assert_eq!(puppet.tell("thread 20"), "stepped");
    assert_eq!(puppet.tell("fork 3000"), "stepped");
    assert_eq!(other.tell("thread 4000"), "stepped");
    puppet.step(5);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!(number(&finished.summary(), "hits"), 35);
    let pid: u64 = puppet.pid().parse().unwrap();
    assert!(finished.events().iter().all(|event| event["pid"] == pid));
    assert_eq!(values_by_task(&finished.stdout).len(), 2);
    puppet.ends_well();
    other.ends_well();
}

/// Check that several processes are traced together, until the last one ends.
#[test]
fn two_processes() {
    let (mut one, mut two) = (Puppet::start(), Puppet::start());
    let mut other = Puppet::start();
    let (first, second) = (one.pid(), two.pid());
    let running = faultline(["trace", "--json", "-p", &first, "-p", &second, &tick()]).start();
    wait_counting(running.pid());
    one.step(5);
    two.step(7);
    other.step(100);
    one.ends_well();
    // The watch looks every 100 ms: if one process ended the run, this would not be seen.
    std::thread::sleep(Duration::from_millis(500));
    two.step(2);
    two.ends_well();
    let finished = running.finish().succeeded();
    // 10 more of each at its end.
    assert_eq!(number(&finished.summary(), "hits"), 15 + 19);
    let of = |pid: &str| {
        let pid: u64 = pid.parse().unwrap();
        finished.events().iter().filter(|event| event["pid"] == pid).count()
    };
    assert_eq!((of(&first), of(&second)), (15, 19));
    other.ends_well();
}

/// Check that a process that starts its program anew is traced on.
#[test]
fn target_execs() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    puppet.step(4);
    assert_eq!(puppet.tell("exec"), "ready");
    puppet.step(6);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!(number(&finished.summary(), "hits"), 10);
    puppet.ends_well();
}

/// Check that a process that is none is said to be none, and a thread is not taken for a process.
#[test]
fn processes_that_cannot_be() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let gone = gone.id().to_string();
    let mut puppet = Puppet::start();
    puppet.go(1);
    let pid = puppet.pid();
    let thread = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| task.unwrap().file_name().into_string().unwrap())
        .find(|task| *task != pid)
        .unwrap();
    let of_thread = format!("{thread} is a thread of process {pid} (use `-p {pid}`)");
    for (given, code, said) in [
        (&*gone, 1, &*format!("no process {gone}")),
        (&*thread, 2, &*of_thread),
        ("0", 2, "'0' for '--pid <PID>'"),
        ("-1", 2, "-1"),
        ("4294967296", 2, "'4294967296' for '--pid <PID>'"),
        ("cat", 2, "'cat' for '--pid <PID>'"),
    ] {
        let finished = faultline(["trace", "--json", "-p", given, &tick()]).run();
        assert_eq!(finished.status.code(), Some(code), "-p {given}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "-p {given}: {}", finished.stderr);
    }
    puppet.ends_well();
}

// ---- outputs ----

/// Check that an output that is closed (`| head -1`) ends the run, without an error, and that the
/// summary is told nevertheless.
#[test]
fn closed_pipe() {
    for json in [false, true] {
        let mut puppet = Puppet::start();
        let (reader, stdout) = io::pipe().unwrap();
        let (pid, tick) = (puppet.pid(), tick());
        let mut command = trace_command(["-p", &pid, &tick]);
        if json {
            command.arg("--json");
        }
        let run = Bare::start(&mut command, stdout);
        drop(command);
        wait_counting(run.pid());
        puppet.go(2);
        let mut head = String::new();
        let mut reader = BufReader::new(reader);
        reader.read_line(&mut head).unwrap();
        assert!(head.contains("puppet:tick"), "{head}");
        drop(reader);
        let (status, stderr) = run.finish();
        assert_eq!(status.code(), Some(0), "{stderr}");
        if json {
            let summary = summary_on_stderr(&stderr);
            assert_eq!(summary["stopped_by"], "the output was closed");
            assert!(number(&summary["dropped"], "output") > 0, "{summary}");
        } else {
            assert!(stderr.contains("(the output was closed)"), "{stderr}");
            assert!(stderr.contains("delivered"), "{stderr}");
        }
        puppet.ends_well();
    }
}

/// Check that a full disk ends the run with an error that says so, and a summary that counts what
/// could not be written.
#[test]
fn full_disk() {
    let mut puppet = Puppet::start();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (pid, tick) = (puppet.pid(), tick());
    let run = Bare::start(&mut trace_command(["--json", "-p", &pid, &tick]), full);
    wait_counting(run.pid());
    puppet.step(1000);
    let (status, stderr) = run.finish();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let error = "error: failed to write events: No space left on device";
    assert!(stderr.lines().any(|line| line.starts_with(error)), "{stderr}");
    let summary = summary_on_stderr(&stderr);
    assert_eq!(number(&summary, "delivered"), 0);
    assert!(number(&summary, "hits") > 0, "{summary}");
    assert_eq!(number(&summary["dropped"], "output"), number(&summary, "hits"), "{summary}");
    puppet.ends_well();
}

/// Check that a reader that does not read keeps nobody from ending the run, and that what it did
/// not take is counted.
#[test]
fn stalled_reader() {
    let mut puppet = Puppet::start();
    let (mut reader, stdout) = io::pipe().unwrap();
    let (pid, tick) = (puppet.pid(), tick());
    let run = Bare::start(&mut trace_command(["--json", "-p", &pid, &tick]), stdout);
    wait_counting(run.pid());
    // The pipe takes 64 KiB, some hundred events.
    puppet.go(2);
    puppet.wait_called(5000);
    run.signal(libc::SIGINT);
    let signalled = Instant::now();
    let (status, stderr) = run.finish();
    assert!(signalled.elapsed() < Duration::from_secs(20), "{:?}", signalled.elapsed());
    assert_eq!(status.code(), Some(0), "{stderr}");
    let mut taken = String::new();
    reader.read_to_string(&mut taken).unwrap();
    // Behind the last event that found room, there may be some for the summary (seen on 7.2).
    let last = taken.lines().last().unwrap();
    let is_on_stdout = last.starts_with(r#"{"type":"summary""#);
    let summary = summary_on_stderr(if is_on_stdout { last } else { &stderr });
    assert!(number(&summary, "hits") >= 4998, "{summary}");
    assert!(number(&summary["dropped"], "output") > 0, "{summary}");
    assert_eq!(summary["stopped_by"], "SIGINT");
    // The last one may be cut.
    let whole = taken.split_inclusive('\n').filter(|line| line.ends_with('\n')).count();
    let events = whole - usize::from(is_on_stdout);
    assert_eq!(number(&summary, "delivered"), events as u64, "{summary}");
    puppet.ends_well();
}

/// Check that `-o` writes a file, events and summary, and standard output stays empty; and that
/// one that cannot be created is an error before anything is attached.
#[test]
fn output_file() {
    let file = scratch("output_file.json");
    fs::write(&file, "what was there before").unwrap();
    let Ticking { mut puppet, running } = Ticking::start(&["-o", file.to_str().unwrap()]);
    puppet.step(100);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!((&*finished.stdout, &*finished.stderr), ("", ""));
    let output = fs::read_to_string(&file).unwrap();
    assert_eq!(number(&summary_of(&output), "hits"), 100);
    fs::remove_file(&file).unwrap();
    puppet.ends_well();

    let refused = faultline(["trace", &tick(), "-o", "/no/such/folder/events"]).run();
    assert_eq!(refused.status.code(), Some(1));
    let said = "error: failed to create /no/such/folder/events: No such file or directory";
    assert!(refused.stderr.starts_with(said), "{}", refused.stderr);
}

/// Check that a file that is removed while it is written costs nothing but the file: the summary
/// is told elsewhere.
#[test]
fn output_file_removed() {
    let file = scratch("output_file_removed.json");
    let Ticking { mut puppet, running } = Ticking::start(&["-o", file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    puppet.step(100);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!(number(&summary_on_stderr(&finished.stderr), "hits"), 100);
    assert!(!file.exists(), "a file that was removed is not created again");
    puppet.ends_well();
}

/// Check that an event of a quiet probe is shown at once, while the run goes on.
#[test]
fn quiet_probe() {
    let mut puppet = Puppet::start();
    let (pid, tick) = (puppet.pid(), tick());
    for json in [true, false] {
        let (reader, stdout) = io::pipe().unwrap();
        let mut command = trace_command(["-p", &pid, &tick]);
        if json {
            command.arg("--json");
        }
        let mut run = Bare::start(&mut command, stdout);
        drop(command);
        wait_counting(run.pid());
        let mut reader = BufReader::new(reader);
        for _ in 0..3 {
            let mut line = String::new();
            let called = Instant::now();
            puppet.step(1);
            reader.read_line(&mut line).unwrap();
            assert!(called.elapsed() < Duration::from_secs(1), "{:?}", called.elapsed());
            assert!(line.contains("puppet:tick"), "{line}");
        }
        assert!(run.child.try_wait().unwrap().is_none(), "the run goes on");
        run.signal(libc::SIGINT);
        let (status, stderr) = run.finish();
        assert!(status.success(), "{stderr}");
    }
    puppet.ends_well();
}

/// Check that a run without a standard output is as one whose output nobody wants.
#[test]
fn stdout_closed() {
    let mut puppet = Puppet::start();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$0" trace -p "$1" "$2" >&-"#, env!("CARGO_BIN_EXE_faultline")]);
    shell.args([puppet.pid(), tick()]).stdin(Stdio::null());
    let run = Bare::start(&mut shell, Stdio::null());
    wait_counting(run.pid());
    puppet.step(10);
    run.signal(libc::SIGINT);
    let (status, stderr) = run.finish();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("10 hits, all delivered"), "{stderr}");
    puppet.ends_well();
}

/// Check that a terminal gets colours, unless `NO_COLOR` asks for none, and a pipe gets none.
#[test]
fn colours() {
    let traced_to_terminal = |no_colour: Option<&str>| {
        let (terminal, stdout) = pseudo_terminal();
        let mut puppet = Puppet::start();
        let (pid, tick) = (puppet.pid(), tick());
        let mut command = trace_command(["-p", &pid, &tick]);
        command.env_remove("NO_COLOR").env("TERM", "xterm");
        if let Some(value) = no_colour {
            command.env("NO_COLOR", value);
        }
        let run = Bare::start(&mut command, stdout);
        drop(command);
        wait_counting(run.pid());
        puppet.step(1);
        let mut line = String::new();
        let _ = BufReader::new(File::from(terminal)).read_line(&mut line);
        run.signal(libc::SIGINT);
        let (_, stderr) = run.finish();
        assert!(!stderr.contains('\x1b'), "standard error is no terminal: {stderr}");
        puppet.ends_well();
        line
    };
    let coloured = traced_to_terminal(None);
    assert!(coloured.contains("\x1b["), "{coloured:?}");
    let plain = traced_to_terminal(Some("1"));
    assert!(plain.contains("puppet:tick") && !plain.contains('\x1b'), "{plain:?}");
    // An empty one asks for nothing.
    assert!(traced_to_terminal(Some("")).contains("\x1b["));
}

/// A terminal: our end, and the one that a program has.
fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut its) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: both descriptors are valid for writes; name, settings and size may be null.
    let result =
        unsafe { libc::openpty(&raw mut ours, &raw mut its, null, null.cast(), null.cast()) };
    assert_eq!(result, 0);
    // SAFETY: openpty has just opened it for us alone.
    let ours = unsafe { OwnedFd::from_raw_fd(ours) };
    // SAFETY: as above.
    let its = unsafe { OwnedFd::from_raw_fd(its) };
    (ours, its)
}

// ---- probes that cannot be ----

/// Check that a mistake in a probe exits 2 and points at it.
#[test]
fn wrong_probe() {
    let finished = faultline(["trace", "libc:open(path: sting)"]).run();
    assert_eq!(finished.status.code(), Some(2));
    let lines: Vec<_> = finished.stderr.lines().collect();
    let at = lines.iter().position(|line| line.contains("libc:open(path: sting)")).unwrap();
    let column = lines[at].find("sting").unwrap();
    assert_eq!(lines[at + 1].find('^'), Some(column), "{}", finished.stderr);
    assert!(finished.stderr.starts_with("error: unknown type `sting`"), "{}", finished.stderr);
}

/// Check that a function that is not there is an error, with the name that was meant.
#[test]
fn unknown_function() {
    let probe = probes_of(&Puppet::program(), &["tikc"]).remove(0);
    let finished = faultline(["trace", &probe]).run();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.starts_with("error: no function `tikc` in"), "{}", finished.stderr);
    assert!(finished.stderr.contains("did you mean `tick`?"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

/// Check that what can be probed is, that the rest is told with its reason, and that `--strict`
/// makes a failure of that.
#[test]
fn some_good_some_not() {
    let mut puppet = Puppet::start();
    let pid = puppet.pid();
    let mut probes = probes_of(&Puppet::program(), &[TICK, "tikc", "tick+1"]);
    let mut args = ["trace", "--json", "-p", &pid].map(str::to_owned).to_vec();
    args.append(&mut probes);
    let strict = faultline(args.iter().map(String::as_str).chain(["--strict"])).run();
    assert_eq!(strict.status.code(), Some(1), "{}", strict.stderr);
    assert_eq!(strict.stdout, "");
    assert!(strict.stderr.contains("2 probes cannot be attached (--strict)"), "{}", strict.stderr);

    let running = faultline(&args).start();
    wait_counting(running.pid());
    puppet.step(10);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 10);
    assert_eq!(number(&summary["attach"], "probes"), 1);
    assert_eq!(number(&summary["attach"], "skipped"), 2);
    let skipped = summary["skipped"].to_string();
    for said in ["no function `tikc`", "no instruction begins at this offset"] {
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
        assert!(skipped.contains(said), "{skipped}");
    }
    puppet.ends_well();
}

/// Check that a probe inside an instruction is refused before it can do harm, and one at the next
/// instruction is not.
#[test]
fn offset_inside_an_instruction() {
    let program = target("calls.c", &[]);
    // A nop of five bytes, then `ret`.
    for offset in 1..=4 {
        let probe = probes_of(&program, &[&format!("nop5_u64+{offset}")]).remove(0);
        let refused = faultline(["trace", &probe]).run();
        assert_eq!(refused.status.code(), Some(1), "+{offset}: {}", refused.stderr);
        let said = "no instruction begins at this offset";
        assert!(refused.stderr.contains(said), "+{offset}: {}", refused.stderr);
    }
    let probes = probes_of(&program, &["nop5_u64+5", "nop5_u64+0x2"]);
    let mut traced = Traced::start(&program, &["2", "100"], &probes);
    traced.go();
    let finished = traced.finish().well();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 200);
    assert_eq!(number(probe(&summary, "nop5_u64+0x5"), "hits"), 200);
}

/// Check that a return is not traced from inside a function: the kernel would replace what is not
/// the return address.
#[test]
fn return_at_an_offset() {
    let probe = probes_of(&target("calls.c", &[]), &["nop5_u64+5 -> u64"]).remove(0);
    let refused = faultline(["trace", &probe]).run();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let said = "it is inside a function";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}

// ---- breakpoints ----

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

/// Check that a breakpoint is there during a run, gone after it, and gone also after faultline was
/// killed; that other processes have none; and that the target goes on right through all of it.
#[test]
fn breakpoints_go() {
    let (mut puppet, mut other) = (Puppet::start(), Puppet::start());
    let (address, of_other) = (address_of_tick(&mut puppet), address_of_tick(&mut other));
    let before = code_of(&puppet, address);
    // Multi links before 6.10 cannot be limited to a process, only to a thread.
    let features = tracer::kernel::Features::probe().unwrap();
    let limits_to_processes = features.pid_filter || !features.batches();
    puppet.go(2);
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let (pid, tick) = (puppet.pid(), tick());
        let running = faultline(["trace", "--json", "-p", &pid, &tick]).start();
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

/// Check that `--dry-run` tells what would be attached, and attaches nothing: it does not even
/// need the privileges to.
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

/// Check that twenty runs after another leave no descriptor behind in the process that makes them
/// (a daemon makes many).
#[test]
fn no_descriptors_are_leaked() {
    use tracer::{
        kernel::{Features, Links, LoadOptions, Programs, Progress, Scope},
        plan,
        resolve::{Resolver, View},
    };
    let probe = probes_of(&Puppet::program(), &[&format!("{TICK} -> u64")]).remove(0);
    let run = || {
        let resolution = Resolver::new(View::Host).resolve(&probe.parse().unwrap()).unwrap();
        let plan = plan::plan(
            vec![resolution],
            &|probe| probe.file.read_code(probe.offset, 16).ok(),
            plan::Wishes::default(),
        );
        let options = LoadOptions {
            begin_at_exec: true,
            ..LoadOptions::new(tracer_common::Action::Events, Features::probe().unwrap())
        };
        let progress = Progress::default();
        let mut programs = Programs::load(&plan, &options).unwrap();
        let (links, report) =
            Links::attach(&programs, &plan, &Scope::AllProcesses, &progress).unwrap();
        assert_eq!((report.probes, report.links), (1, 2));
        let records = programs.take_records().unwrap();
        programs.enable(true);
        programs.enable(false);
        links.detach(&progress);
        drop((programs, records));
        bpf_descriptors()
    };
    let left: Vec<_> = (0..20).map(|_| run()).collect();
    assert_eq!(left, [0; 20]);
}

/// How many descriptors this process has of eBPF maps, programs, links and type information.
fn bpf_descriptors() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .filter(|to| to.to_string_lossy().contains("bpf") || to.ends_with("anon_inode:btf"))
        .count()
}

// ---- privileges ----

/// Programs where an ordinary user can reach them.
struct Reachable {
    folder: PathBuf,
    faultline: PathBuf,
    puppet: PathBuf,
}

impl Reachable {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("faultline-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = |program: &Path, name: &str| {
            let to = folder.join(name);
            fs::copy(program, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
            to
        };
        let faultline = copy(Path::new(env!("CARGO_BIN_EXE_faultline")), "faultline");
        let puppet = copy(&Puppet::program(), "puppet");
        Self { folder, faultline, puppet }
    }

    /// faultline as an ordinary user with these capabilities.
    fn unprivileged(&self, capabilities: &[&str]) -> Command {
        let mut command = self.as_user(capabilities);
        command.arg(&self.faultline).stdin(Stdio::null()).env_remove("FAULTLINE_LOG");
        command
    }

    fn as_user(&self, capabilities: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).current_dir("/");
        if capabilities.is_empty() {
            command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        } else {
            let set = capabilities.iter().map(|name| format!("+{name}")).collect::<Vec<_>>();
            command.args([
                format!("--inh-caps={}", set.join(",")),
                format!("--ambient-caps={}", set.join(",")),
            ]);
        }
        command
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Check that a user who may not trace is told in one line which capability is missing.
#[test]
fn without_privileges() {
    let reachable = Reachable::new("without_privileges");
    let probe = format!("{}:{TICK}", reachable.puppet.display());
    for (capabilities, missing) in
        [(&[][..], "CAP_BPF"), (&["bpf"], "CAP_PERFMON"), (&["perfmon"], "CAP_BPF")]
    {
        let mut command = reachable.unprivileged(capabilities);
        let output = command.args(["trace", "--json", &probe]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with(&format!("error: missing {missing}, ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(output.stdout, b"");
    }
}

/// Check that CAP_BPF and CAP_PERFMON are all that an ordinary user needs; with CAP_SYS_ADMIN
/// where each probe takes a link, before 6.6.
#[test]
fn with_two_capabilities() {
    let reachable = Reachable::new("with_two_capabilities");
    let mut target = reachable.as_user(&[]);
    let mut child =
        target.arg(&reachable.puppet).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let pid = child.id().to_string();
    let probe = format!("{}:{TICK} -> u64", reachable.puppet.display());
    let capabilities: &[_] =
        if kernel_batches() { &["bpf", "perfmon"] } else { &["bpf", "perfmon", "sys_admin"] };
    let mut command = reachable.unprivileged(capabilities);
    command.args(["trace", "--json", "-p", &pid, &probe]);
    let (mut reader, stdout) = io::pipe().unwrap();
    let run = Bare::start(&mut command, stdout);
    drop(command);
    wait_counting(run.pid());
    let stdin = child.stdin.as_mut().unwrap();
    io::Write::write_all(stdin, b"step 50\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "stepped");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let (status, stderr) = run.finish();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert!(status.success(), "{stderr}");
    let summary = summary_of(&output);
    assert_eq!((number(&summary, "hits"), number(&summary, "delivered")), (100, 100));
    assert_eq!(number(&summary["returns"], "returned"), 50);
}

// ---- ten thousand probes ----

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
