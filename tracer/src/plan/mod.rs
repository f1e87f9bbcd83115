//! From resolved probes to an [`AttachPlan`]: where each breakpoint goes and what each probe
//! reads. Pure: what it must know of the machine is handed to it.

mod build;
mod instruction;
mod obstacle;
mod program;
#[cfg(test)]
pub(crate) mod testbed;

use std::sync::Arc;

use tracer_common::program::ProbeProgram;

pub use self::{
    build::{ReadCode, plan},
    obstacle::{NotPlanned, Obstacle},
    program::{DEFAULT_BYTES, DEFAULT_STR_BYTES},
};
use crate::{
    resolve::{FileOffset, ObjectFile},
    spec::ValueType,
};

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
    /// Functions that cannot be probed, with the reason.
    pub skipped: Vec<NotPlanned>,
}

/// A file with probes.
#[derive(Debug)]
pub struct PlannedFile {
    /// The file, held open: it is attached to as it was parsed, whatever becomes of its path.
    pub file: Arc<ObjectFile>,
    /// Its probes.
    pub probes: Vec<ProbeId>,
}

/// One probe.
#[derive(Debug)]
pub struct PlannedProbe {
    /// `FILE:SYMBOL[+0xOFFSET]`, as output names it.
    pub label: Arc<str>,
    /// Where the breakpoint goes.
    pub offset: FileOffset,
    /// The kernel may well refuse the breakpoint: it is tried apart from the others.
    pub doubtful: bool,
    /// The entry's named arguments, by slot.
    pub args: Vec<PlannedValue>,
    /// The return value: present if the return is traced.
    pub ret: Option<ValueType>,
    /// The same, as the eBPF program reads it.
    pub program: ProbeProgram,
}

/// A value that a probe reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedValue {
    /// Its name.
    pub name: Arc<str>,
    /// How it is shown.
    pub ty: ValueType,
}
