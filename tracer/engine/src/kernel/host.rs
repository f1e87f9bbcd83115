//! What this machine makes of breakpoints: tried and measured once, and kept for as long as it is the
//! same machine.

use std::{fs, io::Write as _, sync::OnceLock};

use serde::{Deserialize, Serialize};

use super::{calibrate::measure_costs, missing_privilege, quirks::try_quirks};
use faultline_plan::{Classes, Costs, KernelQuirks};

/// Where the figures are kept. Whoever cannot write there measures each time.
const FOLDER: &str = "/var/cache/faultline";
const FILE: &str = "/var/cache/faultline/host.json";

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Host {
    costs: Costs,
    quirks: KernelQuirks,
}

/// The same, and on what it was found.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Version of the program, whose own part is in the figures.
    faultline: String,
    kernel: String,
    cpu: String,
    host: Host,
}

/// What hits cost on this machine, from an earlier run or measured now, which takes a fraction of a
/// second; `None` without the privileges for that.
pub fn costs() -> Option<Costs> {
    host().map(|host| host.costs)
}

/// What this machine's kernel makes of instructions, as measured, or as is usual.
pub fn classes() -> Classes {
    costs().map_or_else(Classes::assumed, |costs| costs.classes())
}

/// What can hurt a traced program on this kernel, as tried; nothing without the privileges for that.
pub fn quirks() -> KernelQuirks {
    host().map(|host| host.quirks).unwrap_or_default()
}

fn host() -> Option<Host> {
    static HOST: OnceLock<Option<Host>> = OnceLock::new();
    *HOST.get_or_init(kept_or_measured)
}

fn kept_or_measured() -> Option<Host> {
    let (kernel, cpu) = (kernel()?, cpu());
    let faultline = env!("CARGO_PKG_VERSION");
    let is_ours = |kept: &Kept| {
        (kept.faultline.as_str(), &kept.kernel, &kept.cpu) == (faultline, &kernel, &cpu)
    };
    let kept: Option<Kept> =
        fs::read(FILE).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(kept) = kept.filter(is_ours) {
        return Some(kept.host);
    }
    if missing_privilege().is_some() {
        return None;
    }
    let measured = measure_costs()
        .and_then(|costs| Ok(Host { costs, quirks: try_quirks()? }))
        .inspect_err(|error| tracing::warn!("failed to measure what a hit costs: {error:#}"));
    let host = measured.ok()?;
    let kept = Kept { faultline: faultline.to_owned(), kernel, cpu, host };
    if let Err(error) = keep(&kept) {
        tracing::debug!("failed to write {FILE}: {error}");
    }
    Some(host)
}

fn keep(kept: &Kept) -> std::io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    // Whoever reads meanwhile finds the old one or the new one.
    let aside = format!("{FOLDER}/.host.{}", std::process::id());
    // The folder may be the daemon's, who is not root: what it has put there is not written through.
    let mut file = fs::File::create_new(&aside)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    fs::rename(&aside, FILE)
}

/// Release and build of the kernel.
fn kernel() -> Option<String> {
    let read = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    Some(format!("{} {}", read("osrelease")?.trim(), read("version")?.trim()))
}

/// Model and microcode of the first CPU.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let names = ["model name", "microcode", "CPU part"];
    names.into_iter().filter_map(value).collect::<Vec<_>>().join(" ")
}
