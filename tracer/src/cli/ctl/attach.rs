//! `ctl attach`: one probe from the command line, or many from a file.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{Failure, selection::returns_parser};
use faultline_engine::request::{RequestText, action};
use faultline_plan::Returns;
use faultline_spec::ProbeSpec;
use tracer_common::Action;

const HELP: &str = "\
Examples:
  faultline ctl attach opens 'libc:open*(path: str)' --action events --rate 100/s
  faultline ctl attach reads 'libssl:SSL_read' --action latency --process nginx
  faultline ctl attach slow './server:handle' --wait
  faultline ctl attach --file probes.toml";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The probe's name
    #[arg(required_unless_present = "file")]
    name: Option<String>,

    /// TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]
    #[arg(required_unless_present = "file")]
    probe: Option<String>,

    /// What to do with its hits: count, latency or events
    #[arg(long, default_value = "count", value_parser = action::parse)]
    action: Action,

    /// Only in this process (repeatable)
    #[arg(short, long = "pid", value_name = "PID", conflicts_with_all = ["process", "cgroup"])]
    pids: Vec<u32>,

    /// Only in processes of this name, now and later
    #[arg(long, value_name = "NAME", conflicts_with = "cgroup")]
    process: Option<String>,

    /// Only in processes of this cgroup, now and later
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,

    /// Only calls that match this condition: size > 4096 (see docs/where.md)
    #[arg(long = "where", value_name = "EXPR")]
    condition: Option<String>,

    /// Only this share of the calls: 1/100
    #[arg(long, value_name = "1/N")]
    sample: Option<String>,

    /// At most N calls per second per function: 1000/s
    #[arg(long, value_name = "N/s")]
    rate: Option<String>,

    /// Trace even where that may hurt the program
    #[arg(long)]
    force: bool,

    /// Also trace the children of the processes, from their first instruction
    #[arg(short = 'f', long)]
    follow: bool,
    /// How to trace returns: at the functions' `ret` instructions, by the kernel's return probe, or as it
    /// does no harm
    #[arg(long, value_name = "WAY", value_parser = returns_parser())]
    returns: Option<Returns>,

    /// If the target does not exist yet, wait for it
    #[arg(long)]
    wait: bool,

    /// Attach the probes in this file (`[[probe]]` tables as in a configuration), all or none
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "probe"])]
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "probe")]
    probes: Vec<RequestText>,
}

/// The probe with an absolute path to its target, since the daemon runs in another folder. Text that is
/// no probe is left alone; it is refused later, with its error.
fn absolute(probe: String) -> Result<String, Failure> {
    match probe.parse::<ProbeSpec>() {
        Ok(mut spec) if spec.target.contains('/') && !spec.target.starts_with('/') => {
            let folder = std::env::current_dir().context("failed to find the current folder")?;
            spec.target = format!("{}/{}", folder.display(), spec.target);
            Ok(spec.to_string())
        }
        _ => Ok(probe),
    }
}

impl Args {
    /// The request for the daemon.
    pub(super) fn request(&self) -> Result<Value, Failure> {
        let probes = match &self.file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("failed to read {}", path.display()))?;
                let file: File = toml::from_str(&text)
                    .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
                let whole = |mut probe: RequestText| {
                    probe.probe = absolute(probe.probe)?;
                    Ok(probe)
                };
                file.probes.into_iter().map(whole).collect::<Result<_, Failure>>()?
            }
            None => vec![RequestText {
                name: self.name.clone().unwrap_or_default(),
                probe: absolute(self.probe.clone().unwrap_or_default())?,
                action: self.action,
                pids: self.pids.clone(),
                process: self.process.clone(),
                cgroup: self.cgroup.clone(),
                condition: self.condition.clone(),
                sample: self.sample.clone(),
                rate: self.rate.clone(),
                force: self.force,
                follow: self.follow,
                returns: self.returns.map(|way| way.to_string()),
            }],
        };
        // Report mistakes without asking the daemon.
        for probe in &probes {
            probe.clone().check().map_err(|wrong| {
                Failure::Usage(format!("probe `{}`: {wrong}", probe.name.escape_debug()))
            })?;
        }
        Ok(json!({ "probes": probes, "wait": self.wait }))
    }
}
