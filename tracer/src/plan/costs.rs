//! What hits cost on a machine.

use serde::{Deserialize, Serialize};

use super::{Class, PlannedProbe};

/// Nanoseconds that a hit takes from the traced program, as measured with a program that counts.
/// Writing an event comes on top of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Of an instruction of the class [`Class::Optimised`].
    pub optimised_ns: u64,
    /// [`Class::Emulated`].
    pub emulated_ns: u64,
    /// [`Class::SingleStepped`].
    pub single_stepped_ns: u64,
    /// What a call costs more where its return is traced.
    pub return_ns: u64,
}

impl Costs {
    /// What a call of the probe's function costs; `None` where nobody knows on which instruction
    /// the breakpoint stands.
    #[must_use]
    pub fn of_call(&self, probe: &PlannedProbe) -> Option<u64> {
        let entry_ns = match probe.place?.class {
            Class::Optimised => self.optimised_ns,
            Class::Emulated => self.emulated_ns,
            Class::SingleStepped => self.single_stepped_ns,
        };
        Some(entry_ns + if probe.ret.is_some() { self.return_ns } else { 0 })
    }
}
