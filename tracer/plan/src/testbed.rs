//! For tests: planned probes from probe syntax, without a file to find them in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test cannot do is a failed test")]

use tracer_common::program::ProbeProgram;

use super::{Classes, Form, Place, PlannedProbe, PlannedValue, WatchedReturn, program::program};
use faultline_resolve::{Arch, FileOffset};
use faultline_spec::{ArgSpec, FunctionPattern, ProbeSpec};

/// The same as [`planned`], with the program that reads its arguments on x86-64.
pub fn programmed(text: &str) -> PlannedProbe {
    let spec: ProbeSpec = text.parse().unwrap();
    let program =
        program(&spec, Arch::X86_64).unwrap_or_else(|reason| panic!("{text}: {reason:?}"));
    PlannedProbe { program, ..planned(text) }
}

/// The probe `FILE:FUNCTION(ARGS) -> TYPE`, labelled `FILE:FUNCTION`, with an empty program.
pub fn planned(text: &str) -> PlannedProbe {
    let spec: ProbeSpec = text.parse().unwrap();
    let FunctionPattern::Name(function) = spec.function else { panic!("`{text}` is a pattern") };
    let args = spec.args.into_iter().filter_map(|arg| match arg {
        ArgSpec::Skip => None,
        ArgSpec::Read { name, ty } => Some(PlannedValue { name: name.into(), ty }),
    });
    PlannedProbe {
        doubtful: false,
        function: None,
        function_bytes: None,
        place: Place::unmoved(Form::Other, &Classes::assumed()),
        label: format!("{}:{function}", spec.target).into(),
        offset: FileOffset(0),
        args: args.collect(),
        ret: spec.ret,
        watched: WatchedReturn::Kernel,
        symbols: Vec::new(),
        program: ProbeProgram::default(),
    }
}
