//! Runs from beginning to end: every hit is accounted for, exactly, and every ending is clean.

mod breakpoints;
mod commands;
mod conservation;
mod endings;
mod hidden_characters;
mod namespaces;
mod outputs;
mod privileges;
mod processes;
mod refusals;

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    self, assert_conserved, faultline,
    live::{Puppet, probes_of, wait_counting},
};

const TICK: &str = "tick(value: u64)";

fn tick() -> String {
    probes_of(&Puppet::program(), &[TICK]).remove(0)
}

/// A private file of a test.
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

/// The last line on standard error: the summary, if it could not be written where it belongs.
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
