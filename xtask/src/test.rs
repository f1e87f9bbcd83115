//! `test`: sets up, then runs every test of the workspace, those on the real kernel included.
//!
//! Cargo builds as the user; where that is not root, the test programs run through sudo.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, is_root, note, on_path};
use crate::{peers, setup, versions};

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::for_test()?;
    let mut command = cargo(versions::STABLE);
    match peers::ensure() {
        Ok(folder) => drop(command.env("FAULTLINE_PEERS", folder)),
        // The tests that need them fail and say why; all others can still run.
        Err(error) => note("test", &format!("no peers to compare with: {error:#}")),
    }
    command.args(["test", "--locked", "--no-fail-fast"]);
    let picks_packages =
        args.iter().take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str()).any(|arg| {
            arg.starts_with("-p") || arg.starts_with("--package") || arg == "--workspace"
        });
    if !picks_packages {
        // The eBPF crate compiles only for the bpf target; tracer's tests run its programs.
        command.args(["--workspace", "--exclude", "tracer-ebpf"]);
    }
    if !is_root() {
        run_tests_as_root(&mut command)?;
    }
    command.args(args);
    let totals = pass_through(&mut command)?;
    // One line for all test programs, after the last of them.
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.ignored);
    if !totals.success {
        bail!("tests failed (see the results above)");
    }
    Ok(())
}

/// Has cargo start each test program through sudo, with the user's `PATH`: sudo has its own.
fn run_tests_as_root(command: &mut Command) -> Result<()> {
    if on_path("sudo").is_none() {
        bail!("the tests on the kernel need root, and there is no sudo here (run this as root)");
    }
    let path = std::env::var("PATH").context("PATH is not UTF-8")?;
    command
        .arg("--config")
        .arg(format!("target.'cfg(all())'.runner=['sudo', '-E', 'env', 'PATH={path}']"));
    Ok(())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    success: bool,
}

/// Runs cargo test, showing its output as it comes, and adds up its result lines.
fn pass_through(command: &mut Command) -> Result<Totals> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("failed to start cargo test")?;
    let mut totals = Totals::default();
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("failed to read what cargo test prints")?;
            totals.add(&String::from_utf8_lossy(&line));
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
    }
    totals.success = child.wait().context("failed to wait for cargo test")?.success();
    Ok(totals)
}

impl Totals {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the lines of several test programs are added and other lines are not.
    #[test]
    fn result_lines_are_added_up() {
        let mut totals = Totals::default();
        totals.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        totals.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured");
        totals.add("test a::b ... ok");
        assert_eq!(totals, Totals { passed: 5, failed: 4, ignored: 1, success: false });
    }
}
