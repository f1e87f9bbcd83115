//! Durations, aggregated in the kernel: one histogram per probe.
//!
//! Buckets are log-linear, eight per power of two. So a bucket is at most an eighth as wide as the
//! durations in it are long, and a figure read from it is off by at most 12.5 %.

/// Buckets per power of two.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 3;
/// The exponent that the last bucket begins with: durations of 2^46 ns (19 h) and more share it.
const LAST_EXPONENT: u32 = 46;

/// Number of buckets.
pub const BUCKETS: usize = (LAST_EXPONENT - STEP_BITS + 1) as usize * STEPS as usize + 1;

/// Histograms per probe. Each CPU uses one of them; CPUs whose numbers differ by a multiple of this share
/// one. That bounds both the contention between CPUs and the memory.
pub const SHARDS: u32 = 8;

/// The durations of one probe on some CPUs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// How many fell into each bucket.
    pub buckets: [u64; BUCKETS],
}

/// A histogram's key: the probe's index and a number below [`SHARDS`].
#[inline(always)]
pub const fn key(probe: u32, cpu: u32) -> u64 {
    ((probe as u64) << 32) | (cpu % SHARDS) as u64
}

/// The bucket of a duration.
#[inline(always)]
pub const fn bucket(duration_ns: u64) -> usize {
    if duration_ns < STEPS {
        return duration_ns as usize;
    }
    let exponent = 63 - duration_ns.leading_zeros();
    if exponent >= LAST_EXPONENT {
        return BUCKETS - 1;
    }
    let step = (duration_ns >> (exponent - STEP_BITS)) & (STEPS - 1);
    ((exponent - STEP_BITS + 1) as u64 * STEPS + step) as usize
}

/// The shortest duration of a bucket, in nanoseconds. The bucket ends where the next one begins; the last
/// one has no end.
pub const fn lower_bound_ns(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let exponent = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << exponent
}

const _: () = {
    assert!(BUCKETS == 353);
    assert!(size_of::<Histogram>() == 16 + 8 * BUCKETS);
    // Every bucket begins where the one before ends, and its first duration falls into it.
    let mut index = 0;
    while index < BUCKETS {
        assert!(bucket(lower_bound_ns(index)) == index);
        assert!(index == 0 || bucket(lower_bound_ns(index) - 1) == index - 1);
        index += 1;
    }
};
