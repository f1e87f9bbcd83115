//! The goals for speed, and whether a run reached them.

use super::cases::{BPFTRACE, EMPTY, FAULTLINE, Group, MANY_BPFTRACE, MANY_FAULTLINE};
use super::measure::Whole;
use super::report::Figures;
use super::sample::Sample;

/// A goal and what was measured.
pub(super) struct Goal {
    pub(super) goal: &'static str,
    pub(super) measured: String,
    pub(super) reached: bool,
}

/// All goals that were measured.
pub(super) fn goals(figures: &Figures<'_>) -> Vec<Goal> {
    let mut goals = printed(figures);
    goals.extend(summed(figures));
    goals.extend(threads(figures));
    goals.extend(many(figures));
    goals
}

/// Those about one u64 argument, printed.
fn printed(figures: &Figures<'_>) -> Vec<Goal> {
    let case = |name| figures.case(Group::Number, name);
    let (Some(empty), Some(faultline), Some(bpftrace)) =
        (case(EMPTY), case(FAULTLINE), case(BPFTRACE))
    else {
        return Vec::new();
    };
    let one_thread = [Group::Number, Group::Text, Group::Return];
    let lost =
        one_thread.iter().filter_map(|group| Some(figures.case(*group, FAULTLINE)?.lost().max));
    let dropped = lost.fold(0.0, f64::max);
    let to_bpftrace = faultline.ns_ratio(&bpftrace);
    let to_empty = faultline.ns_ratio(&empty);
    let user = faultline.user_ratio(&bpftrace);
    vec![
        Goal {
            goal: "no event of one thread is dropped",
            measured: format!("at most {dropped:.0} of the events of a round"),
            reached: dropped == 0.0,
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
            goal: "printed, a call takes at most 1.2 times as long as with an empty BPF program",
            measured: format!("{} times as long", to_empty.text(2)),
            reached: to_empty.median <= 1.2,
        },
    ]
}

/// Those that compare with an empty program.
fn summed(figures: &Figures<'_>) -> Vec<Goal> {
    let goal = |group, goal, most| {
        let case = |name| figures.case(group, name);
        let ratio = case(FAULTLINE)?.ns_ratio(&case(EMPTY)?);
        let measured = format!("{} times as long", ratio.text(2));
        Some(Goal { goal, measured, reached: ratio.median <= most })
    };
    let goals = [
        goal(
            Group::Text,
            "with a string printed, a call takes at most 1.45 times as long as with an empty BPF program",
            1.45,
        ),
        goal(
            Group::Count,
            "counted, a call takes at most 1.03 times as long as with an empty BPF program",
            1.03,
        ),
        goal(
            Group::Latency,
            "timed, a call takes at most 1.12 times as long as with an empty entry + return pair",
            1.12,
        ),
    ];
    goals.into_iter().flatten().collect()
}

/// That about two threads that print at the same time.
fn threads(figures: &Figures<'_>) -> Option<Goal> {
    let scaling = |name| {
        let [one, two] = [Group::Number, Group::Threads].map(|group| figures.case(group, name));
        Some(one?.ns_ratio(&two?))
    };
    let (faultline, bpftrace) = (scaling(FAULTLINE)?, scaling(BPFTRACE)?);
    Some(Goal {
        goal: "two threads that print at once: at least 0.95 of the speed of one, each",
        measured: format!("{} (bpftrace: {})", faultline.text(2), bpftrace.text(2)),
        reached: faultline.median >= 0.95,
    })
}

/// Those about ten thousand functions, counted by a whole process.
fn many(figures: &Figures<'_>) -> Vec<Goal> {
    let goal = |goal, ratio: Option<Sample>, most| {
        let ratio = ratio?;
        let measured = format!("{} of bpftrace's", ratio.text(2));
        Some(Goal { goal, measured, reached: ratio.median <= most })
    };
    let ratio =
        |figure: fn(&Whole) -> f64| figures.process_ratio(MANY_FAULTLINE, MANY_BPFTRACE, figure);
    let goals = [
        goal(
            "10,000 functions are counted from start to end, without a call, in 0.12 of bpftrace's time",
            ratio(|run| run.ms),
            0.12,
        ),
        goal("the same with 0.10 of bpftrace's peak memory", ratio(|run| run.peak_rss_kib), 0.10),
    ];
    goals.into_iter().flatten().collect()
}
