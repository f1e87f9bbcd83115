//! Which hits are wanted: [`tracer_common::interpret::choice`] with the maps and helpers of a program.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
};
use tracer_common::{
    condition::SAMPLE_ALL,
    interpret::choice::{self, Choice},
    program::ProbeProgram,
    task::Fate,
};

use crate::{
    condition, maps, regs,
    returns::Entered,
    scratch::Scratch,
    stats::{self, Site},
    verifier,
};

/// How often a call tries to take its turn while others take theirs.
const TURNS: usize = 8;

/// Decides at a function's entry.
#[inline(always)]
pub(crate) fn at_entry(
    site: &Site,
    regs: *const pt_regs,
    program: &ProbeProgram,
    stack_pointer: u64,
    scratch: &mut Scratch,
) -> Choice {
    let judge = |condition| {
        let registers = regs::arguments(regs);
        condition::judge(site, registers, stack_pointer, condition, scratch.judging())
    };
    choice::at_entry(maps::conditional(), program, judge, || limited(site))
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
    let judge = |condition| {
        let value = regs::return_value(regs);
        let registers = choice::return_registers(value, duration_ns, entered.saved);
        condition::judge(site, registers, 0, condition, scratch.judging())
    };
    let at_entry = (entered.fate, entered.saved);
    choice::at_return(maps::conditional(), program, at_entry, judge, || limited(site))
}

/// Counts a hit that is not wanted.
#[inline(always)]
pub(crate) fn count(site: &Site, fate: u8) {
    stats::add(site, choice::counter(fate), 1);
    if fate == Fate::Undecided as u8 {
        stats::add(site, tracer_common::counter::Counter::Undecided, 1);
    }
}

/// The fate that sample and rate limit give to a call that the condition wants.
#[inline(always)]
fn limited(site: &Site) -> u8 {
    let below = maps::sample_below();
    if below != SAMPLE_ALL {
        // SAFETY: the helper has no preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        if !choice::is_in_sample(random, below) {
            return Fate::SampledOut as u8;
        }
    }
    if maps::rate_interval_ns() != 0 && !takes_turn(site.probe) {
        return Fate::Throttled as u8;
    }
    Fate::Wanted as u8
}

/// Whether a call of this probe keeps within the rate.
#[inline(always)]
fn takes_turn(probe: u32) -> bool {
    let Some(due) = maps::RATES.get_ptr_mut(probe) else { return false };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    for _ in 0..TURNS {
        // SAFETY: the pointer is to a live, aligned array element; others change it.
        let seen = unsafe { due.read_volatile() };
        let (ahead_ns, interval_ns) = (maps::rate_ahead_ns(), maps::rate_interval_ns());
        let Some(next) = choice::next_due_ns(seen, now_ns, ahead_ns, interval_ns) else {
            return false;
        };
        // SAFETY: as above.
        if unsafe { verifier::compare_and_swap(due, seen, next) } == seen {
            return true;
        }
    }
    // Others took all the turns that there were meanwhile.
    false
}
