//! Sample, rate limit, and which hits follow their entry.

use proptest::{collection::vec, prelude::*};
use tracer_common::{
    condition::{NO_CONDITION, SAMPLE_ALL, SAVED_UNDECIDED},
    counter::{TIMED_EVERY, timing_weight},
    interpret::{
        choice::{Choice, Judge, at_entry, at_return, is_in_sample, next_due_ns},
        judge::Judged,
    },
    program::ProbeProgram,
    task::Fate,
};

/// A hit with its verdict, if it is to be judged.
struct Hit {
    condition: u32,
    judged: Option<Judged>,
    limited: u8,
}

impl Judge for Hit {
    fn judge(&mut self, condition: u32) -> Judged {
        assert_eq!(condition, self.condition);
        self.judged.unwrap()
    }

    fn limited(&mut self) -> u8 {
        self.limited
    }
}

fn judged() -> impl Strategy<Value = Judged> {
    (any::<bool>(), any::<u16>()).prop_map(|(accepted, saved)| Judged { accepted, saved })
}

fn fate() -> impl Strategy<Value = u8> {
    prop_oneof![Just(Fate::Wanted as u8), Just(Fate::SampledOut as u8), Just(Fate::Throttled as u8)]
}

proptest! {
    /// Check that a return becomes what its entry became, or is judged by itself, and that each hit has
    /// one fate.
    #[test]
    fn a_return_follows_its_entry(
        entry in proptest::option::of(judged()),
        ret in proptest::option::of(judged()),
        limits in (fate(), fate()),
    ) {
        let program = ProbeProgram {
            entry_condition: if entry.is_some() { 3 } else { NO_CONDITION },
            return_condition: if ret.is_some() { 4 } else { NO_CONDITION },
            ..ProbeProgram::default()
        };
        let mut hit = Hit { condition: 3, judged: entry, limited: limits.0 };
        let choice = at_entry(program.judges(), &program, &mut hit);
        let of_entry = (u32::from(choice.call), u32::from(choice.saved));
        let mut hit = Hit { condition: 4, judged: ret, limited: limits.1 };
        let of_return = at_return(program.judges(), &program, of_entry, &mut hit);

        let saved = entry.map_or(0, |judged| judged.saved);
        let rejected = |saved: u16| {
            (if saved & SAVED_UNDECIDED == 0 { Fate::Filtered } else { Fate::Undecided }) as u8
        };
        let (hit, call, expected_return) = match (entry, ret) {
            (Some(Judged { accepted: false, saved }), _) => {
                (rejected(saved), rejected(saved), rejected(saved))
            }
            (_, None) => (limits.0, limits.0, limits.0),
            (_, Some(Judged { accepted: true, .. })) => {
                (Fate::Filtered as u8, Fate::Wanted as u8, limits.1)
            }
            (_, Some(judged)) => {
                (Fate::Filtered as u8, Fate::Wanted as u8, rejected(judged.saved | saved))
            }
        };
        prop_assert_eq!(choice, Choice { hit, call, saved });
        prop_assert_eq!(of_return, expected_return);
    }

    /// Check that a sample of all leaves nothing out, and one of none takes nothing.
    #[test]
    fn all_and_none(random in any::<u32>()) {
        prop_assert!(is_in_sample(random, SAMPLE_ALL));
        prop_assert!(!is_in_sample(random, 0));
    }

    /// Check that no more calls are taken in any stretch of time than the rate allows and a burst, and
    /// that a call is never refused that comes an interval after the last one.
    #[test]
    fn the_rate_holds_over_any_stretch(
        pauses in vec(prop_oneof![0..50u64, 0..5_000u64, 0..1_000_000u64], 1..300),
        interval_ns in 1..10_000u64,
        burst in 0..20u64,
    ) {
        let ahead_ns = burst * interval_ns;
        let (mut due_ns, mut now_ns) = (0, 1_000_000);
        let mut taken: Vec<u64> = Vec::new();
        for pause in pauses {
            now_ns += pause;
            match next_due_ns(due_ns, now_ns, ahead_ns, interval_ns) {
                Some(next) => {
                    due_ns = next;
                    taken.push(now_ns);
                }
                None => {
                    let last = *taken.last().unwrap();
                    prop_assert!(now_ns - last < interval_ns, "refused after {}", now_ns - last);
                }
            }
        }
        for (first, from_ns) in taken.iter().enumerate() {
            for (count, to_ns) in taken[first..].iter().enumerate() {
                let allowed = (to_ns - from_ns + ahead_ns) / interval_ns + 1;
                prop_assert!((count as u64) < allowed, "{} in {}", count + 1, to_ns - from_ns);
            }
        }
    }

    /// Check that the hits for which timings stand are all hits, but for those after the last one.
    #[test]
    fn timings_stand_for_all_hits(hits in 1..100_000u64) {
        let weights: u64 = (0..hits).map(timing_weight).sum();
        // A timing of many stands for those that come after it.
        prop_assert!(weights >= hits && weights < hits + TIMED_EVERY, "{weights} for {hits}");
    }
}
