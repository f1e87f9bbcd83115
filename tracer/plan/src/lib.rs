//! From resolved probes to an [`AttachPlan`]: where each breakpoint goes and what each probe reads. Pure:
//! what it needs to know about the machine is passed in.

mod action;
mod build;
mod class;
mod condition;
mod costs;
mod instruction;
mod labels;
mod placement;
mod program;
mod quirks;
mod returns;
mod stack_check;
#[cfg(any(test, feature = "testbed"))]
#[doc(hidden)]
pub mod testbed;

use std::sync::Arc;

use tracer_common::{condition::NO_CONDITION, program::ProbeProgram};

pub use self::{
    action::{ACTIONS, ActionNeeds, specialize},
    build::{Copying, PlanOptions, ReadCode, plan},
    class::{Class, Classes, Form},
    condition::Conditions,
    costs::{BreakpointCosts, Costs},
    labels::sift_labels,
    placement::{Outlook, Pass, Place, ReadPieces, Surveyed, place, survey},
    program::{DEFAULT_BYTES, DEFAULT_STR_BYTES},
    quirks::KernelQuirks,
    returns::{
        Exit, ExitKind, ExitsUnknown, Harm, ReturnChooser, ReturnOptions, Returns, WatchedReturn,
        harm_in,
    },
};
use faultline_resolve::{Arch, FileOffset, ObjectFile, SkipReason, Skipped};
use faultline_spec::ValueType;

/// How long the first instruction of `code` is; 1 if it is none.
#[must_use]
pub fn instruction_bytes(arch: Arch, code: &[u8]) -> u64 {
    instruction::bytes(arch, code)
}

/// A probe's index in the plan: its attach cookie, and the index of its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub u32);

/// What is going to be attached.
#[derive(Debug, Default)]
pub struct AttachPlan {
    /// The probes, by [`ProbeId`].
    pub probes: Vec<PlannedProbe>,
    /// The files that they are in: one link a file, and one more for its returns.
    pub files: Vec<PlannedFile>,
    /// The conditions that the probes' programs name.
    pub conditions: Conditions,
    /// Functions that cannot be probed, with the reason.
    pub skipped: Vec<Skipped>,
}

impl AttachPlan {
    /// The same breakpoints, of which only the hits are counted.
    #[must_use]
    pub fn counting(&self) -> Self {
        let counted = |probe: &PlannedProbe| PlannedProbe {
            args: Vec::new(),
            ret: None,
            program: ProbeProgram::default(),
            ..probe.clone()
        };
        Self {
            probes: self.probes.iter().map(counted).collect(),
            files: self.files.clone(),
            ..Self::default()
        }
    }

    /// Keeps only these probes. Their ids change.
    pub fn retain(&mut self, keep: impl FnMut(&PlannedProbe) -> bool) {
        let kept: Vec<bool> = self.probes.iter().map(keep).collect();
        if kept.iter().all(|kept| *kept) {
            return;
        }
        let mut new = 0;
        let new_ids: Vec<Option<ProbeId>> = kept
            .iter()
            .map(|kept| {
                kept.then(|| {
                    new += 1;
                    ProbeId(new - 1)
                })
            })
            .collect();
        let new_id = |id: &ProbeId| new_ids.get(id.0 as usize).copied().flatten();
        for file in &mut self.files {
            file.probes = file.probes.iter().filter_map(new_id).collect();
        }
        self.files.retain(|file| !file.probes.is_empty());
        let mut kept = kept.into_iter();
        self.probes.retain(|_| kept.next().unwrap_or(true));
    }

    /// The probes on instructions that the kernel refuses and that could not be moved. They stay in the
    /// plan but are not attached.
    pub fn unsupported(&self) -> impl Iterator<Item = Skipped> {
        let probes = self.probes.iter().filter(|probe| !probe.is_supported());
        probes.map(|probe| {
            let label = Arc::clone(&probe.label);
            Skipped { label, reason: SkipReason::Unsupported }
        })
    }

    /// Adds what another plan attaches; the ids that its probes have here.
    pub fn append(&mut self, other: Self) -> std::ops::Range<u32> {
        if self.probes.is_empty() && self.files.is_empty() {
            // Nothing is numbered yet, so nothing needs another number: a million probes are not copied.
            let skipped = std::mem::take(&mut self.skipped);
            *self = other;
            self.skipped.splice(0..0, skipped);
            return 0..self.probes.len() as u32;
        }
        let first = self.probes.len() as u32;
        let conditions = self.conditions.append(other.conditions);
        let place = |index: u32| conditions.get(index as usize).copied().unwrap_or(NO_CONDITION);
        self.probes.extend(other.probes.into_iter().map(|mut probe| {
            probe.program.entry_condition = place(probe.program.entry_condition);
            probe.program.return_condition = place(probe.program.return_condition);
            probe
        }));
        for PlannedFile { file, probes } in other.files {
            let probes = probes.into_iter().map(|id| ProbeId(first + id.0));
            match self.files.iter_mut().find(|known| known.file.id() == file.id()) {
                Some(known) => known.probes.extend(probes),
                None => self.files.push(PlannedFile { file, probes: probes.collect() }),
            }
        }
        self.skipped.extend(other.skipped);
        first..self.probes.len() as u32
    }
}

/// A file with probes.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// The file, held open: it is attached to as it was parsed, whatever becomes of its path.
    pub file: Arc<ObjectFile>,
    /// Its probes.
    pub probes: Vec<ProbeId>,
}

/// One probe.
#[derive(Debug, Clone)]
pub struct PlannedProbe {
    /// `FILE:SYMBOL[+0xOFFSET]`, as output names it.
    pub label: Arc<str>,
    /// The function's names; `None` if a pattern selected it among many.
    pub function: Option<Arc<PlannedFunction>>,
    /// Where the breakpoint goes.
    pub offset: FileOffset,
    /// The function's size, if the breakpoint is at its entry and the symbol says.
    pub function_bytes: Option<u64>,
    /// Where the breakpoint went from there, and what it costs.
    pub place: Place,
    /// The kernel may refuse the breakpoint, so it is attached separately from the others.
    pub doubtful: bool,
    /// The entry's named arguments, by slot.
    pub args: Vec<PlannedValue>,
    /// The return value: present if the return is traced.
    pub ret: Option<ValueType>,
    /// How the return is watched, if it is traced.
    pub watched: WatchedReturn,
    /// The function's names, if its return is traced.
    pub symbols: Vec<Arc<str>>,
    /// The same, as the eBPF program reads it.
    pub program: ProbeProgram,
}

/// What a function is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFunction {
    /// Its raw name.
    pub symbol: Arc<str>,
    /// Its demangled name.
    pub shown: Arc<str>,
    /// Other raw names of it.
    pub aliases: Vec<Arc<str>>,
    /// Its name was written, instead of a pattern.
    pub is_named: bool,
}

impl PlannedProbe {
    /// `false` if the kernel is known to refuse the instruction. It does not check before a process maps
    /// the file, so the probe would be attached and never hit.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.place.class != Class::Refused
    }
}

/// A value that a probe reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedValue {
    /// Its name.
    pub name: Arc<str>,
    /// How it is shown.
    pub ty: ValueType,
}
