//! What this machine makes of breakpoints: tried and measured once, and kept for as long as it is the
//! same machine.

use std::{fs, io::Write as _};

use serde::{Deserialize, Serialize};

use crate::kernel::{Features, KernelError, measure_costs, missing_privilege, try_quirks};
use faultline_plan::{Classes, Costs, KernelQuirks};

/// Where the figures are kept. Whoever cannot write there measures each time.
const FOLDER: &str = "/var/cache/faultline";
const FILE: &str = "/var/cache/faultline/host.json";

/// This machine: what its kernel offers, what a breakpoint costs on it, and what it gets wrong. Made
/// once and passed on.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    features: Option<Features>,
    measured: Option<Measured>,
}

impl Host {
    /// Asks the kernel, and reads what was measured by an earlier run, or measures it now, which takes
    /// a fraction of a second. To be done before anything of ours is attached, which would be in the
    /// way.
    #[must_use]
    pub fn detect() -> Self {
        Self { features: Features::probe().ok(), measured: kept_or_measured() }
    }

    /// What the kernel offers.
    ///
    /// # Errors
    ///
    /// [`KernelError::Features`] without the privileges to ask.
    pub fn features(&self) -> Result<Features, KernelError> {
        self.features.map_or_else(Features::probe, Ok)
    }

    /// The same host with other features, to try the ways that are meant for older kernels.
    #[must_use]
    pub fn with_features(self, features: Features) -> Self {
        Self { features: Some(features), ..self }
    }

    /// What hits cost; `None` without the privileges to measure it.
    #[must_use]
    pub fn costs(&self) -> Option<Costs> {
        self.measured.map(|measured| measured.costs)
    }

    /// What the kernel makes of instructions, as measured, or as is usual.
    #[must_use]
    pub fn classes(&self) -> Classes {
        self.costs().map_or_else(Classes::assumed, |costs| costs.classes())
    }

    /// What can hurt a traced program on this kernel, as tried; nothing without the privileges to try.
    #[must_use]
    pub fn quirks(&self) -> KernelQuirks {
        self.measured.map(|measured| measured.quirks).unwrap_or_default()
    }
}

/// What was measured and tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
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
    host: Measured,
}

fn kept_or_measured() -> Option<Measured> {
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
        .and_then(|costs| Ok(Measured { costs, quirks: try_quirks()? }))
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
