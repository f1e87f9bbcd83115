//! `vm`: the tests of the real program on the kernels of Debian's releases, in QEMU, and on this
//! machine's own. One table shows all results.
//!
//! A guest has this machine's files, read-only and under the same paths, so every program and
//! library that tests use is there. What they write goes to memory, except for the folder of their
//! own files (`target/tmp`), which is on a disk, where pages can be evicted from memory. That disk
//! starts with the test targets that the run on this machine has compiled. Each test program has a
//! guest of its own, so that two CPUs share the work evenly.

mod initramfs;
mod kernels;
mod qemu;
mod results;
mod script;
mod systemd;
mod table;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, bail};

use self::kernels::{Kernel, LINES, Line};
use self::qemu::Guest;
use self::results::Run;
use self::script::{TestProgram, Work};
use self::table::Column;
use crate::command::{cargo, is_root, note, quiet, user_command};
use crate::{peers, setup, versions, workspace};

/// Where tests have their own files, and the disk that takes its place in a guest.
#[derive(Debug)]
pub(crate) struct Scratch {
    mounted_at: PathBuf,
    image: PathBuf,
}

#[derive(Debug)]
struct Args {
    lines: Vec<&'static Line>,
    is_shell: bool,
    /// Whether this machine's own kernel has a column.
    with_host: bool,
    /// For the test programs.
    rest: Vec<String>,
}

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("`cargo xtask vm` boots kernels for x86-64, with this machine's programs on them");
    }
    if systemd::is_asked(args) {
        return systemd::run();
    }
    let args = Args::parse(args)?;
    setup::for_test()?;
    qemu::ensure()?;
    let kernels =
        args.lines.iter().map(|line| kernels::newest(line)).collect::<Result<Vec<_>>>()?;
    let work = Work { programs: build()?, args: args.rest, environment: environment() };
    if args.is_shell {
        for kernel in &kernels {
            Guest::new(kernel, &scratch()?, "shell")?.interactive(&script::shell(&work))?;
        }
        return Ok(());
    }

    let mut columns = Vec::new();
    if args.with_host {
        // First, because it compiles the targets.
        columns.push(Column { from: "host".to_owned(), run: on_host(&work)? });
    }
    let scratch = scratch()?;
    columns.extend(in_guests(&kernels, &scratch, &work)?);
    columns.sort_by_key(|column| kernels::version(&column.run.release));
    println!("{}", table::table(&columns));
    if columns.iter().any(|column| !column.run.failures().is_empty()) {
        bail!("tests failed (what they printed is in target/vm/run)");
    }
    Ok(())
}

impl Args {
    fn parse(args: &[OsString]) -> Result<Self> {
        let mut parsed =
            Self { lines: Vec::new(), is_shell: false, with_host: true, rest: Vec::new() };
        let mut args = args.iter();
        for arg in args.by_ref() {
            match arg.to_str().context("arguments must be UTF-8")? {
                "--" => break,
                "--shell" => parsed.is_shell = true,
                "--no-host" => parsed.with_host = false,
                option if option.starts_with('-') => {
                    bail!(
                        "no option `{option}` (cargo xtask vm --systemd | [--shell] [--no-host] [KERNEL…] [-- TEST…])"
                    )
                }
                name => parsed.lines.push(kernels::line(name)?),
            }
        }
        for arg in args {
            parsed.rest.push(arg.to_str().context("arguments must be UTF-8")?.to_owned());
        }
        if parsed.is_shell && parsed.lines.len() != 1 {
            bail!("`--shell` needs one kernel");
        }
        if parsed.lines.is_empty() {
            parsed.lines.extend(LINES);
        }
        Ok(parsed)
    }
}

/// Tests of a program that are run once more if they fail in a guest. An emulated CPU is ten times slower
/// than a real one and shared with everything else that this machine does, so what the tracer bounds in real
/// time, such as its patience with a reader, may run out there. More failures than these have another cause.
const MOST_SECOND_TRIES: usize = 10;

/// The test program that asks more of a system than a guest has: see `tracer/tests/daemon/main.rs`.
/// `vm --systemd` tests the daemon in a whole system.
const NOT_OF_THE_KERNEL: &str = "daemon";

