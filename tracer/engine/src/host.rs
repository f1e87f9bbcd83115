//! How this machine handles breakpoints. Tried and measured once; the result is kept until the machine
//! changes.

use std::{fs, io::Write as _};

use serde::{Deserialize, Serialize};

use crate::kernel::{
    Features, KernelError, measure_costs, missing_privilege, task_name_at, try_quirks,
};
use faultline_plan::{Classes, Costs, KernelQuirks};

/// Where the figures are kept. A process that cannot write there measures every time.
const FOLDER: &str = "/var/cache/faultline";
const FILE: &str = "/var/cache/faultline/host.json";

/// Changes when different figures are kept, or when they change their meaning. 2: longer nops, and forms
/// that the kernel refuses. 3: `ret`. 4: where a task's name is.
const FIGURES: u32 = 4;

/// This machine: what its kernel offers, what a breakpoint costs, and which kernel bugs it has. Make it
/// once and pass it on.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    features: Option<Features>,
    measured: Option<Measured>,
}

impl Host {
    /// Asks the kernel, and reads what an earlier run measured. Without such figures it measures now, which
    /// takes a fraction of a second. Call this before attaching any probe: probes would distort the
    /// measurement.
    #[must_use]
    pub fn detect() -> Self {
        let measured = kept_or_measured();
        let task_name_at = measured.and_then(|measured| measured.task_name_at);
        let features = Features::probe().ok();
        Self { features: features.map(|found| Features { task_name_at, ..found }), measured }
    }

    /// What the kernel offers.
    ///
    /// # Errors
    ///
    /// [`KernelError::Features`] without the privileges to ask.
    pub fn features(&self) -> Result<Features, KernelError> {
        self.features.map_or_else(Features::probe, Ok)
    }

    /// The same host with other features, to test the fallbacks for older kernels.
    #[must_use]
    pub fn with_features(self, features: Features) -> Self {
        Self { features: Some(features), ..self }
    }

    /// What a hit costs; `None` without the privileges to measure it.
    #[must_use]
    pub fn costs(&self) -> Option<Costs> {
        self.measured.map(|measured| measured.costs)
    }

    /// How the kernel executes each form of instruction under a breakpoint: as measured, or else the usual
    /// classes.
    #[must_use]
    pub fn classes(&self) -> Classes {
        self.costs().map_or_else(Classes::assumed, |costs| costs.classes())
    }

    /// Kernel bugs that can hurt a traced program, found by trying. Without the privileges to try, none are
    /// listed.
    #[must_use]
    pub fn quirks(&self) -> KernelQuirks {
        self.measured.map(|measured| measured.quirks).unwrap_or_default()
    }
}

/// The results of measuring and trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    costs: Costs,
    quirks: KernelQuirks,
    /// See [`Features::task_name_at`].
    task_name_at: Option<u64>,
}

/// The same, with the machine it was found on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Which figures these are: those of another number are measured again.
    figures: u32,
    /// Version of this program: its own share is part of the figures.
    faultline: String,
    kernel: String,
    cpu: String,
    host: Measured,
}

fn kept_or_measured() -> Option<Measured> {
    let (kernel, cpu) = (kernel()?, cpu());
    let faultline = env!("CARGO_PKG_VERSION");
    let is_ours = |kept: &Kept| {
        kept.figures == FIGURES
            && (kept.faultline.as_str(), &kept.kernel, &kept.cpu) == (faultline, &kernel, &cpu)
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
        .and_then(|costs| {
            let task_name_at = task_name_at();
            Ok(Measured { costs, quirks: try_quirks()?, task_name_at })
        })
        .inspect_err(|error| tracing::warn!("failed to measure what a hit costs: {error:#}"));
    let host = measured.ok()?;
    let kept = Kept { figures: FIGURES, faultline: faultline.to_owned(), kernel, cpu, host };
    if let Err(error) = keep(&kept) {
        tracing::debug!("failed to write {FILE}: {error}");
    }
    Some(host)
}

fn keep(kept: &Kept) -> std::io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    // A concurrent reader finds either the old file or the new one.
    let aside = format!("{FOLDER}/.host.{}", std::process::id());
    // The folder may belong to the daemon, which is not root: do not write through a link that it placed
    // there.
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
