//! The project's tasks: `cargo xtask TASK`. One file a task; this one only picks it.
//!
//! Compiled by the machine's default toolchain, whichever that is: its first work is often to
//! install the pinned one ([`versions`]), which then runs everything else.

mod apt;
mod bench;
mod build;
mod check;
mod command;
mod debian;
mod dist;
mod ebpf;
mod peers;
mod run;
mod setup;
mod test;
mod tools;
mod versions;
mod vm;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

struct Task {
    name: &'static str,
    about: &'static str,
    run: fn(&[OsString]) -> Result<()>,
}

const TASKS: &[Task] = &[
    task("run", "set up, build, and run `faultline ARGS…` as root", run::run),
    task("test", "set up and run every test; ARGS go to cargo test", test::run),
    task("build", "set up and build target/release/faultline", build::run),
    task("check", "format, lints, dependencies", check::run),
    task("setup", "install what a build needs and this machine lacks", setup::run),
    task("bench", "measure what tracing costs, next to bpftrace", bench::run),
    task("dist", "make the Debian package and an archive; --test installs it", dist::run),
    task("ebpf", "compile the eBPF programs for every architecture", ebpf::run),
    task("peers", "download the tools that faultline is compared with", peers::run),
    task("vm", "run the tests on the kernels of Debian in QEMU", vm::run),
];

const fn task(name: &'static str, about: &'static str, run: fn(&[OsString]) -> Result<()>) -> Task {
    Task { name, about, run }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match args.split_first() {
        Some((name, rest)) if !is_help(name) => find(name).and_then(|task| (task.run)(rest)),
        _ => {
            print_help();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_help(name: &OsString) -> bool {
    ["help", "--help", "-h"].iter().any(|help| name == help)
}

fn find(name: &OsString) -> Result<&'static Task> {
    match TASKS.iter().find(|task| name == task.name) {
        Some(task) => Ok(task),
        None => bail!("no task `{}` (`cargo xtask --help` lists them)", name.to_string_lossy()),
    }
}

fn print_help() {
    println!("usage: cargo xtask TASK [ARGS…]\n");
    for task in TASKS {
        println!("  {:<8} {}", task.name, task.about);
    }
}

/// For tasks that take no arguments.
fn no_args(task: &str, args: &[OsString]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => {
            bail!("`cargo xtask {task}` takes no arguments, got `{}`", arg.to_string_lossy())
        }
    }
}
