//! What hits cost on a machine, and what that says about its kernel.

use serde::{Deserialize, Serialize};

use tracer_common::Action;

use super::{ActionNeeds, Class, Classes, Form, Place, PlannedProbe};

/// Nanoseconds that a hit takes from the traced program, as measured with a program that counts.
/// Reading memory comes on top of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// By the form of the instruction under the breakpoint; `None` where the kernel refuses one.
    pub entry_ns: [Option<u64>; Form::ALL.len()],
    /// What tracing the return adds to a call, without the programs' own part.
    pub return_ns: u64,
    /// What the programs do for a call that is timed.
    pub timing_ns: u64,
    /// What an event with registers only adds to a count.
    pub event_ns: u64,
}

impl Costs {
    /// How the kernel runs each form, judged by the figures.
    ///
    /// Single-stepping costs two to three times as much as emulation on bare metal, and more than ten
    /// times as much in a virtual machine; a nop that is replaced by a call costs about half.
    #[must_use]
    pub fn classes(&self) -> Classes {
        let ns = |form: Form| self.of_form(form).unwrap_or(0);
        Classes(Form::ALL.map(|form| {
            let Some(own_ns) = self.of_form(form) else { return Class::Refused };
            let percent_of = |other: Form| own_ns.saturating_mul(100) / ns(other).max(1);
            let may_be_call = matches!(form, Form::Nop5 | Form::Nop10);
            if percent_of(Form::Other) >= 60 {
                Class::SingleStepped
            } else if may_be_call && percent_of(Form::Nop) <= 85 {
                Class::Optimised
            } else if cfg!(target_arch = "aarch64") {
                Class::Simulated
            } else {
                Class::Emulated
            }
        }))
    }

    /// What a hit at an instruction of this form costs; `None` where the kernel refuses the
    /// breakpoint.
    #[must_use]
    pub fn of_form(&self, form: Form) -> Option<u64> {
        self.entry_ns[form as usize]
    }

    /// What a hit at a place costs if the return is not traced; 0 where the kernel refuses the
    /// breakpoint.
    #[must_use]
    pub fn of_hit(&self, place: &Place) -> u64 {
        self.of_form(place.form).unwrap_or(0)
    }

    /// What a call of the probe's function costs, including its return if that is traced.
    #[must_use]
    pub fn of_call(&self, probe: &PlannedProbe, action: Action) -> u64 {
        let (hits, return_ns) = match probe.ret {
            Some(_) => (2, self.of_return(probe) + self.timing_ns),
            None => (1, 0),
        };
        let event_ns = if ActionNeeds::of(action).records { hits * self.event_ns } else { 0 };
        self.of_hit(&probe.place) + return_ns + event_ns
    }

    /// What the breakpoints of a probe cost, without what the programs do there.
    #[must_use]
    pub fn of_breakpoints(&self, probe: &PlannedProbe) -> BreakpointCosts {
        BreakpointCosts { entry_ns: self.of_hit(&probe.place), return_ns: self.of_return(probe) }
    }

    /// What the return adds to a call: at the dearest exit if it is watched there.
    fn of_return(&self, probe: &PlannedProbe) -> u64 {
        let exits = probe.exits().iter().map(|exit| self.of_form(exit.form).unwrap_or(0));
        if probe.replaces_return() { self.return_ns } else { exits.max().unwrap_or(0) }
    }
}

/// Nanoseconds that the breakpoints of a probe cost a hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BreakpointCosts {
    /// At the entry.
    pub entry_ns: u64,
    /// At the return.
    pub return_ns: u64,
}

impl BreakpointCosts {
    /// Of this many hits.
    #[must_use]
    pub fn of_hits(self, entries: u64, returns: u64) -> u64 {
        let entries_ns = self.entry_ns.saturating_mul(entries);
        entries_ns.saturating_add(self.return_ns.saturating_mul(returns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(first: [u64; 6], longer_nops: [Option<u64>; 8]) -> [Class; Form::ALL.len()] {
        let ret = [Some(first[5])];
        let all: Vec<_> = first.map(Some).into_iter().chain(longer_nops).chain(ret).collect();
        Costs { entry_ns: all.try_into().unwrap(), ..Costs::default() }.classes().0
    }

    /// Check that classes follow from figures as they were measured: in a virtual machine with 6.18,
    /// on bare metal (the kernel's own bench), and on a kernel that knows no five-byte nop.
    #[test]
    fn classes_follow_from_figures() {
        use Class::{Emulated, Optimised, SingleStepped};
        let usual = [Optimised, Emulated, Emulated, Emulated, SingleStepped, SingleStepped];
        let none = [None; 8];
        assert_eq!(classes([480, 650, 700, 680, 9_300, 9_400], none)[..6], usual);
        assert_eq!(classes([137, 316, 333, 330, 905, 910], none)[..6], usual);
        let old = [SingleStepped, Emulated, Emulated, Emulated, SingleStepped, SingleStepped];
        assert_eq!(classes([9_200, 650, 700, 680, 9_300, 9_400], none)[..6], old);
        assert_eq!(classes([640, 650, 700, 680, 9_300, 9_400], none)[0], Emulated);
    }

    /// Check that each longer nop has the class that its own figure says: on 6.18, where one of nine
    /// bytes is single-stepped and one of ten is refused, and on 7.2, where that one becomes a call.
    #[test]
    fn longer_nops_have_their_own_classes() {
        use Class::{Emulated, Optimised, Refused, SingleStepped};
        let first = [190, 400, 420, 410, 15_300, 15_200];
        let on_6_18 = [400, 405, 400, 410, 400, 420, 15_400].map(Some);
        let with = |last| {
            let mut all = [None; 8];
            all[..7].copy_from_slice(&on_6_18);
            all[7] = last;
            classes(first, all)
        };
        let emulated = [Emulated; 6];
        assert_eq!(with(None)[6..12], emulated);
        assert_eq!(with(None)[12..], [SingleStepped, Refused, SingleStepped]);
        assert_eq!(with(Some(200))[13], Optimised);
        assert_eq!(with(Some(400))[13], Emulated);
    }
}
