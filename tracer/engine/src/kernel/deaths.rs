//! Reads what traced processes died of, as the eBPF programs noted it.

use aya::maps::{HashMap, MapData};
use tracer_common::death::Death;

/// The deaths that were noted and not taken yet.
#[derive(Debug)]
pub struct Deaths(HashMap<MapData, u32, Death>);

impl Deaths {
    pub(super) fn new(deaths: HashMap<MapData, u32, Death>) -> Self {
        Self(deaths)
    }

    /// Takes them out, each with its process as the user sees it; 0 if it is outside of faultline's PID
    /// namespace.
    pub fn take(&mut self) -> Vec<(u32, Death)> {
        let all = self.0.iter().flatten().filter(|(_, death)| death.handled == 0);
        let all: Vec<_> = all.collect();
        for (pid, _) in &all {
            let _ = self.0.remove(pid);
        }
        all
    }
}
