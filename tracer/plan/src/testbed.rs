//! For tests: planned probes from probe syntax, without a file to find them in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test cannot do is a failed test")]

use tracer_common::program::ProbeProgram;

use super::{Classes, Form, Place, PlannedProbe, PlannedValue};
use faultline_resolve::FileOffset;
use faultline_spec::{ArgSpec, FunctionPattern, ProbeSpec};

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
        function_bytes: None,
        place: Place::unmoved(Form::Other, &Classes::assumed()),
        label: format!("{}:{function}", spec.target).into(),
        offset: FileOffset(0),
        args: args.collect(),
        ret: spec.ret,
        program: ProbeProgram::default(),
    }
}
