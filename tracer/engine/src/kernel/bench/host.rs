//! The machine that the figures were measured on.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::super::Features;

/// The machine and its state.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Version of faultline.
    pub faultline: &'static str,
    /// Seconds since 1970.
    pub unix_time_s: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// `x86_64` or `aarch64`.
    pub arch: &'static str,
    /// Model of the first CPU.
    pub cpu_model: String,
    /// CPUs that this program may use.
    pub cpus: usize,
    /// Whether this is a virtual machine; `None` if unknown.
    pub virtualised: Option<bool>,
    /// The hypervisor or machine, as the firmware names it.
    pub machine: Option<String>,
    /// The one-minute load average at the start.
    pub load_average: Option<f64>,
    /// Whether eBPF programs run as machine code.
    pub jit: bool,
    /// Whether one link takes many breakpoints.
    pub multi_links: bool,
    /// Whether programs can be sleepable.
    pub sleepable: bool,
}

impl Host {
    pub(super) fn look(features: Features, cpus: usize) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let info = read("/proc/cpuinfo").unwrap_or_default();
        let value = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let machine = read("/sys/class/dmi/id/sys_vendor")
            .into_iter()
            .chain(read("/sys/class/dmi/id/product_name"))
            .collect::<Vec<_>>()
            .join(" ");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let load = read("/proc/loadavg");
        Self {
            faultline: env!("CARGO_PKG_VERSION"),
            unix_time_s: now.as_ref().map_or(0, Duration::as_secs),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            arch: std::env::consts::ARCH,
            cpu_model: value("model name").or_else(|| value("CPU part")).unwrap_or_default(),
            cpus,
            virtualised: virtualised(value("flags").as_deref()),
            machine: (!machine.is_empty()).then_some(machine),
            load_average: load.and_then(|load| load.split(' ').next()?.parse().ok()),
            jit: read("/proc/sys/net/core/bpf_jit_enable").is_none_or(|value| value != "0"),
            multi_links: features.batches(),
            sleepable: features.sleepable,
        }
    }
}

/// x86-64 CPUs say so themselves; elsewhere firmware may.
fn virtualised(flags: Option<&str>) -> Option<bool> {
    if cfg!(target_arch = "x86_64") {
        return Some(flags?.split(' ').any(|flag| flag == "hypervisor"));
    }
    let hints = ["/proc/device-tree/hypervisor", "/sys/hypervisor/type"];
    hints.iter().any(|path| fs::exists(path).unwrap_or(false)).then_some(true)
}
