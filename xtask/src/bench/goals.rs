//! The goals for speed, and whether a run reached them.

use super::cases::{BPFTRACE, EMPTY, FAULTLINE, Group};
use super::report::Figures;

/// A goal and what was measured.
pub(super) struct Goal {
    pub(super) goal: &'static str,
    pub(super) measured: String,
    pub(super) reached: bool,
}

/// The goals are about one u64 argument, printed.
pub(super) fn goals(figures: &Figures<'_>) -> Vec<Goal> {
    let case = |name| figures.case(Group::Number, name);
    let (Some(empty), Some(faultline), Some(bpftrace)) =
        (case(EMPTY), case(FAULTLINE), case(BPFTRACE))
    else {
        return Vec::new();
    };
    let dropped = faultline.lost();
    let to_bpftrace = faultline.ns_ratio(&bpftrace);
    let to_empty = faultline.ns_ratio(&empty);
    let user = faultline.user_ratio(&bpftrace);
    vec![
        Goal {
            goal: "no event is dropped",
            measured: format!("at most {:.0} of the events of a round", dropped.max),
            reached: dropped.max == 0.0,
        },
        Goal {
            goal: "the target runs no longer than under bpftrace printing the same",
            measured: format!("{} times as long", to_bpftrace.text(2)),
            reached: to_bpftrace.median <= 1.0,
        },
        Goal {
            goal: "the tracer's user CPU seconds are at most 1/3 of bpftrace's",
            measured: format!("{} of bpftrace's", user.text(2)),
            reached: user.median <= 1.0 / 3.0,
        },
        Goal {
            goal: "a call takes at most 1.3 times as long as with an empty BPF program",
            measured: format!("{} times as long", to_empty.text(2)),
            reached: to_empty.median <= 1.3,
        },
    ]
}
