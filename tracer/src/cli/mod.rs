//! The command line: one file a subcommand, its arguments and its run.
//!
//! Raw arguments live in the subcommands' `Args`. They are checked and turned into types of their own
//! before anything is done with them.

mod bench;
mod command;
mod count;
mod ctl;
mod daemon;
mod doctor;
mod dry_run;
mod failure;
mod latency;
mod list;
mod preview;
mod progress;
mod report;
mod screen;
mod selection;
mod session;
mod summed;
mod tell;
mod trace;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

pub use self::failure::Failure;
use faultline_output::{Output, survive_file_size_limit};

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
  faultline count 'libc:*' -c 'ls /'
  faultline latency 'libssl:SSL_read' --duration 10s
  faultline list libssl:'SSL_*'
  faultline doctor
  faultline bench

A probe is TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]; see `faultline trace --help`.";

/// The subcommands, each with its arguments and its run in a file of its own.
macro_rules! commands {
    ($($name:ident in $module:ident),+ $(,)?) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($name($module::Args)),+
        }

        impl Command {
            fn run(&self) -> Result<(), Failure> {
                match self {
                    $(Self::$name(args) => $module::run(args)),+
                }
            }
        }
    };
}

// In the order of `--help`.
commands! {
    Trace in trace,
    Count in count,
    Latency in latency,
    List in list,
    Doctor in doctor,
    Bench in bench,
    Daemon in daemon,
    Ctl in ctl,
}

/// The definition of the command line: for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    if faultline_engine::helper::run_if_asked() {
        return ExitCode::SUCCESS;
    }
    survive_file_size_limit();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, and a closed pipe there is no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    init_logging(matches!(cli.command, Command::Daemon(_)));
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Logs faultline's own messages and those of the eBPF programs to standard error: always for the
/// daemon, otherwise only with `FAULTLINE_LOG` (`FAULTLINE_LOG=debug`,
/// `FAULTLINE_LOG=faultline_ebpf=debug`).
fn init_logging(daemon: bool) {
    let filter = match std::env::var("FAULTLINE_LOG") {
        Ok(filter) => filter,
        Err(_) if daemon => "faultline=info".to_owned(),
        Err(_) => return,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost; to say so on standard error would panic.
        .log_internal_errors(false)
        .with_target(!daemon)
        .with_ansi(colour(std::io::IsTerminal::is_terminal(&std::io::stderr())));
    let _ = if daemon && std::env::var_os("JOURNAL_STREAM").is_some() {
        // The journal has its own.
        subscriber.without_time().try_init()
    } else {
        subscriber.try_init()
    };
}

/// Whether to write colours, given whether the output is a terminal.
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The output file named by the user, or standard output.
fn open_output(path: Option<&Path>) -> anyhow::Result<Output> {
    match path {
        Some(path) => {
            Output::file(path).with_context(|| format!("failed to create {}", path.display()))
        }
        None => Output::stdout().context("standard output is closed"),
    }
}

/// The async runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(anyhow::Error::new(error).context("failed to start threads")))
}
