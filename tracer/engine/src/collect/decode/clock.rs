//! The kernel's monotonic times as times of day.

use std::io;

/// A moment: nanoseconds since 1970-01-01 00:00 UTC, leap seconds not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(pub u64);

/// How far the wall clock is from the monotonic one, as of one moment. Time servers and people
/// move the wall clock, so take a new one for each batch of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    offset_ns: i64,
}

/// Readings that are taken to find one that nothing interrupted.
const READINGS: usize = 3;

impl Clock {
    /// Compares the two clocks now. Costs a few readings of the vDSO, 0.2 µs.
    #[must_use]
    pub fn now() -> Self {
        let readings = (0..READINGS).filter_map(|_| {
            let before = read(libc::CLOCK_MONOTONIC).ok()?;
            let wall = read(libc::CLOCK_REALTIME).ok()?;
            let after = read(libc::CLOCK_MONOTONIC).ok()?;
            let width_ns = after - before;
            Some((width_ns, wall - (before + width_ns / 2)))
        });
        // The tightest reading is the one that was not interrupted in its middle. Linux cannot
        // fail to read these clocks; if it did, times would show as 1970.
        let offset_ns = readings.min_by_key(|(width_ns, _)| *width_ns).map_or(0, |(_, ns)| ns);
        Self { offset_ns }
    }

    /// A clock with a known offset `CLOCK_REALTIME - CLOCK_MONOTONIC`.
    #[must_use]
    pub const fn with_offset_ns(offset_ns: i64) -> Self {
        Self { offset_ns }
    }

    /// The time of day at a time of `CLOCK_MONOTONIC`.
    #[must_use]
    pub const fn wall(&self, monotonic_ns: u64) -> WallTime {
        WallTime(monotonic_ns.saturating_add_signed(self.offset_ns))
    }
}

fn read(clock: libc::clockid_t) -> io::Result<i64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    /// Check that a clock taken now says the time that it is.
    #[test]
    fn now_is_now() {
        let monotonic_ns = u64::try_from(read(libc::CLOCK_MONOTONIC).unwrap()).unwrap();
        let wall = UNIX_EPOCH + Duration::from_nanos(Clock::now().wall(monotonic_ns).0);
        let apart = SystemTime::now().duration_since(wall).unwrap_or_else(|e| e.duration());
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }

    /// Check that no time overflows, and that a wall clock set before the machine's start is kept.
    #[test]
    fn extremes() {
        assert_eq!(Clock::with_offset_ns(i64::MAX).wall(u64::MAX), WallTime(u64::MAX));
        assert_eq!(Clock::with_offset_ns(-5).wall(7), WallTime(2));
        assert_eq!(Clock::with_offset_ns(-5).wall(3), WallTime(0));
    }
}
