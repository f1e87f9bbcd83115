//! `ctl attach`: one probe from the command line, or many from a file.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::Failure;
use faultline_engine::request::{RequestText, action};
use faultline_spec::ProbeSpec;
use tracer_common::Action;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to call the probe
    #[arg(required_unless_present = "file")]
    name: Option<String>,

    /// TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]
    #[arg(required_unless_present = "file")]
    probe: Option<String>,

    /// What is done with its hits
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

    /// Only hits of which this holds: size > 4096 (see docs/where.md)
    #[arg(long = "where", value_name = "EXPR")]
    condition: Option<String>,

    /// Only this share of the calls: 1/100
    #[arg(long, value_name = "1/N")]
    sample: Option<String>,

    /// At most so many calls of each function: 1000/s
    #[arg(long, value_name = "N/s")]
    rate: Option<String>,

    /// Trace returns also in C++ and Rust programs
    #[arg(long)]
    force: bool,

    /// If its target is not there, wait for it
    #[arg(long)]
    wait: bool,

    /// Attach the probes of this file, `[[probe]]` tables as in a configuration, all or none
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "probe"])]
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "probe")]
    probes: Vec<RequestText>,
}

/// The probe with the path of its target as we see it: the daemon's own folder is another. What is no
/// probe stays as it is, to be refused with its error.
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
            }],
        };
        // What is wrong is said before anybody is asked.
        for probe in &probes {
            probe.clone().check().map_err(|wrong| {
                Failure::Usage(format!("probe `{}`: {wrong}", probe.name.escape_debug()))
            })?;
        }
        Ok(json!({ "probes": probes, "wait": self.wait }))
    }
}
