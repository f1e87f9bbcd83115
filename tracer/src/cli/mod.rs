//! The command line: one file a subcommand, its arguments and its run.
//!
//! Raw arguments live in the subcommands' `Args`; what is checked becomes a type of its own before
//! anything is done with it.

mod command;
mod doctor;
mod failure;
mod list;
mod report;
mod selection;
mod session;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use self::failure::Failure;

/// A production uprobe tracer: see what functions of running programs do, without losing an
/// argument and without hurting the host.
#[derive(Debug, Parser)]
#[command(name = "faultline", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  faultline trace 'libc:open*(path: str, flags: x32) -> i32' -c 'cat /etc/hostname'
  faultline trace 'bash:readline() -> str'
  faultline trace -p 1234 'libssl:SSL_write(ssl: ptr, buf: bytes[num], num: i32)' --json
  faultline list libssl:'SSL_*'
  faultline doctor

A probe is TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]; `faultline trace --help` tells all of it.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a line per call
    Trace(trace::Args),
    /// Show which functions can be probed
    List(list::Args),
    /// Show what this kernel, these privileges and this target allow
    Doctor(doctor::Args),
}

/// Runs the program.
pub fn main() -> ExitCode {
    if crate::kernel::be_releaser_if_asked() {
        return ExitCode::SUCCESS;
    }
    init_logging();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, and a closed pipe there is no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Trace(args) => trace::run(args),
        Command::List(args) => list::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Messages of our own and of the eBPF programs, to standard error; off unless `FAULTLINE_LOG`
/// asks for them (`FAULTLINE_LOG=debug`, `FAULTLINE_LOG=faultline_ebpf=debug`).
fn init_logging() {
    let Ok(filter) = std::env::var("FAULTLINE_LOG") else { return };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(colour(std::io::IsTerminal::is_terminal(&std::io::stderr())));
    let _ = subscriber.try_init();
}

/// Whether to colour what goes to a place that is a terminal or not.
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The async runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(anyhow::Error::new(error).context("failed to start threads")))
}