/// Builds the integration tests, and with them the faultline that they run.
fn build() -> Result<Vec<TestProgram>> {
    note("vm", "building the tests");
    let mut command = cargo(versions::STABLE);
    command.args(["test", "--locked", "--no-run", "--package", "faultline", "--test", "*"]);
    // The compiler's messages go to the terminal.
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().context("failed to start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut programs = test_programs(&String::from_utf8_lossy(&output.stdout));
    programs.retain(|program| program.name != NOT_OF_THE_KERNEL);
    if programs.is_empty() {
        bail!("cargo built no tests");
    }
    Ok(programs)
}

/// The test programs that cargo lists, sorted by name.
fn test_programs(messages: &str) -> Vec<TestProgram> {
    let text = |line: &str, key: &str| {
        let (_, rest) = line.split_once(&format!("\"{key}\":\""))?;
        rest.split_once('"').map(|(text, _)| text.to_owned())
    };
    let mut programs: Vec<TestProgram> = messages
        .lines()
        .filter(|line| line.contains(r#""kind":["test"]"#))
        .filter_map(|line| {
            let file = PathBuf::from(text(line, "executable")?);
            let name = file.file_name()?.to_str()?.rsplit_once('-')?.0.to_owned();
            Some(TestProgram { name, file })
        })
        .collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    programs
}

fn environment() -> Vec<(String, String)> {
    match peers::ensure() {
        Ok(folder) => vec![("FAULTLINE_PEERS".to_owned(), folder.display().to_string())],
        // The tests that need them fail and say why; all others can still run.
        Err(error) => {
            note("vm", &format!("no peers to compare with: {error:#}"));
            Vec::new()
        }
    }
}

fn on_host(work: &Work) -> Result<Run> {
    note("vm", "this machine's own kernel");
    let mut command = user_command(if is_root() { "sh" } else { "sudo" });
    if !is_root() {
        command.args(["-E", "sh"]);
    }
    let script = script::on_host(work);
    let mut child = command
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start the tests")?;
    let mut run = Run::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("failed to read what the tests print")?;
            let line = String::from_utf8_lossy(&line);
            run.line(&line);
            show("host", &line);
        }
    }
    child.wait().context("failed to wait for the tests")?;
    Ok(run)
}

/// Runs each test program on each kernel, two guests at once: a guest keeps one CPU busy.
fn in_guests(kernels: &[Kernel], scratch: &Scratch, work: &Work) -> Result<Vec<Column>> {
    // The largest program takes longest: first, or the last guest would run by itself for long.
    let size = |program: &TestProgram| fs::metadata(&program.file).map_or(0, |file| file.len());
    let mut programs = work.programs.clone();
    programs.sort_by_key(|program| std::cmp::Reverse(size(program)));
    let jobs: Vec<(&Kernel, &TestProgram)> = programs
        .iter()
        .flat_map(|program| kernels.iter().map(move |kernel| (kernel, program)))
        .collect();
    let run_one = |(kernel, program): (&Kernel, &TestProgram)| -> Result<(String, Run)> {
        let (series, name) = (kernel.series(), &program.name);
        note("vm", &format!("{name} on {} of Debian {}", kernel.release, kernel.suite));
        let work = Work { programs: vec![program.clone()], ..work.clone() };
        let run_it = |work: &Work, name: &str| {
            let guest = Guest::new(kernel, scratch, name)?;
            guest.run(&script::in_guest(work), |line| show(&format!("{series} {name}"), line))
        };
        let mut run = run_it(&work, name)?;
        let failed = run.worth_another_try();
        if (1..=MOST_SECOND_TRIES).contains(&failed.len()) {
            note("vm", &format!("{name} on {}: once more: {}", kernel.release, failed.join(" ")));
            let args = std::iter::once("--exact".to_owned()).chain(failed).collect();
            run.tried_again(&run_it(&Work { args, ..work }, &format!("{name}-again"))?);
        }
        Ok((kernel.suite.to_owned(), run))
    };
    let left = Mutex::new(jobs.into_iter());
    let next = || left.lock().ok()?.next();
    let run_some = || -> Result<Vec<_>> { std::iter::from_fn(next).map(run_one).collect() };
    let runs = thread::scope(|scope| {
        let [one, other] = [scope.spawn(run_some), scope.spawn(run_some)];
        let mut runs = Vec::new();
        for thread in [one, other] {
            let Ok(done) = thread.join() else { bail!("a thread that watches a guest panicked") };
            runs.extend(done?);
        }
        Ok(runs)
    })?;
    let mut columns: Vec<Column> = Vec::new();
    for (from, run) in runs {
        match columns.iter_mut().find(|column| column.from == from) {
            Some(column) => column.run.add(run),
            None => columns.push(Column { from, run }),
        }
    }
    Ok(columns)
}

/// Shows what the tests print, and where.
fn show(place: &str, line: &str) {
    let _ = writeln!(std::io::stderr(), "{place}: {}", line.trim_end());
}

/// A disk image with what tests have compiled.
fn scratch() -> Result<Scratch> {
    let mounted_at = workspace::target().join("tmp");
    let (files, image) =
        (workspace::target().join("vm/scratch"), workspace::target().join("vm/scratch.img"));
    let context = || format!("failed to fill {}", files.display());
    if files.exists() {
        fs::remove_dir_all(&files).with_context(context)?;
    }
    fs::create_dir_all(&files).with_context(context)?;
    let compiled = mounted_at.join("targets");
    fs::create_dir_all(&compiled).with_context(context)?;
    // `-a` keeps their times: the tests compile a target that is older than its source.
    quiet(user_command("cp").arg("-a").arg(&compiled).arg(&files))?;
    if image.exists() {
        fs::remove_file(&image).with_context(context)?;
    }
    quiet(
        user_command("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
            .args([&files, &image])
            .arg("4G"),
    )?;
    Ok(Scratch { mounted_at, image })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args> {
        Args::parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    /// Check that kernels and tests are distinguished, and that no kernel means every kernel.
    #[test]
    fn arguments() {
        let args = parse(&["6.12", "6.1", "--", "memory", "--exact"]).unwrap();
        assert_eq!(
            args.lines.iter().map(|line| line.suite).collect::<Vec<_>>(),
            ["trixie", "bookworm"]
        );
        assert_eq!(args.rest, ["memory", "--exact"]);
        assert_eq!(parse(&[]).unwrap().lines.len(), LINES.len());
        assert!(parse(&["--shell", "6.1"]).unwrap().is_shell);
        assert!(parse(&["--shell"]).is_err() && parse(&["--no"]).is_err());
    }

    /// Check that test programs are found among cargo's messages, and nothing else is.
    #[test]
    fn programs_among_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"faultline"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"x"},"executable":"/t/x"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"b"},"executable":"/t/b-12ab"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"a"},"executable":"/t/a_c-34"}
{"reason":"build-finished","success":true}"#;
        let names: Vec<_> = test_programs(messages).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["a_c", "b"]);
    }
}
