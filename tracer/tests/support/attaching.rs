//! Attaching by the library, where a test wants to look at what the command line hides.

use std::path::Path;

use faultline_engine::kernel::{Features, LoadOptions, Programs};
use faultline_plan::{self as plan, AttachPlan, ProbeId};
use faultline_resolve::{Pid, Resolver, View};
use tracer_common::Action;

/// Words of `FAULTLINE_ASSUME`: the kernels that faultline runs on, as far as this one can be them.
pub const ASSUMPTIONS: [&str; 4] = ["", "no-pid-filter", "no-multi", "no-multi,no-sleepable"];

/// What this kernel offers, without what is to be assumed that it lacks.
pub fn features(assume: &str) -> Features {
    let words = assume.split(',').filter(|word| !word.is_empty());
    words.fold(Features::probe().unwrap(), |features, word| features.without(word).unwrap())
}

/// The plan of some functions of a program: each as after `PROGRAM:`.
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

/// The probes of functions whose names end like this.
pub fn ids(plan: &AttachPlan, chosen: impl Fn(&str) -> bool) -> Vec<ProbeId> {
    let probes = plan.probes.iter().enumerate();
    probes.filter(|(_, probe)| chosen(&probe.label)).map(|(id, _)| ProbeId(id as u32)).collect()
}
