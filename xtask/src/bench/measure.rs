//! One measurement: the target, a tracer that is really attached, the calls, and what they cost.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::cases::{Case, Start, Tool, What};
use super::process::{self, Cpu, Guarded};
use crate::command::user_command;

/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(1);
/// How long a tracer may take to attach or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a tracer is given after it says that it is attached and holds its links: faultline says so
/// some steps before its programs begin to count, and on a busy machine that gap is milliseconds.
pub(super) const SETTLE: Duration = Duration::from_millis(100);
/// bpftrace's own limits are lower than what it is asked for here.
const MOST: &str = "1000000";
/// Output that has not grown for so long is complete.
const QUIET: Duration = Duration::from_millis(200);

/// What is run, and where its output goes.
pub(super) struct Bench {
    pub(super) calls: u64,
    pub(super) target: PathBuf,
    /// A program of ten thousand functions.
    pub(super) many: PathBuf,
    pub(super) faultline: PathBuf,
    pub(super) bpftrace: PathBuf,
    pub(super) folder: PathBuf,
}

/// What one run of a case gave.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) ns_a_call: f64,
    /// Of the tracer, if there was one.
    pub(super) tracer: Option<Traced>,
}

/// What one run of a whole process gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    pub(super) ms: f64,
    pub(super) peak_rss_kib: f64,
}

/// What is known of the tracer.
#[derive(Debug, Clone)]
pub(super) struct Traced {
    /// Lines in its output.
    pub(super) lines: u64,
    /// What it says that it lost.
    pub(super) told_lost: u64,
    /// From attached until its output was complete.
    pub(super) work: Cpu,
    /// From its start to its end.
    pub(super) whole: Cpu,
    pub(super) peak_rss_kib: u64,
    /// From its start until it said so and held its links.
    pub(super) attached_ms: f64,
    /// From SIGINT to its end.
    pub(super) detach_ms: f64,
}

impl Bench {
    pub(super) fn run(&self, case: &Case) -> Result<Run> {
        let mut target = Target::start(self, case)?;
        match &case.what {
            What::Nothing => Ok(Run { ns_a_call: target.call()?, tracer: None }),
            What::Tracer { tool, program, links, .. } => {
                self.traced(&mut target, *tool, program, *links)
            }
        }
    }

