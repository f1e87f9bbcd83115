//! Shared by the integration tests: target programs that are built here, runs of the real binary on the
//! real kernel, and the law of conservation.
//!
//! They need root (or CAP_BPF and CAP_PERFMON) and fail without it. Only tests that a kernel is too old for
//! are skipped: see [`skip`].

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

pub mod daemon;
pub mod skip;
pub mod streaming;

use std::{
    cell::RefCell,
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

pub mod attaching;
pub mod live;
pub mod namespace;
pub mod prometheus;
pub mod reads;

/// How long anything may take before the test considers it stuck. Far more than is ever needed: it says
/// nothing about speed.
pub const HUNG_AFTER: Duration = Duration::from_secs(120);

/// Whether `cargo xtask vm` runs the test in an emulated machine, where everything takes ten times as long.
/// Tests that repeat something to catch a rare bug repeat it less often there.
pub fn is_emulated() -> bool {
    std::env::var_os("FAULTLINE_EMULATED").is_some()
}

/// Compiles `tests/targets/NAME` (`.c` or `.cc`) with the given flags in addition to `-O1 -g`; returns the
/// path of the program. Each variant is compiled once, by the first test that needs it.
pub fn target(source: &str, flags: &[&str]) -> PathBuf {
    // Two at once would replace each other's file, and a breakpoint would be set in the wrong one.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let source_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets").join(source);
    let stem = source.split('.').next().unwrap();
    let flavour: String = flags.concat().chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("targets");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(format!("{stem}{flavour}"));
    let newer = |one: &Path, other: &Path| {
        let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        matches!((time(one), time(other)), (Some(one), Some(other)) if one > other)
    };
    if newer(&program, &source_path) {
        return program;
    }
    let compiler = if source.ends_with(".c") { "cc" } else { "c++" };
    // Compiled aside and renamed: tests run at the same time.
    let aside =
        folder.join(format!("{stem}{flavour}.{}.{:?}", std::process::id(), thread::current().id()));
    let status = Command::new(compiler)
        .args(["-O1", "-g", "-fno-inline", "-pthread", "-o"])
        .arg(&aside)
        .arg(&source_path)
        .args(flags)
        .status()
        .unwrap_or_else(|error| panic!("{compiler} is needed to build test targets: {error}"));
    assert!(status.success(), "{compiler} {} failed", source_path.display());
    fs::rename(&aside, &program).unwrap();
    program
}

/// A program that this compiler makes of a source file; its arguments end where the program and the source
/// follow.
pub fn compiled(source: &str, name: &str, mut compiler: Command) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets").join(source);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets").join(name);
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let time = |file: &Path| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    if time(&program) > time(&source) {
        return program;
    }
    let status = compiler.args([&program, &source]).status();
    let status = status.unwrap_or_else(|error| panic!("{compiler:?} is needed: {error}"));
    assert!(status.success(), "{compiler:?} failed");
    program
}

/// Whether one link takes many probes here: Linux 6.6. Without it, each needs a link and a grace period,
/// and ten thousand take a quarter of an hour, so tests with that many use ten instead.
pub fn kernel_batches() -> bool {
    faultline_engine::kernel::Features::probe().unwrap().batches()
}

thread_local! {
    /// The PID namespace that the children of this thread start in, if not in the test's own.
    static PID_NAMESPACE: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Runs `start`; the children that it starts are in this PID namespace.
pub fn in_pid_namespace<T>(namespace: &File, start: impl FnOnce() -> T) -> T {
    let before = PID_NAMESPACE.replace(Some(namespace.try_clone().unwrap()));
    let started = start();
    PID_NAMESPACE.set(before);
    started
}

/// Starts a child. Its parent changes the namespace of its children for that moment only, because it can
/// start no threads meanwhile.
pub fn spawn(command: &mut Command) -> Child {
    let set = |namespace: &File| {
        // SAFETY: the descriptor is open; the call takes no pointer.
        assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID) }, 0);
    };
    PID_NAMESPACE.with_borrow(|namespace| {
        let own = File::open("/proc/thread-self/ns/pid").unwrap();
        namespace.iter().for_each(set);
        let child = command.spawn();
        namespace.iter().for_each(|_| set(&own));
        child.unwrap()
    })
}

/// A run of faultline that has not been started yet.
pub struct Faultline {
    command: Command,
}

/// A run of faultline.
pub struct Running {
    pub child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
    started: Instant,
}

/// A run of faultline that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// The binary under test, with these arguments.
pub fn faultline<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Faultline {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faultline"));
    command.args(args).stdin(Stdio::null()).env_remove("FAULTLINE_LOG");
    Faultline { command }
}

