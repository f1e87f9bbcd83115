//! `daemon --check`: what the probes of a configuration resolve to, without attaching anything.

use std::io::{self, Write};

use faultline_engine::{Host, discovery::plan_on_host, request::action};

use super::config::Config;

/// Writes what each probe resolves to on this machine; returns whether each resolves to something.
///
/// # Errors
///
/// The output cannot be written.
pub fn check(config: &Config, out: &mut impl Write) -> io::Result<bool> {
    let host = Host::detect();
    let mut all = true;
    for probe in &config.probes {
        let head = format!("{}: {}, {}", probe.name, action::word(probe.action), probe.selection);
        match plan_on_host(&host, probe) {
            Ok(plan) => {
                let files: Vec<_> = plan
                    .files
                    .iter()
                    .map(|file| file.file.shown_path().display().to_string())
                    .collect();
                let functions = match plan.probes.len() {
                    1 => "1 function".to_owned(),
                    count => format!("{count} functions"),
                };
                writeln!(out, "{head}: {functions} in {}", files.join(", "))?;
                for skipped in &plan.skipped {
                    writeln!(
                        out,
                        "  not probed: {}: {}",
                        skipped.label.escape_debug(),
                        skipped.reason
                    )?;
                }
                all &= !plan.probes.is_empty();
            }
            Err(problem) => {
                writeln!(out, "{head}: would wait for its target: {problem}")?;
                all = false;
            }
        }
    }
    let probes = match config.probes.len() {
        1 => "1 probe".to_owned(),
        count => format!("{count} probes"),
    };
    writeln!(out, "{probes}; the configuration is valid; nothing was attached (--check)")?;
    Ok(all)
}
