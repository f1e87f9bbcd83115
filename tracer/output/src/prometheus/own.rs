//! The tracer's own CPU time, memory and descriptors.

use std::{fs, sync::OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// CPU, memory and descriptors of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OwnUse {
    /// CPU time, user and system.
    pub cpu_seconds: f64,
    /// Memory in use.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// When it was started, in seconds since 1970.
    pub start_seconds: f64,
}

impl OwnUse {
    /// Reads `/proc/self`.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| {
            fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        // SAFETY: the calls have no preconditions.
        let tick = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
        // SAFETY: as above.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        Self {
            cpu_seconds: (field(14) + field(15)) as f64 / tick,
            resident_bytes: field(24) * page,
            virtual_bytes: field(23),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            start_seconds: boot_seconds() as f64 + field(22) as f64 / tick,
        }
    }
}

/// When the system was booted; it never changes.
fn boot_seconds() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    })
}

/// Writes it, under the names that all exporters use.
#[derive(Debug)]
pub(super) struct OwnCollector;

impl Collector for OwnCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let own = OwnUse::now();
        let seconds = ConstCounter::new(own.cpu_seconds);
        seconds.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            None,
            MetricType::Counter,
        )?)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                own.resident_bytes as f64,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                own.virtual_bytes as f64,
            ),
            ("process_open_fds", "Number of open file descriptors", own.open_fds as f64),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                own.start_seconds,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let build = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)];
        encoder
            .encode_descriptor(
                "faultline_build",
                "The program that serves this",
                None,
                MetricType::Info,
            )?
            .encode_info(&build.as_slice())
    }
}
