//! Which hits are delivered: [`tracer_common::interpret::choice`] with maps and helpers.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
};
use tracer_common::{
    condition::{NO_CONDITION, SAMPLE_ALL},
    counter::Counter,
    interpret::{
        choice::{self, Choice, Judge},
        judge::Judged,
    },
    program::ProbeProgram,
    task::Fate,
};

use crate::{
    condition, maps, regs,
    returns::{Ended, Entered},
    scratch::Scratch,
    stats::{self, Site},
    verifier,
};

/// How often a call retries to take its turn while other calls take theirs.
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
    let mut entry = Entry { site, regs, stack_pointer, scratch };
    choice::at_entry(maps::conditional(), program, &mut entry)
}

/// Decides at a function's return: a [`Fate`], as a number.
#[inline(always)]
pub(crate) fn at_return(
    site: &Site,
    ended: &Ended,
    program: &ProbeProgram,
    entered: &Entered,
    scratch: &mut Scratch,
) -> u8 {
    if !ended.knows_value
        && entered.fate == Fate::Wanted as u32
        && program.return_condition != NO_CONDITION
    {
        return Fate::Undecided as u8;
    }
    let Ended { regs, duration_ns, .. } = *ended;
    let mut ret = Return { site, regs, saved: entered.saved, duration_ns, scratch };
    let at_entry = (entered.fate, entered.saved);
    choice::at_return(maps::conditional(), program, at_entry, &mut ret)
}

/// A hit at an entry, to be judged.
struct Entry<'a> {
    site: &'a Site,
    regs: *const pt_regs,
    stack_pointer: u64,
    scratch: &'a mut Scratch,
}

impl Judge for Entry<'_> {
    #[inline(always)]
    fn judge(&mut self, condition: u32) -> Judged {
        let Self { site, regs, stack_pointer, scratch } = self;
        let registers = regs::arguments(*regs);
        condition::judge(site, registers, *stack_pointer, condition, scratch.judging())
    }

    #[inline(always)]
    fn limited(&mut self) -> u8 {
        limited(self.site)
    }
}

/// A hit at a return, to be judged.
struct Return<'a> {
    site: &'a Site,
    regs: *const pt_regs,
    saved: u32,
    duration_ns: u64,
    scratch: &'a mut Scratch,
}

impl Judge for Return<'_> {
    #[inline(always)]
    fn judge(&mut self, condition: u32) -> Judged {
        let Self { site, regs, saved, duration_ns, scratch } = self;
        let registers = choice::return_registers(regs::return_value(*regs), *duration_ns, *saved);
        condition::judge(site, registers, 0, condition, scratch.judging())
    }

    #[inline(always)]
    fn limited(&mut self) -> u8 {
        limited(self.site)
    }
}

/// Counts a hit that is left out.
#[inline(always)]
pub(crate) fn count(site: &Site, fate: u8) {
    stats::add(site, choice::counter(fate), 1);
    if fate == Fate::Undecided as u8 {
        stats::add(site, Counter::Undecided, 1);
    }
}

/// The fate that sample and rate limit give to a call that matches the condition.
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
    // Other calls took every turn in the meantime.
    false
}
