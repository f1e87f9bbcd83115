//! `faultline doctor`: what this kernel, these privileges and this target allow.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
};

use serde::Serialize;

use super::{Failure, colour};
use crate::{
    kernel::{Feature, Finding, probe_features},
    resolve::{Pid, Resolver, View, process},
};

/// Show what this kernel, these privileges and this target allow
///
/// Traces a function of faultline's own and looks at what arrives; exits 1 if tracing cannot work.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look at this target too: a path, a library or a command
    target: Option<String>,

    /// Look at this process too
    #[arg(short, long, value_name = "PID")]
    pid: Option<Pid>,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    feature: &'a str,
    finding: &'a str,
    means: &'a str,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let host = probe_features();
    let process = args.pid.map(look_at_process);
    let target = args.target.as_deref().map(|target| look_at_target(target, args.pid));
    let mut out = io::stdout().lock();
    let colour = colour(out.is_terminal());
    let mut features = host.iter().chain(&process).chain(&target);
    let written = features.try_for_each(|feature| print(&mut out, feature, args.json, colour));
    match written.and_then(|()| out.flush()) {
        // `| head` is a normal end.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(anyhow::Error::new(error).context("failed to write what was found").into());
        }
        _ => {}
    }
    let fails = |feature: &Feature| feature.finding == Finding::Fails;
    if host.iter().any(fails) {
        Err(anyhow::anyhow!("tracing cannot work here").into())
    } else if process.as_ref().is_some_and(fails) {
        Err(anyhow::anyhow!("this process cannot be traced").into())
    } else if target.as_ref().is_some_and(fails) {
        Err(anyhow::anyhow!("there is nothing to trace in this target").into())
    } else {
        Ok(())
    }
}

fn print(out: &mut impl io::Write, feature: &Feature, json: bool, colour: bool) -> io::Result<()> {
    let (word, code) = match feature.finding {
        Finding::Works => ("works", "32"),
        Finding::Degraded => ("degraded", "33"),
        Finding::Fails => ("fails", "31"),
    };
    let Feature { name, means, .. } = feature;
    if json {
        let line = Line { r#type: "feature", feature: name, finding: word, means };
        writeln!(out, "{}", serde_json::to_string(&line)?)
    } else if colour {
        writeln!(out, "\x1b[{code}m{word:<9}\x1b[0m {name}: {means}")
    } else {
        writeln!(out, "{word:<9} {name}: {means}")
    }
}

fn look_at_process(pid: Pid) -> Feature {
    let feature = |finding, means| Feature { name: "process", finding, means };
    let comm = match process::comm(pid) {
        Ok(comm) => comm.to_string_lossy().escape_debug().to_string(),
        Err(error) => {
            return feature(Finding::Fails, format!("cannot look at process {pid}: {error}"));
        }
    };
    if process::is_kernel_thread(pid).unwrap_or(false) {
        let means = format!("{pid} ({comm}) is a thread of the kernel: it runs no code of a file");
        return feature(Finding::Fails, means);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let seccomp_filter =
        status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|v| v.trim() == "2"));
    if seccomp_filter {
        return feature(
            Finding::Degraded,
            format!(
                "{pid} ({comm}) runs under a seccomp filter; on x86-64 kernels from 6.11 to about \
                 6.13 a return probe there kills it: trace entries only"
            ),
        );
    }
    feature(Finding::Works, format!("{pid} ({comm}) can be traced"))
}

fn look_at_target(target: &str, pid: Option<Pid>) -> Feature {
    let feature = |finding, means| Feature { name: "target", finding, means };
    let mut resolver = Resolver::new(pid.map_or(View::Host, View::Process));
    match resolver.list(target, None) {
        Err(error) => feature(Finding::Fails, error.to_string()),
        Ok(listing) => {
            let total = listing.functions.len();
            let not = listing.functions.iter().filter(|f| f.unprobeable.is_some()).count();
            let path = listing.file.shown_path().display().to_string();
            if listing.file.has_local_symbols() {
                feature(
                    Finding::Works,
                    format!("{path}: {} can be probed, {not} cannot", functions(total - not)),
                )
            } else {
                feature(
                    Finding::Degraded,
                    format!(
                        "{path} is stripped: only its exports can be probed, {} (install its \
                         debug symbols to see the rest)",
                        functions(total - not)
                    ),
                )
            }
        }
    }
}

fn functions(count: usize) -> String {
    format!("{count} function{}", if count == 1 { "" } else { "s" })
}
