//! Which hits are delivered: the user's condition decides first, then the sample, then the rate limit.
//!
//! They decide per call: a return follows its entry, so that both are shown or neither. If the condition
//! can only be judged at the return, the sample and the limit are applied there too, and entries are left
//! out.
//!
//! Fates are numbers here: the programs keep them in memory of which the verifier knows nothing.

use super::judge::Judged;
use crate::{
    condition::{NO_CONDITION, RETURN_DURATION, RETURN_SAVED, RETURN_VALUE, SAVED_UNDECIDED},
    counter::Counter,
    program::{ProbeProgram, REGISTERS},
    task::Fate,
};

/// What was decided at an entry. [`Fate`]s, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What becomes of the entry itself.
    pub hit: u8,
    /// What becomes of the call's return.
    pub call: u8,
    /// What the condition decided and needs at the return.
    pub saved: u16,
}

/// What the decision depends on.
pub trait Judge {
    /// What the condition of this index says of the hit.
    fn judge(&mut self, condition: u32) -> Judged;

    /// The fate that sample and rate limit give to a hit that matches the condition.
    fn limited(&mut self) -> u8;
}

/// Decides at a function's entry.
#[inline(always)]
pub fn at_entry(conditional: bool, program: &ProbeProgram, hit: &mut impl Judge) -> Choice {
    let mut saved = 0;
    if conditional {
        if program.entry_condition != NO_CONDITION {
            let judged = hit.judge(program.entry_condition);
            saved = judged.saved;
            if !judged.accepted {
                let fate = rejected(saved);
                return Choice { hit: fate, call: fate, saved };
            }
        }
        if program.return_condition != NO_CONDITION {
            return Choice { hit: Fate::Filtered as u8, call: Fate::Wanted as u8, saved };
        }
    }
    let fate = hit.limited();
    Choice { hit: fate, call: fate, saved }
}

/// Decides at a function's return: a [`Fate`], as a number. `entry` and `saved` are what was decided
/// at its entry.
#[inline(always)]
pub fn at_return(
    conditional: bool,
    program: &ProbeProgram,
    (entry, saved): (u32, u32),
    hit: &mut impl Judge,
) -> u8 {
    if !conditional || program.return_condition == NO_CONDITION || entry != Fate::Wanted as u32 {
        return entry as u8;
    }
    let judged = hit.judge(program.return_condition);
    if !judged.accepted {
        return rejected(judged.saved | saved as u16);
    }
    hit.limited()
}

/// What a condition finds in the place of registers at a return.
#[inline(always)]
pub fn return_registers(value: u64, duration_ns: u64, saved: u32) -> [u64; REGISTERS] {
    let mut registers = [0; REGISTERS];
    registers[RETURN_VALUE as usize] = value;
    registers[RETURN_DURATION as usize] = duration_ns;
    registers[RETURN_SAVED as usize] = u64::from(saved);
    registers
}

/// The counter of a hit that is left out.
#[inline(always)]
pub fn counter(fate: u8) -> Counter {
    if fate == Fate::SampledOut as u8 {
        Counter::SampledOut
    } else if fate == Fate::Throttled as u8 {
        Counter::Throttled
    } else {
        Counter::Filtered
    }
}

#[inline(always)]
fn rejected(saved: u16) -> u8 {
    if saved & SAVED_UNDECIDED != 0 { Fate::Undecided as u8 } else { Fate::Filtered as u8 }
}

/// Whether a sample has a call with this random number; `below` of [`SAMPLE_ALL`] has all.
///
/// [`SAMPLE_ALL`]: crate::condition::SAMPLE_ALL
#[inline(always)]
pub fn is_in_sample(random: u32, below: u64) -> bool {
    u64::from(random) < below
}

/// When the next call is due if this one is accepted; `None` if this one comes too early.
///
/// This is a token bucket, kept as one number: the time at which the next call is due if all come at
/// just the limit (the generic cell rate algorithm). One number is changed by compare-and-swap, so no
/// lock is needed, and nothing is refilled by a timer.
#[inline(always)]
pub fn next_due_ns(due_ns: u64, now_ns: u64, ahead_ns: u64, interval_ns: u64) -> Option<u64> {
    let ahead = due_ns.saturating_sub(now_ns);
    if ahead > ahead_ns { None } else { Some(now_ns + ahead + interval_ns) }
}
