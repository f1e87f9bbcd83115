//! Converts the kernel's monotonic times to times of day.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::kernel::monotonic_ns;

/// A moment: nanoseconds since 1970-01-01 00:00 UTC, leap seconds not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(pub u64);

/// How far the wall clock is from the monotonic one, as of one moment. Time servers and people
/// move the wall clock, so take a new one for each batch of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    offset_ns: i64,
}

/// How many readings to take to find one that was not interrupted.
const READINGS: usize = 3;

impl Clock {
    /// Compares the two clocks now. Costs a few readings of the vDSO, 0.2 µs.
    #[must_use]
    pub fn now() -> Self {
        let readings = (0..READINGS).filter_map(|_| {
            let before_ns = monotonic_ns();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            let width_ns = monotonic_ns().saturating_sub(before_ns);
            let wall_ns = i64::try_from(wall.as_nanos()).ok()?;
            Some((width_ns, wall_ns.checked_sub_unsigned(before_ns + width_ns / 2)?))
        });
        // The tightest reading is the one that was not interrupted. If the wall clock is set to before
        // 1970, times show as 1970.
        let offset_ns = readings.min_by_key(|(width_ns, _)| *width_ns).map_or(0, |(_, ns)| ns);
        Self { offset_ns }
    }

    /// A clock with a known offset of `CLOCK_REALTIME` from [`monotonic_ns`].
    #[must_use]
    pub const fn with_offset_ns(offset_ns: i64) -> Self {
        Self { offset_ns }
    }

    /// The time of day at a time of [`monotonic_ns`].
    #[must_use]
    pub const fn wall(&self, monotonic_ns: u64) -> WallTime {
        WallTime(monotonic_ns.saturating_add_signed(self.offset_ns))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Check that a clock taken now gives the current time.
    #[test]
    fn now_is_now() {
        let wall = UNIX_EPOCH + Duration::from_nanos(Clock::now().wall(monotonic_ns()).0);
        let apart = SystemTime::now().duration_since(wall).unwrap_or_else(|e| e.duration());
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }

    /// Check that no time overflows, and that a wall clock set to before the machine's start is respected.
    #[test]
    fn extremes() {
        assert_eq!(Clock::with_offset_ns(i64::MAX).wall(u64::MAX), WallTime(u64::MAX));
        assert_eq!(Clock::with_offset_ns(-5).wall(7), WallTime(2));
        assert_eq!(Clock::with_offset_ns(-5).wall(3), WallTime(0));
    }
}
