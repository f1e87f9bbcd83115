//! `faultline daemon`: probes that stay, by a configuration.

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
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/faultline/faultline.toml")]
    config: PathBuf,

    /// Say whether the configuration is right and what its probes lead to; attach nothing
    #[arg(long)]
    check: bool,
}

const HELP: &str = "\
SIGHUP reads the configuration anew and applies the difference; SIGTERM and SIGINT end it.
`faultline ctl` talks to it. docs/daemon.md has the configuration, docs/metrics.md the metrics.

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
