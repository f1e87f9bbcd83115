//! A target and a run of faultline side by side: attached while the target waits, so that every
//! call that it makes is counted and figures are exact.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Finished, HUNG_AFTER, Running, Target, assert_conserved, faultline, number};

/// A target with faultline attached to it.
pub struct Traced {
    pub target: Target,
    pub running: Running,
}

/// How a target and the run that traced it have ended.
pub struct Ended {
    pub finished: Finished,
    pub target: ExitStatus,
    /// What the target printed that nobody has read before.
    pub printed: String,
}

/// The probes of one program: each is `PROGRAM:` and what is given.
pub fn probes_of(program: &Path, functions: &[&str]) -> Vec<String> {
    functions.iter().map(|function| format!("{}:{function}", program.display())).collect()
}

/// A copy of a program of its own file: breakpoints are set in files, so that a test which traces
/// every process sees the processes of no other test.
pub fn private_copy(program: &Path, name: &str) -> PathBuf {
    let copy = program.with_file_name(format!("{name}.private"));
    fs::copy(program, &copy).unwrap();
    copy
}

impl Traced {
    /// Starts the target and traces it with `trace --json -p`, these options and probes.
    pub fn start<S: AsRef<str>>(program: &Path, args: &[&str], options: &[S]) -> Self {
        let target = Target::start(program, args);
        Self::attach(target, options)
    }

    /// Traces a target that is already running.
    pub fn attach<S: AsRef<str>>(target: Target, options: &[S]) -> Self {
        let pid = target.pid();
        let fixed = ["trace", "--json", "-p", &pid];
        let options = options.iter().map(AsRef::as_ref);
        let running = faultline(fixed.into_iter().chain(options)).start();
        wait_counting(running.pid());
        Self { target, running }
    }

    /// Lets the target begin and waits until it is `done`.
    pub fn go(&mut self) {
        self.target.send("go");
        self.done();
    }

    /// Waits until the target is `done`.
    #[track_caller]
    pub fn done(&mut self) {
        let line = self.target.line();
        assert!(line == "done" || line.starts_with("done "), "the target says `{line}`");
    }

    /// Lets the target end, and with it the run.
    pub fn finish(self) -> Ended {
        let (target, printed) = self.target.finish();
        Ended { finished: self.running.finish(), target, printed }
    }

    /// Ends the run with Ctrl-C, and then lets the target go on to its end.
    pub fn interrupt(self) -> Ended {
        self.running.signal(libc::SIGINT);
        let finished = self.running.finish();
        let (target, printed) = self.target.finish();
        Ended { finished, target, printed }
    }
}

impl Ended {
    /// Asserts that both ended well; the summary.
    #[track_caller]
    pub fn well(self) -> Finished {
        assert!(self.target.success(), "the target ended with {}", self.target);
        self.finished.succeeded()
    }
}

/// Waits until hits count: the drain is started just before they do.
#[track_caller]
pub fn wait_counting(pid: i32) {
    wait_until("faultline counts hits", || threads(pid).is_ok_and(|all| all.contains("drain\n")));
    thread::sleep(Duration::from_millis(100));
}

fn threads(pid: i32) -> io::Result<String> {
    let mut names = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        names += &fs::read_to_string(task?.path().join("comm"))?;
    }
    Ok(names)
}

/// Waits until something is so; the test fails if it never is.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < HUNG_AFTER, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The summary of a `--json` run of any length: its last line, conserved, and as many events
/// before it as it says. Does not parse the events.
#[track_caller]
pub fn summary_of(output: &str) -> Value {
    let last = output.lines().last().expect("no output");
    let summary: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"));
    assert_eq!(summary["type"], "summary", "the last line is the summary");
    let events = output.lines().filter(|line| line.starts_with(r#"{"type":"event","#)).count();
    assert_eq!(output.lines().count(), events + 1, "there is something else in the output");
    assert_eq!(number(&summary, "delivered"), events as u64, "delivered is what arrived");
    assert_conserved(&summary);
    summary
}

/// One probe's part of a summary.
#[track_caller]
pub fn probe<'a>(summary: &'a Value, function: &str) -> &'a Value {
    let of_function = |part: &&Value| {
        part["probe"].as_str().is_some_and(|label| label.ends_with(&format!(":{function}")))
    };
    summary["probes"]
        .as_array()
        .unwrap()
        .iter()
        .find(of_function)
        .unwrap_or_else(|| panic!("no probe of `{function}`: {summary}"))
}