impl Faultline {
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// In a time namespace in which the monotonic clocks are this many seconds ahead of the host's.
    pub fn ahead_of_the_host(mut self, seconds: u32) -> Self {
        let offsets = format!("monotonic {seconds} 0\nboottime {seconds} 0\n");
        let enter = move || {
            // SAFETY: takes no pointer.
            if unsafe { libc::unshare(libc::CLONE_NEWTIME) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::options()
                .write(true)
                .open("/proc/self/timens_offsets")?
                .write_all(offsets.as_bytes())?;
            let namespace = File::open("/proc/self/ns/time_for_children")?;
            // SAFETY: takes no pointer; the descriptor is open.
            match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWTIME) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only unshare, open, write, setns and close are called, and
        // short paths are copied to the stack.
        unsafe { self.command.pre_exec(enter) };
        self
    }

    /// With its own hard limit (`RLIMIT_…`), which it may not raise.
    pub fn limited(mut self, resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> Self {
        let limit = move || {
            /// `CAP_SYS_RESOURCE`, with which the hard limit could be raised too.
            const SYS_RESOURCE: libc::c_long = 24;
            // SAFETY: drops a capability from the child that is about to start.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, SYS_RESOURCE) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: a plain system call on a live structure.
            match unsafe { libc::setrlimit(resource, &raw const limit) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: only system calls between fork and exec.
        unsafe { self.command.pre_exec(limit) };
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }

    /// Starts it and collects its outputs.
    pub fn start(mut self) -> Running {
        // A shell starts its background jobs, such as these tests, with SIGINT ignored.
        let heed_interrupts = || {
            // SAFETY: changes what a signal does in the child that is about to start.
            match unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) } {
                libc::SIG_ERR => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: only a system call between fork and exec.
        unsafe { self.command.pre_exec(heed_interrupts) };
        let mut child = spawn(self.command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Running { child, stdout, stderr, started: Instant::now() }
    }
}

fn collect(mut stream: impl io::Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = tell.send(bytes);
    });
    told
}

/// What each task of a process is doing, and where in the kernel: for the report about a stuck one.
fn tasks_of(pid: u32) -> String {
    if is_emulated() {
        // The backtraces of the CPUs go to the guest's console.
        let _ = fs::write("/proc/sysrq-trigger", "l");
    }
    let mut text = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        text += &format!("{} {}{}", task.path().display(), read("stat"), read("stack"));
    }
    text
}

/// Sends a signal to a child that is not yet waited for: the id is still its own.
fn send_signal(child: &Child, signal: i32) {
    // SAFETY: the call takes no pointer.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// Waits for the end; a run that does not end is killed, and the test fails.
    pub fn finish(mut self) -> Finished {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > HUNG_AFTER {
                let tasks = tasks_of(self.child.id());
                let _ = self.child.kill();
                panic!("faultline did not end within {HUNG_AFTER:?}:\n{tasks}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        let text = |stream: mpsc::Receiver<Vec<u8>>| {
            let bytes = stream.recv_timeout(HUNG_AFTER).unwrap();
            String::from_utf8(bytes).expect("all output is UTF-8")
        };
        Finished { status, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

impl Finished {
    /// Asserts that it ended with status 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.status.code(), Some(0), "stderr: {}", self.stderr);
        self
    }

    /// Every line of a `--json` run.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// The events of a `--json` run.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.json().into_iter().filter(|line| line["type"] == "event").collect()
    }

    /// The summary of a `--json` run: its last line. Asserts conservation.
    #[track_caller]
    pub fn summary(&self) -> Value {
        let lines = self.json();
        let summary = lines.last().unwrap_or_else(|| panic!("no output; stderr: {}", self.stderr));
        assert_eq!(summary["type"], "summary", "the last line is the summary");
        let events = lines.iter().filter(|line| line["type"] == "event").count() as u64;
        assert_eq!(number(summary, "delivered"), events, "delivered is what arrived: {summary}");
        assert_conserved(summary);
        summary.clone()
    }
}

/// A number of a JSON object.
#[track_caller]
pub fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("no number `{name}` in {object}"))
}

/// The sum of an object's numbers.
#[track_caller]
pub fn sum(object: &Value) -> u64 {
    object.as_object().unwrap().values().map(|value| value.as_u64().unwrap()).sum()
}

/// Asserts the law of conservation, in total, for each probe and for each CPU.
#[track_caller]
pub fn assert_conserved(summary: &Value) {
    let check = |part: &Value| {
        let accounted = number(part, "delivered")
            + number(part, "filtered")
            + number(part, "sampled_out")
            + number(part, "throttled")
            + sum(&part["dropped"]);
        assert_eq!(number(part, "hits"), accounted, "not conserved: {part}");
    };
    check(summary);
    for part in ["probes", "per_cpu"] {
        let parts = summary[part].as_array().unwrap_or_else(|| panic!("no `{part}`: {summary}"));
        parts.iter().for_each(check);
        let hits: u64 = parts.iter().map(|part| number(part, "hits")).sum();
        assert_eq!(number(summary, "hits"), hits, "`{part}` do not add up: {summary}");
    }
}

/// A target program that says on its standard output when it is ready (`ready`), and begins when it is sent
/// a line. The rest of its output is collected.
pub struct Target {
    pub child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Target {
    /// Starts it and waits until it says `ready`.
    pub fn start(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut target = Self { child, stdout };
        assert_eq!(target.line(), "ready");
        target
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends it a line.
    pub fn send(&mut self, line: &str) {
        use std::io::Write as _;
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Closes its input and waits for it; returns what it printed since.
    pub fn finish(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}
