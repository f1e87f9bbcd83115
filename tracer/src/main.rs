//! Parses the command line, runs the command, maps its result to an exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    faultline::cli::main()
}
