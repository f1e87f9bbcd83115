//! Probes on functions of our own, for tests and measurements.

use std::sync::Arc;

use tracer_common::program::ProbeProgram;

use faultline_plan::{
    AttachPlan, Classes, Conditions, Form, Place, PlannedFile, PlannedProbe, ProbeId, WatchedReturn,
};
use faultline_resolve::{FileOffset, Pid, Resolver, View, process};

/// Defines functions in assembly: of each name a row of so many with the same instructions, which begin at
/// multiples of so many bytes. The code that refers to them may end up in another codegen unit, so their
/// symbols are global within this program and hidden from everything else.
macro_rules! functions {
    (of_each: $count:literal, apart: $bytes:literal; $($name:literal: $($instruction:literal),+;)+) => {
        core::arch::global_asm!($(concat!(
            ".balign 64\n", ".globl ", $name, "\n", ".hidden ", $name, "\n", $name, ":\n",
            ".rept ", $count, "\n", ".balign ", $bytes, "\n",
            $($instruction, "\n",)+
            ".endr\n",
        ),)+ ".balign 64");
    };
}
pub(super) use functions;

/// A probe on our own function at an address, without arguments or return.
pub(super) fn probe(label: &str, address: usize) -> anyhow::Result<PlannedProbe> {
    let address = address as u64;
    let mapping = process::maps(Pid::own())?
        .into_iter()
        .find(|mapping| (mapping.start.0..mapping.end.0).contains(&address))
        .ok_or_else(|| anyhow::anyhow!("our own code is not mapped"))?;
    Ok(PlannedProbe {
        label: label.into(),
        doubtful: false,
        function: None,
        function_bytes: None,
        place: Place::unmoved(Form::Other, &Classes::assumed()),
        offset: FileOffset(address - mapping.start.0 + mapping.offset.0),
        args: Vec::new(),
        ret: None,
        watched: WatchedReturn::Kernel,
        symbols: Vec::new(),
        program: ProbeProgram::default(),
    })
}

/// A plan of such probes.
pub(super) fn plan(probes: Vec<PlannedProbe>) -> anyhow::Result<AttachPlan> {
    let file = Resolver::new(View::Host).target("/proc/self/exe")?;
    let ids = (0..probes.len() as u32).map(ProbeId).collect();
    Ok(AttachPlan {
        probes,
        files: vec![PlannedFile { file: Arc::clone(&file), probes: ids }],
        skipped: Vec::new(),
        conditions: Conditions::default(),
    })
}
