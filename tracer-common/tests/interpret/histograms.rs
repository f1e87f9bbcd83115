//! Durations and their buckets.

use proptest::prelude::*;
use tracer_common::{
    histogram::{BUCKETS, bucket, lower_bound_ns},
    interpret::Bounds,
};

struct Plain;
impl Bounds for Plain {}

proptest! {
    /// Check that any duration lies within its bucket, which is at most an eighth of it wide, and that
    /// the bound that the verifier wants changes nothing.
    #[test]
    fn a_duration_lies_in_its_bucket(bits in 0..=64u32, noise in any::<u64>()) {
        let duration_ns = noise.checked_shr(64 - bits).unwrap_or(0);
        let index = bucket(duration_ns);
        prop_assert!(index < BUCKETS);
        prop_assert_eq!(Plain::at_most::<{ BUCKETS as u64 - 1 }>(index as u64), index as u64);
        let from_ns = lower_bound_ns(index);
        prop_assert!(from_ns <= duration_ns);
        if index + 1 < BUCKETS {
            let to_ns = lower_bound_ns(index + 1);
            prop_assert!(duration_ns < to_ns);
            prop_assert!((to_ns - from_ns) * 8 <= from_ns.max(8));
        }
    }
}
