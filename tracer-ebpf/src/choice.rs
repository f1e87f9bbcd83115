//! Which hits are wanted: the user's condition first, then the sample, then the rate limit.
//!
//! They choose calls: a return follows its entry, so that both are shown or neither. Where the
//! condition can only be judged at the return, so is the rest, and the entries are not wanted.

use core::arch::asm;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
};
use tracer_common::{
    condition::{
        NO_CONDITION, RETURN_DURATION, RETURN_SAVED, RETURN_VALUE, SAMPLE_ALL, SAVED_UNDECIDED,
    },
    counter::Counter,
    program::{ProbeProgram, REGISTERS},
    task::Fate,
};

use crate::{
    condition, maps, regs,
    returns::Entered,
    scratch::Scratch,
    stats::{self, Site},
};

/// How often a call tries to take its turn while others take theirs.
const TURNS: usize = 8;

/// What was decided at an entry. [`Fate`]s, as numbers.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    /// What becomes of the entry itself.
    pub(crate) hit: u8,
    /// What becomes of the call's return.
    pub(crate) call: u8,
    /// What the condition decided and needs at the return.
    pub(crate) saved: u16,
}

impl Choice {
    /// Decides at a function's entry.
    #[inline(always)]
    pub(crate) fn at_entry(
        site: &Site,
        regs: *const pt_regs,
        program: &ProbeProgram,
        stack_pointer: u64,
        scratch: &mut Scratch,
    ) -> Self {
        let mut saved = 0;
        if maps::conditional() {
            if program.entry_condition != NO_CONDITION {
                let registers = regs::arguments(regs);
                let condition = program.entry_condition;
                let judged =
                    condition::judge(site, registers, stack_pointer, condition, scratch.judging());
                saved = judged.saved;
                if !judged.accepted {
                    let fate = rejected(saved);
                    return Self { hit: fate, call: fate, saved };
                }
            }
            if program.return_condition != NO_CONDITION {
                return Self { hit: Fate::Filtered as u8, call: Fate::Wanted as u8, saved };
            }
        }
        let fate = limited(site);
        Self { hit: fate, call: fate, saved }
    }
}

/// Decides at a function's return: a [`Fate`], as a number.
#[inline(always)]
pub(crate) fn at_return(
    site: &Site,
    regs: *const pt_regs,
    program: &ProbeProgram,
    entered: &Entered,
    duration_ns: u64,
    scratch: &mut Scratch,
) -> u8 {
    if !maps::conditional()
        || program.return_condition == NO_CONDITION
        || entered.fate != Fate::Wanted as u32
    {
        return entered.fate as u8;
    }
    let mut registers = [0; REGISTERS];
    registers[RETURN_VALUE as usize] = regs::return_value(regs);
    registers[RETURN_DURATION as usize] = duration_ns;
    registers[RETURN_SAVED as usize] = u64::from(entered.saved);
    let judged = condition::judge(site, registers, 0, program.return_condition, scratch.judging());
    if !judged.accepted {
        return rejected(judged.saved | entered.saved as u16);
    }
    limited(site)
}

/// Counts a hit that is not wanted.
#[inline(always)]
pub(crate) fn count(site: &Site, fate: u8) {
    let counter = if fate == Fate::SampledOut as u8 {
        Counter::SampledOut
    } else if fate == Fate::Throttled as u8 {
        Counter::Throttled
    } else {
        Counter::Filtered
    };
    stats::add(site, counter, 1);
    if fate == Fate::Undecided as u8 {
        stats::add(site, Counter::Undecided, 1);
    }
}

#[inline(always)]
fn rejected(saved: u16) -> u8 {
    if saved & SAVED_UNDECIDED != 0 { Fate::Undecided as u8 } else { Fate::Filtered as u8 }
}

/// What sample and rate limit make of a call that the condition wants.
#[inline(always)]
fn limited(site: &Site) -> u8 {
    let below = maps::sample_below();
    if below != SAMPLE_ALL {
        // SAFETY: the helper has no preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        if u64::from(random) >= below {
            return Fate::SampledOut as u8;
        }
    }
    if maps::rate_interval_ns() != 0 && !takes_turn(site.probe) {
        return Fate::Throttled as u8;
    }
    Fate::Wanted as u8
}

/// Whether a call of this probe keeps within the rate.
///
/// This is a token bucket, kept as one number: the time at which the next call is due if all come
/// at just the limit (the generic cell rate algorithm). One number is changed by compare-and-swap,
/// so no lock is needed, and nothing is refilled by a timer.
#[inline(always)]
fn takes_turn(probe: u32) -> bool {
    let Some(due) = maps::RATES.get_ptr_mut(probe) else { return false };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    for _ in 0..TURNS {
        // SAFETY: the pointer is to a live, aligned array element; others change it.
        let seen = unsafe { due.read_volatile() };
        let ahead = seen.saturating_sub(now_ns);
        if ahead > maps::rate_ahead_ns() {
            return false;
        }
        let next = now_ns + ahead + maps::rate_interval_ns();
        let mut found = seen;
        // The target's compiler offers no compare-and-swap; the kernel does since 5.12.
        // SAFETY: the pointer is to a live, aligned array element; r0 is what the instruction
        // compares with, and then what it has found.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({0} + 0, r0, {1})",
                in(reg) due,
                in(reg) next,
                inout("r0") found,
                options(nostack),
            );
        }
        if found == seen {
            return true;
        }
    }
    // So many others took a turn meanwhile that there is none left for this one.
    false
}
