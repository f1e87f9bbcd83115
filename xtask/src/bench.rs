//! `bench`: what tracing costs, next to bpftrace, in one run.
//!
//! Every round measures every case once, so that a machine that slows down does so for all of them;
//! ratios are taken within a round. It is a benchmark: a figure that misses its goal
//! is reported, but is not a failure. docs/benchmarks.md describes what it measures.

mod cases;
mod goals;
mod measure;
mod placement;
mod process;
mod report;
mod sample;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{is_root, note, on_path, quiet, shown, user_command};
use crate::{build, peers, setup, workspace};
use cases::{CASES, STARTS};
use measure::{Bench, Run, Whole};

/// Calls of the function in each measurement.
const CALLS: u64 = 1_000_000;
const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    rounds: usize,
    json: bool,
    /// Everything is there: this is the second half of a run, the one as root.
    built: bool,
    /// Whole programs whose breakpoints move, instead of single functions.
    placement: bool,
}

/// All measurements of a run: by case, then by round.
struct Measured {
    cases: Vec<Vec<Run>>,
    starts: Vec<Vec<Whole>>,
    load_before: String,
    load_after: String,
}

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let settings = Settings::of(args)?;
    if !settings.built {
        setup::for_build()?;
        peers::ensure()?;
        shown(build::release_build().stdout(std::io::stderr()))?;
        compile_targets()?;
        if settings.placement {
            placement::prepare()?;
        }
    }
    if !is_root() {
        return again_as_root(args);
    }
    let bench = Bench {
        calls: CALLS,
        target: target("hits"),
        many: target("many"),
        faultline: workspace::faultline(),
        bpftrace: peers::ensure()?.join("bpftrace"),
        folder: folder(),
    };
    if settings.placement {
        return placement::run(&bench, settings.rounds);
    }
    let measured = measure_all(&bench, settings.rounds)?;
    if settings.json {
        report::json(&measured);
    } else {
        report::text(&measured);
    }
    Ok(())
}

impl Settings {
    fn of(args: &[OsString]) -> Result<Self> {
        let mut settings = Self { rounds: ROUNDS, json: false, built: false, placement: false };
        let mut args = args.iter().map(|arg| arg.to_string_lossy());
        while let Some(arg) = args.next() {
            match &*arg {
                "--quick" => settings.rounds = QUICK_ROUNDS,
                "--json" => settings.json = true,
                "--built" => settings.built = true,
                "placement" => settings.placement = true,
                "--rounds" => {
                    let number = args.next().context("`--rounds` needs a number")?;
                    settings.rounds =
                        number.parse().ok().filter(|rounds| *rounds > 0).with_context(|| {
                            format!("`--rounds {number}` is not a number above 0")
                        })?;
                }
                _ => bail!(
                    "unknown argument `{arg}` (`cargo xtask bench` takes `placement`, --rounds N, --quick, \
                     --json)"
                ),
            }
        }
        Ok(settings)
    }
}

fn folder() -> PathBuf {
    workspace::target().join("bench")
}

fn target(name: &str) -> PathBuf {
    folder().join(name)
}

fn compile_targets() -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    for (name, source, level) in
        [("hits", "xtask/bench/hits.c", "-O2"), ("many", "tracer/tests/targets/functions.c", "-O0")]
    {
        let mut cc = user_command("cc");
        cc.args([level, "-Wall", "-Werror", "-o"]).arg(target(name));
        quiet(cc.arg(workspace::root().join(source)).arg("-lpthread"))?;
    }
    Ok(())
}

/// The user has built; only measuring needs root.
fn again_as_root(args: &[OsString]) -> Result<()> {
    if on_path("sudo").is_none() {
        bail!("tracing needs root, and there is no sudo here (run this as root)");
    }
    let xtask = std::env::current_exe().context("failed to find the running xtask")?;
    shown(user_command("sudo").arg(xtask).arg("bench").args(args).arg("--built"))
}

fn measure_all(bench: &Bench, rounds: usize) -> Result<Measured> {
    let load_before = load();
    let mut measured = Measured {
        cases: vec![Vec::new(); CASES.len()],
        starts: vec![Vec::new(); STARTS.len()],
        load_before,
        load_after: String::new(),
    };
    for round in 0..rounds {
        note("bench", &format!("round {} of {rounds} (load {})", round + 1, load()));
        // Each round begins with another case, so that none always follows the same one.
        for index in (0..CASES.len()).map(|index| (index + round) % CASES.len()) {
            let case = &CASES[index];
            let run = bench.run(case).with_context(|| format!("failed to measure `{case}`"))?;
            measured.cases[index].push(run);
        }
        for (start, times) in STARTS.iter().zip(&mut measured.starts) {
            times.push(bench.whole(start).with_context(|| format!("`{}` failed", start.name))?);
        }
    }
    measured.load_after = load();
    Ok(measured)
}

/// The load averages, over 1, 5 and 15 minutes.
fn load() -> String {
    let load = read(Path::new("/proc/loadavg"));
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// A file of /proc that is only shown to people.
fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

/// What the figures were measured on: name and value.
fn machine() -> Vec<(&'static str, String)> {
    let cpuinfo = read(Path::new("/proc/cpuinfo"));
    let models: Vec<_> = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let cpu = format!("{} × {}", models.len(), models.first().unwrap_or(&"unknown"));
    let first_line = |command: &mut Command| {
        let output = quiet(command).unwrap_or_default();
        output.lines().next().unwrap_or("unknown").to_owned()
    };
    let bpftrace = workspace::target().join("peers/bin/bpftrace");
    vec![
        ("cpu", cpu),
        ("kernel", read(Path::new("/proc/sys/kernel/osrelease"))),
        ("faultline", first_line(user_command(workspace::faultline()).arg("--version"))),
        ("bpftrace", first_line(user_command(bpftrace).arg("--version"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings> {
        Settings::of(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    /// Check that options are understood and mistakes are reported.
    #[test]
    fn options_are_read() {
        let plain = Settings { rounds: ROUNDS, json: false, built: false, placement: false };
        assert_eq!(settings(&[]).unwrap(), plain);
        assert_eq!(settings(&["--quick"]).unwrap(), Settings { rounds: 3, ..plain });
        assert!(settings(&["placement"]).unwrap().placement);
        let both = settings(&["--json", "--rounds", "11"]).unwrap();
        assert_eq!(both, Settings { rounds: 11, json: true, ..plain });
        for wrong in [&["--rounds"][..], &["--rounds", "0"], &["--rounds", "x"], &["fast"]] {
            assert!(settings(wrong).is_err(), "{wrong:?}");
        }
    }
}