    /// A whole process.
    pub(super) fn whole(&self, start: &Start) -> Result<Whole> {
        let mut command = self.tool(start.tool);
        command.args(start.args.iter().map(|arg| self.with_path(arg)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begin = Instant::now();
        let mut process = Guarded(command.spawn().context("failed to start it")?);
        // The peak only rises, so the last figure before the end is as good as there is.
        let mut peak_rss_kib = 0;
        let status = loop {
            if let Some(status) = process.ended()? {
                break status;
            }
            peak_rss_kib = process::peak_rss_kib(process.id()).unwrap_or(peak_rss_kib);
            sleep(LOOK);
        };
        let ms = ms_since(begin);
        if !status.success() {
            bail!("it ended with {status}");
        }
        Ok(Whole { ms, peak_rss_kib: peak_rss_kib as f64 })
    }

    fn traced(&self, target: &mut Target, tool: Tool, program: &str, links: usize) -> Result<Run> {
        let (out, err) = (self.folder.join("out"), self.folder.join("err"));
        let mut command = self.tool(tool);
        match tool {
            Tool::Faultline(subcommand) => command.args([subcommand, "-p"]),
            Tool::Bpftrace => command.arg("-p"),
        };
        command.arg(target.child.id().to_string());
        if tool == Tool::Bpftrace {
            command.arg("-e");
        }
        command.arg(self.with_path(program)).stdin(Stdio::null());
        command.stdout(create(&out)?).stderr(create(&err)?);

        let begin = Instant::now();
        let mut tracer = Guarded(command.spawn().context("failed to start the tracer")?);
        wait_attached(&mut tracer, tool, links, &err)?;
        let attached_ms = ms_since(begin);
        sleep(SETTLE);
        let cpu_attached = Cpu::of(tracer.id())?;

        let ns_a_call = target.call()?;
        wait_quiet(&out);
        let work = Cpu::of(tracer.id())?.since(cpu_attached);
        let peak_rss_kib = process::peak_rss_kib(tracer.id())?;

        let begin = Instant::now();
        process::interrupt(tracer.id())?;
        let cpu_children = Cpu::of_own_children()?;
        wait_end(&mut tracer)?;
        let detach_ms = ms_since(begin);
        let whole = Cpu::of_own_children()?.since(cpu_children);
        let traced = Traced {
            lines: count_lines(&out)?,
            told_lost: told_lost(&text(&err)),
            work,
            whole,
            peak_rss_kib,
            attached_ms,
            detach_ms,
        };
        Ok(Run { ns_a_call, tracer: Some(traced) })
    }

    pub(super) fn tool(&self, tool: Tool) -> Command {
        match tool {
            Tool::Faultline(_) => user_command(&self.faultline),
            Tool::Bpftrace => {
                let mut command = user_command(&self.bpftrace);
                command.env("BPFTRACE_MAX_PROBES", MOST).env("BPFTRACE_MAX_MAP_KEYS", MOST);
                command
            }
        }
    }

    fn with_path(&self, program: &str) -> String {
        program
            .replace("PROG", &self.target.to_string_lossy())
            .replace("MANY", &self.many.to_string_lossy())
    }
}

/// The running target, which waits for the signal to start calling.
struct Target {
    // Killed before its pipes are closed; it would end by itself then.
    child: Guarded,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Target {
    fn start(bench: &Bench, case: &Case) -> Result<Self> {
        let mut command = user_command(&bench.target);
        command.arg(bench.calls.to_string()).arg(case.group.function());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child: Child = command.spawn().context("failed to start the target")?;
        let input = child.stdin.take().context("no pipe to the target")?;
        let output = child.stdout.take().context("no pipe from the target")?;
        let mut target = Self { child: Guarded(child), input, output: BufReader::new(output) };
        let ready = target.line()?;
        if ready != "ready" {
            bail!("the target said `{ready}`, not `ready`");
        }
        Ok(target)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("failed to read what the target says")?;
        Ok(line.trim_end().to_owned())
    }

    /// Has it call, and gives nanoseconds a call. It lives on until it is dropped.
    fn call(&mut self) -> Result<f64> {
        self.input.write_all(b"go\n").context("failed to start the target's calls")?;
        let line = self.line()?;
        line.split_once(' ')
            .and_then(|(calls, ns)| Some(ns.parse::<f64>().ok()? / calls.parse::<f64>().ok()?))
            .with_context(|| format!("the target said `{line}`, not calls and nanoseconds"))
    }
}

/// Waits until the tracer says that it traces and the kernel says that it holds its links: a link
/// alone does not tell that it counts already, and a line not that it is true.
pub(super) fn wait_attached(
    tracer: &mut Guarded,
    tool: Tool,
    links: usize,
    err: &Path,
) -> Result<()> {
    let says = match tool {
        Tool::Faultline(_) => "tracing ",
        Tool::Bpftrace => "Attached ",
    };
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = tracer.ended()? {
            bail!("the tracer ended with {status} before it was attached:\n{}", text(err));
        }
        let said = text(err).lines().any(|line| line.starts_with(says));
        if said && process::probe_links(tracer.id()) >= links {
            return Ok(());
        }
        sleep(LOOK);
    }
    bail!("the tracer was not attached after {PATIENCE:?}:\n{}", text(err))
}

/// Waits until a file has not grown for a while.
fn wait_quiet(file: &Path) {
    let length = || fs::metadata(file).map_or(0, |metadata| metadata.len());
    let (mut last, mut since) = (length(), Instant::now());
    let deadline = since + PATIENCE;
    while since.elapsed() < QUIET && Instant::now() < deadline {
        sleep(10 * LOOK);
        let now = length();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

pub(super) fn wait_end(tracer: &mut Guarded) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tracer.ended()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("the tracer ended with {status}"),
            None if Instant::now() > deadline => {
                bail!("the tracer has not ended {PATIENCE:?} after SIGINT")
            }
            None => sleep(LOOK),
        }
    }
}

fn create(file: &Path) -> Result<File> {
    File::create(file).with_context(|| format!("failed to create {}", file.display()))
}

/// What a program has written for people so far.
fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// Lines that are events: bpftrace shows its maps at the end, as `@name[key]: value`.
fn count_lines(file: &Path) -> Result<u64> {
    let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with(b"@")).count() as u64)
}

/// Events that the tracer says it lost: the number in `Total lost event count: N` of bpftrace, or
/// before `lost in` in faultline's summary.
fn told_lost(messages: &str) -> u64 {
    let number = |line: &str| {
        let text = match line.split_once("Total lost event count: ") {
            Some((_, number)) => number,
            None => line.split_once(" lost in ")?.0.rsplit(' ').next()?,
        };
        text.trim().parse().ok()
    };
    messages.lines().rev().find_map(number).unwrap_or(0)
}

fn ms_since(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that both tools' word about losses is understood, and silence is none.
    #[test]
    fn losses_are_found() {
        let bpftrace = "Lost 5 events\nLost 7 events\nWARNING: Total lost event count: 12\n";
        assert_eq!(told_lost(bpftrace), 12);
        let faultline = "tracing 1 probe\n9 hits, 6 delivered, 3 lost in 3.0s (SIGINT)\n  more\n";
        assert_eq!(told_lost(faultline), 3);
        assert_eq!(told_lost("9 hits, all delivered in 3.0s (SIGINT)\n"), 0);
    }
}
