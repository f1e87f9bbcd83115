//! Where the events go, and what can go wrong there.

use std::{
    fs, fs::File, fs::OpenOptions, io, io::BufRead as _, io::BufReader, io::Read as _,
    os::fd::FromRawFd as _, os::fd::OwnedFd, process::Command, process::Stdio, thread,
    time::Duration, time::Instant,
};

use serde_json::Value;

use super::{
    Ticking, scratch, summary_on_stderr,
    support::{
        faultline, kernel_batches,
        live::{Bare, Puppet, summary_of, wait_counting},
        number, target,
    },
    tick, trace_command,
};

/// Check that a closed output (`| head -1`) ends the run without an error, and that the summary is still
/// shown.
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

/// Bug: `ulimit -f` killed a run with SIGXFSZ. Check that it acts like a full disk, whether the file is
/// ours or standard output; that a command gets the default action back; and that no incomplete line is
/// left.
#[test]
fn file_size_limit() {
    const LIMIT: u64 = 64 * 1024;
    let program = target("functions.c", &["-O0"]);
    let functions = if kernel_batches() { "fn_0*" } else { "fn_000?" };
    let probe = format!("{}:{functions}", program.display());
    let calls = format!("{} 1000", program.display());
    let file = scratch("file_size_limit.json");
    let file_name = file.to_str().unwrap();
    for to_stdout in [false, true] {
        let own_file = ["-o", file_name];
        let options = if to_stdout { &[][..] } else { &own_file[..] };
        let args = ["trace", "--json", &probe, "-c", &calls];
        let run = faultline(args.iter().chain(options)).limited(libc::RLIMIT_FSIZE, LIMIT, LIMIT);
        let (status, stderr) = if to_stdout {
            let mut run = run;
            Bare::start(run.command(), File::create(&file).unwrap()).finish()
        } else {
            let finished = run.run();
            (finished.status, finished.stderr)
        };
        assert_eq!(status.code(), Some(1), "{stderr}");
        let error = "error: failed to write events: File too large";
        assert!(stderr.lines().any(|line| line.starts_with(error)), "{stderr}");
        let summary = summary_on_stderr(&stderr);
        assert!(number(&summary["dropped"], "output") > 0, "{summary}");
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.ends_with('\n'), "{:?}", written.lines().last());
        assert!(written.len() as u64 <= LIMIT && written.len() as u64 > LIMIT / 2);
        let events = written.lines().filter(|line| is_event(line)).count();
        assert_eq!(number(&summary, "delivered"), events as u64);
        assert_eq!(events, written.lines().count());
        fs::remove_file(&file).unwrap();
    }
    let script = "grep SigCgt /proc/self/status >&2; ulimit -f 1; yes > \"$0\"";
    let command = format!("sh -c '{script}' {file_name}");
    let limited = faultline(["count", "--json", &probe, "-c", &command]).run().succeeded();
    let ended = &limited.summary()["command"];
    assert_eq!(*ended, serde_json::json!({"exit_code": 128 + libc::SIGXFSZ}), "{ended}");
    fs::remove_file(&file).unwrap();
}

fn is_event(line: &str) -> bool {
    serde_json::from_str::<Value>(line).unwrap()["type"] == "event"
}

/// Check that a reader that does not read cannot keep the run from ending, and that what it did not read is
/// counted. Bug: a late reader found half an event at the end.
#[test]
fn stalled_reader() {
    let mut puppet = Puppet::start();
    let (mut reader, stdout) = io::pipe().unwrap();
    let (pid, tick) = (puppet.pid(), tick());
    let run = Bare::start(&mut trace_command(["--json", "-p", &pid, &tick]), stdout);
    wait_counting(run.pid());
    // The pipe holds 64 KiB, a few hundred events.
    puppet.go(2);
    puppet.wait_called(5000);
    run.signal(libc::SIGINT);
    let signalled = Instant::now();
    let (status, stderr) = run.finish();
    assert!(signalled.elapsed() < Duration::from_secs(20), "{:?}", signalled.elapsed());
    assert_eq!(status.code(), Some(0), "{stderr}");
    let mut taken = String::new();
    reader.read_to_string(&mut taken).unwrap();
    // After the last event that fit, there may be room for the summary (seen on 7.2).
    let last = taken.lines().last().unwrap();
    let is_on_stdout = last.starts_with(r#"{"type":"summary""#);
    let summary = summary_on_stderr(if is_on_stdout { last } else { &stderr });
    assert!(number(&summary, "hits") >= 4998, "{summary}");
    assert!(number(&summary["dropped"], "output") > 0, "{summary}");
    assert_eq!(summary["stopped_by"], "SIGINT");
    assert!(taken.ends_with('\n'), "half a line: {last}");
    let events = taken.lines().filter(|line| is_event(line)).count();
    assert_eq!(taken.lines().count(), events + usize::from(is_on_stdout));
    assert_eq!(number(&summary, "delivered"), events as u64, "{summary}");
    puppet.ends_well();
}

/// Check that a slow reader gets all of a summary of megabytes, even if that takes longer than a single
/// wait.
#[test]
fn slow_reader() {
    let program = target("functions.c", &["-O0"]);
    let functions = if kernel_batches() { "fn_*" } else { "fn_000?" };
    let probe = format!("{}:{functions}", program.display());
    let (mut reader, stdout) = io::pipe().unwrap();
    let run_it = format!("{} 1", program.display());
    let mut command = trace_command(["--json", &probe, "-c", &run_it]);
    let run = Bare::start(&mut command, stdout);
    drop(command);
    let (mut taken, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let count = reader.read(&mut chunk).unwrap();
        if count == 0 {
            break;
        }
        taken.extend_from_slice(&chunk[..count]);
        // The events are two megabytes.
        if taken.len() > 2_500_000 {
            thread::sleep(Duration::from_millis(10));
        }
    }
    let (status, stderr) = run.finish();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let summary = summary_of(str::from_utf8(&taken).unwrap());
    let probes = summary["probes"].as_array().unwrap().len() as u64;
    let figures = (number(&summary, "delivered"), number(&summary, "hits"));
    assert_eq!(figures, (probes, probes), "{}", summary["dropped"]);
}

/// Check that `-o` writes events and summary to a file and leaves standard output empty; and that a file
/// that cannot be created is an error before anything is attached.
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

/// Check that removing the file while it is written loses nothing but the file: the summary is shown
/// elsewhere.
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

/// Check that an event of a quiet probe is shown at once, while the run continues.
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

/// Check that a run without a standard output acts like one whose output was closed.
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

/// Bug: in a time namespace, which has its own monotonic clock, events had the wrong time: the eBPF
/// programs read the host's.
#[test]
fn times_in_a_time_namespace() {
    let now = || {
        let output = Command::new("date").args(["-u", "+%FT%T.%NZ"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let program = target("functions.c", &["-O0"]);
    let probe = format!("{}:fn_000?", program.display());
    let calls = format!("{} 1", program.display());
    let before = now();
    let run = faultline(["trace", "--json", &probe, "-c", &calls]).ahead_of_the_host(1_000_000);
    let events = run.run().succeeded().events();
    let after = now();
    assert_eq!(events.len(), 10);
    for event in events {
        let time = event["time"].as_str().unwrap();
        assert!((&*before..=&*after).contains(&time), "{before} … {time} … {after}");
    }
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
