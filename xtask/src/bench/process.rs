//! Another process, as /proc shows it: its links, its CPU time, its memory.

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};

use anyhow::{Context as _, Result};

use crate::command::{quiet, user_command};

/// The unit of CPU times in /proc: `USER_HZ`, 100 on every architecture that faultline knows.
const TICKS_A_SECOND: f64 = 100.0;

/// A child that does not outlive the measurement, however that ends.
pub(super) struct Guarded(pub(super) Child);

impl Guarded {
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("failed to look whether the tracer has ended")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Fails if it has ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cpu {
    pub(super) user_s: f64,
    pub(super) system_s: f64,
}

impl Cpu {
    /// Of all threads of a process, those that have ended included.
    pub(super) fn of(pid: u32) -> Result<Self> {
        Self::read(&format!("/proc/{pid}/stat"), 14)
    }

    /// Of this process's children that have ended and been waited for.
    pub(super) fn of_own_children() -> Result<Self> {
        Self::read("/proc/self/stat", 16)
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self { user_s: self.user_s - earlier.user_s, system_s: self.system_s - earlier.system_s }
    }

    fn read(file: &str, field: usize) -> Result<Self> {
        let stat = fs::read_to_string(file).with_context(|| format!("failed to read {file}"))?;
        Self::parse(&stat, field).with_context(|| format!("{file} has no field {field}"))
    }

    /// Takes the field of user time, as proc(5) numbers them; that of system time follows.
    fn parse(stat: &str, field: usize) -> Option<Self> {
        // The second field is the name in parentheses, and may hold both blanks and parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(field - 3);
        let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_A_SECOND);
        Some(Self { user_s: seconds()?, system_s: seconds()? })
    }
}

/// The most memory that a process has had resident.
pub(super) fn peak_rss_kib(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&file).with_context(|| format!("failed to read {file}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{file} has no VmHWM"))
}

/// How many uprobe links a process holds. A single probe of bpftrace is a perf link.
pub(super) fn probe_links(pid: u32) -> usize {
    // No such folder: the process has ended, which its owner will notice.
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return 0 };
    folder.flatten().filter(|entry| is_probe_link(&entry.path())).count()
}

fn is_probe_link(fdinfo: &Path) -> bool {
    let Ok(fdinfo) = fs::read_to_string(fdinfo) else { return false };
    fdinfo
        .lines()
        .filter_map(|line| line.strip_prefix("link_type:"))
        .any(|kind| ["uprobe_multi", "uretprobe_multi", "perf"].contains(&kind.trim()))
}

/// Sends SIGINT. std cannot, every shell can.
pub(super) fn interrupt(pid: u32) -> Result<()> {
    quiet(user_command("sh").args(["-c", &format!("kill -INT {pid}")])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the fields are found behind a name that looks like fields.
    #[test]
    fn cpu_times_are_behind_the_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 0 0 150 25 3 4 20 0 2 0 99";
        assert_eq!(Cpu::parse(stat, 14), Some(Cpu { user_s: 1.5, system_s: 0.25 }));
        assert_eq!(Cpu::parse(stat, 16), Some(Cpu { user_s: 0.03, system_s: 0.04 }));
        assert_eq!(Cpu::parse(stat, 40), None);
    }
}
