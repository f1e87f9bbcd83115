//! `faultline daemon`: probes from a configuration, attached for as long as it runs.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use super::Failure;
use crate::daemon::{self, config::Config};

/// Keep a set of probes attached, controlled live and scraped by Prometheus
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/faultline/faultline.toml")]
    config: PathBuf,

    /// Check the configuration and show what its probes resolve to; attach nothing
    #[arg(long)]
    check: bool,
}

const HELP: &str = "\
SIGHUP reloads the configuration and applies the changes; SIGTERM and SIGINT stop the daemon.
Control it with `faultline ctl`. docs/daemon.md describes the configuration, docs/metrics.md the
metrics.

Examples:
  faultline daemon --check --config ./faultline.toml
  sudo faultline daemon --config /etc/faultline/faultline.toml";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if !args.check {
        return daemon::run(&args.config).map_err(Failure::Run);
    }
    let config = Config::read(&args.config)?;
    let mut out = io::stdout().lock();
    match daemon::check(&config, &mut out).and_then(|_| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
