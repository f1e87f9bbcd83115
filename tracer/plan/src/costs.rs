//! What hits cost on a machine, and what that says of the kernel.

use serde::{Deserialize, Serialize};

use tracer_common::Action;

use super::{ActionNeeds, Class, Classes, Form, Place, PlannedProbe};

/// Nanoseconds that a hit takes from the traced program, as measured with a program that counts.
/// Reading memory comes on top of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// By the form of the instruction under the breakpoint.
    pub entry_ns: [u64; Form::ALL.len()],
    /// What a call costs more where its return is traced, the programs' own part aside.
    pub return_ns: u64,
    /// What the programs do for a call that is timed.
    pub timing_ns: u64,
    /// What an event of registers alone costs more than a count.
    pub event_ns: u64,
}

impl Costs {
    /// What the kernel makes of each form, as the figures tell.
    ///
    /// Single-stepping costs twice to three times as much as emulating on bare metal, and more than
    /// ten times as much in a virtual machine; replacing a nop by a call about half.
    #[must_use]
    pub fn classes(&self) -> Classes {
        let ns = |form: Form| self.entry_ns[form as usize];
        Classes(Form::ALL.map(|form| {
            let percent_of = |other: Form| ns(form).saturating_mul(100) / ns(other).max(1);
            if percent_of(Form::Other) >= 60 {
                Class::SingleStepped
            } else if form == Form::Nop5 && percent_of(Form::Nop) <= 85 {
                Class::Optimised
            } else if cfg!(target_arch = "aarch64") {
                Class::Simulated
            } else {
                Class::Emulated
            }
        }))
    }

    /// What a hit at a place costs, where the return is not traced.
    #[must_use]
    pub fn of_hit(&self, place: &Place) -> u64 {
        self.entry_ns[place.form as usize]
    }

    /// What a call of the probe's function costs, its return included where that is traced.
    #[must_use]
    pub fn of_call(&self, probe: &PlannedProbe, action: Action) -> u64 {
        let (hits, return_ns) = match probe.ret {
            Some(_) => (2, self.return_ns + self.timing_ns),
            None => (1, 0),
        };
        let event_ns = if ActionNeeds::of(action).records { hits * self.event_ns } else { 0 };
        self.of_hit(&probe.place) + return_ns + event_ns
    }

    /// What the breakpoints of a probe cost, without what the programs do there.
    #[must_use]
    pub fn of_breakpoints(&self, probe: &PlannedProbe) -> BreakpointCosts {
        BreakpointCosts { entry_ns: self.of_hit(&probe.place), return_ns: self.return_ns }
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
    /// Of so many hits.
    #[must_use]
    pub fn of_hits(self, entries: u64, returns: u64) -> u64 {
        let entries_ns = self.entry_ns.saturating_mul(entries);
        entries_ns.saturating_add(self.return_ns.saturating_mul(returns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(entry_ns: [u64; 6]) -> [Class; 6] {
        Costs { entry_ns, ..Costs::default() }.classes().0
    }

    /// Check that classes follow from figures as they were measured: in a virtual machine with 6.18,
    /// on bare metal (the kernel's own bench), and on a kernel that knows no five-byte nop.
    #[test]
    fn classes_follow_from_figures() {
        use Class::{Emulated, Optimised, SingleStepped};
        let usual = [Optimised, Emulated, Emulated, Emulated, SingleStepped, SingleStepped];
        assert_eq!(classes([480, 650, 700, 680, 9_300, 9_400]), usual);
        assert_eq!(classes([137, 316, 333, 330, 905, 910]), usual);
        let old = [SingleStepped, Emulated, Emulated, Emulated, SingleStepped, SingleStepped];
        assert_eq!(classes([9_200, 650, 700, 680, 9_300, 9_400]), old);
        assert_eq!(classes([640, 650, 700, 680, 9_300, 9_400])[0], Emulated);
    }
}
