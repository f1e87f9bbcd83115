//! Attaching through the library, for tests that examine what the command line hides.

use std::path::Path;

use faultline_engine::kernel::{Features, LoadOptions, Programs};
use faultline_plan::{self as plan, AttachPlan, ProbeId};
use faultline_resolve::{Pid, Resolver, View};
use tracer_common::Action;

/// Words of `FAULTLINE_ASSUME`: the kernels that faultline runs on, as far as this one can stand in for
/// them.
pub const ASSUMPTIONS: [&str; 4] = ["", "no-pid-filter", "no-multi", "no-multi,no-sleepable"];

/// This kernel's features, minus those that it should pretend to lack.
pub fn features(assume: &str) -> Features {
    let words = assume.split(',').filter(|word| !word.is_empty());
    words.fold(Features::probe().unwrap(), |features, word| features.without(word).unwrap())
}

/// The plan of some functions of a program, each written as after `PROGRAM:`.
pub fn plan_of(program: &Path, functions: &[&str]) -> AttachPlan {
    let mut resolver = Resolver::new(View::Host);
    let resolutions = super::live::probes_of(program, functions);
    let resolutions = resolutions.iter().map(|probe| resolver.resolve(&probe.parse().unwrap()));
    let read_code =
        |probe: &faultline_resolve::ResolvedProbe| probe.file.read_code(probe.offset, 16).ok();
    plan::plan(
        resolutions.collect::<Result<_, _>>().unwrap(),
        &read_code,
        plan::PlanOptions::default(),
    )
}

/// Loads the plan's programs, with a small buffer, for one process or all.
pub fn load(plan: &AttachPlan, pid: Option<Pid>, features: Features) -> Programs {
    let options = LoadOptions {
        pids: pid.into_iter().collect(),
        ..LoadOptions::new(Action::Events, features)
    };
    Programs::load(plan, &options).unwrap()
}

/// The probes of functions whose names end in this.
pub fn ids(plan: &AttachPlan, chosen: impl Fn(&str) -> bool) -> Vec<ProbeId> {
    let probes = plan.probes.iter().enumerate();
    probes.filter(|(_, probe)| chosen(&probe.label)).map(|(id, _)| ProbeId(id as u32)).collect()
}
