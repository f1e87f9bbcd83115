//! The clock of the eBPF programs, `bpf_ktime_get_ns`: the host's `CLOCK_MONOTONIC`. And the CPU time that we
//! have used.
//!
//! In a time namespace, `clock_gettime` adds that namespace's offset (`time_namespaces(7)`, Linux 5.6); the
//! programs do not. So the time is read here and nowhere else.

use std::{fs, sync::OnceLock, time::Duration};

/// Nanoseconds of the clock that the eBPF programs read.
pub fn monotonic_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC).saturating_add_signed(-namespace_offset_ns())
}

/// The CPU time that the calling thread has used.
pub(crate) fn thread_time() -> Duration {
    Duration::from_nanos(read_ns(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// The CPU time that all threads of this process have used.
pub(crate) fn process_time() -> Duration {
    Duration::from_nanos(read_ns(libc::CLOCK_PROCESS_CPUTIME_ID))
}

fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes; these clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How far our namespace is ahead of the host. A process cannot leave the time namespace it was started in.
fn namespace_offset_ns() -> i64 {
    static OFFSET_NS: OnceLock<i64> = OnceLock::new();
    *OFFSET_NS.get_or_init(|| {
        // Absent on kernels without time namespaces.
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        offset_ns(&offsets).unwrap_or(0)
    })
}

/// The offset of `CLOCK_MONOTONIC` in `/proc/PID/timens_offsets`: one line per clock, with its name (on
/// Linux 5.6, its number), seconds and nanoseconds.
fn offset_ns(offsets: &str) -> Option<i64> {
    offsets.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        fields.next().filter(|clock| ["monotonic", "1"].contains(clock))?;
        let seconds: i64 = fields.next()?.parse().ok()?;
        let ns: i64 = fields.next()?.parse().ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(ns)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the right clock's offset is found, positive or negative, and `None` where there is no
    /// such line.
    #[test]
    fn offsets() {
        let text = "monotonic     1000000         5\nboottime           7         0\n";
        assert_eq!(offset_ns(text), Some(1_000_000_000_000_005));
        assert_eq!(offset_ns("1 -2 0\n7 3 0\n"), Some(-2_000_000_000));
        assert_eq!(offset_ns(""), None);
        assert_eq!(offset_ns("boottime 7 0\n"), None);
    }
}
