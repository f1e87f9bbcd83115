//! A target and a run of faultline side by side. The run attaches while the target waits, so that every
//! call the target makes is counted and figures are exact.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Finished, HUNG_AFTER, Running, Target, assert_conserved, faultline, is_emulated, number,
    send_signal,
};

/// A target with faultline attached to it.
pub struct Traced {
    pub target: Target,
    pub running: Running,
}

/// How a target and the run that traced it ended.
pub struct Ended {
    pub finished: Finished,
    pub target: ExitStatus,
    /// What the target printed and was not read before.
    pub printed: String,
}

/// The probes of one program: each is `PROGRAM:` followed by one of these.
pub fn probes_of(program: &Path, functions: &[&str]) -> Vec<String> {
    functions.iter().map(|function| format!("{}:{function}", program.display())).collect()
}

/// A program's copy in a file of its own. Breakpoints are set in files, so a test that traces every process
/// then does not see the processes of other tests.
pub fn private_copy(program: &Path, name: &str) -> PathBuf {
    let copy = program.with_file_name(format!("{name}.private"));
    copy_program(program, &copy);
    copy
}

/// Copies a program that will be started.
///
/// A child does it: a file that is open for writing cannot be executed, and any program that another test
/// starts meanwhile holds a copy of our descriptor until it executes.
pub fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("--").arg(from).arg(to).status().unwrap().success());
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

    /// Starts the target's work and waits until it is `done`.
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

    /// Ends the run with Ctrl-C, and then lets the target continue to its end.
    pub fn interrupt(self) -> Ended {
        self.running.signal(libc::SIGINT);
        let finished = self.running.finish();
        let (target, printed) = self.target.finish();
        Ended { finished, target, printed }
    }
}

impl Ended {
    /// Asserts that both ended well; returns the summary.
    #[track_caller]
    pub fn well(self) -> Finished {
        assert!(self.target.success(), "the target ended with {}", self.target);
        self.finished.succeeded()
    }
}

/// Waits until hits count: that is just after all is attached, which the thread `attach` does after it has
/// started the drain.
#[track_caller]
pub fn wait_counting(pid: i32) {
    wait_until("faultline counts hits", || {
        threads(pid).is_ok_and(|all| {
            let has = |name: &str| all.lines().any(|thread| thread == name);
            (has("drain") || has("show")) && !has("attach")
        })
    });
    thread::sleep(Duration::from_millis(if is_emulated() { 300 } else { 100 }));
}

fn threads(pid: i32) -> io::Result<String> {
    let mut names = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        names += &fs::read_to_string(task?.path().join("comm"))?;
    }
    Ok(names)
}

/// Waits until a condition holds; the test fails if it never does.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < HUNG_AFTER, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The summary of a `--json` run of any length: its last line. Asserts conservation, and as many events
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

/// A run of faultline whose standard output the test provides.
pub struct Bare {
    pub child: Child,
    stderr: mpsc::Receiver<String>,
}

impl Bare {
    /// Starts faultline, or a command that executes it.
    pub fn start(command: &mut Command, stdout: impl Into<Stdio>) -> Self {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let mut stream = child.stderr.take().unwrap();
        let (tell, stderr) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let _ = tell.send(text);
        });
        Self { child, stderr }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// Waits for the end; returns its status and its standard error.
    #[track_caller]
    pub fn finish(mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_until("faultline ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap(), self.stderr.recv_timeout(HUNG_AFTER).unwrap())
    }
}

/// `puppet.c`, which follows commands.
pub struct Puppet {
    pub target: Target,
    counted: Option<PathBuf>,
}

impl Puppet {
    pub fn program() -> PathBuf {
        super::target("puppet.c", &[])
    }

    pub fn start() -> Self {
        Self::start_program(&Self::program())
    }

    pub fn start_program(program: &Path) -> Self {
        Self { target: Target::start(program, &[]), counted: None }
    }

    pub fn pid(&self) -> String {
        self.target.pid()
    }

    /// Sends it a command; returns its answer.
    pub fn tell(&mut self, line: &str) -> String {
        self.target.send(line);
        self.target.line()
    }

    /// Makes it call `tick` this many times, from its first thread.
    pub fn step(&mut self, calls: u64) {
        assert_eq!(self.tell(&format!("step {calls}")), "stepped");
    }

    /// Makes this many threads call `tick` over and over, counted.
    pub fn go(&mut self, threads: u64) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let file = folder.join(format!("puppet.{}.count", self.pid()));
        assert_eq!(self.tell(&format!("count {}", file.display())), "counting");
        self.counted = Some(file);
        assert_eq!(self.tell(&format!("go {threads}")), "going");
    }

    /// How many calls of `tick` it has begun since `go`, even if it is dead.
    pub fn called(&self) -> u64 {
        let bytes = fs::read(self.counted.as_ref().unwrap()).unwrap();
        u64::from_ne_bytes(*bytes.first_chunk().unwrap())
    }

    /// Waits until it has made this many more calls.
    #[track_caller]
    pub fn wait_called(&self, more: u64) {
        let goal = self.called() + more;
        wait_until("the target makes calls", || self.called() >= goal);
    }

    /// Asserts that it is alive and its threads still run unharmed, and ends it.
    #[track_caller]
    pub fn ends_well(mut self) {
        if self.counted.is_some() {
            self.wait_called(100);
            let called = self.tell("stop").parse::<u64>().unwrap();
            assert_eq!(called, self.called());
        }
        self.step(10);
        let (status, rest) = self.take().finish();
        assert!(status.success(), "the target ended with {status}");
        assert_eq!(rest, "done\n");
    }

    /// Only the target.
    pub fn take(mut self) -> Target {
        if let Some(file) = self.counted.take() {
            let _ = fs::remove_file(file);
        }
        self.target
    }
}
