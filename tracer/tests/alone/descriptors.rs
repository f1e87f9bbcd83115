//! Attaching leaves no descriptors behind in the process that does it.

use std::fs;

use faultline_engine::kernel::{Features, Links, LoadOptions, Programs, Progress};
use faultline_plan as plan;
use faultline_resolve::{Resolver, View};

use crate::{
    alone,
    support::live::{Puppet, probes_of},
};

/// Check that twenty runs in a row leave no descriptor behind in the process that makes them (a daemon
/// makes many).
#[test]
fn no_descriptors_are_leaked() {
    let _alone = alone();
    let probe = probes_of(&Puppet::program(), &["tick(value: u64) -> u64"]).remove(0);
    let run = || {
        let resolution = Resolver::new(View::Host).resolve(&probe.parse().unwrap()).unwrap();
        let plan = plan::plan(
            vec![resolution],
            &|probe| probe.file.read_code(probe.offset, 16).ok(),
            plan::PlanOptions::default(),
        );
        let options = LoadOptions {
            begin_at_exec: true,
            ..LoadOptions::new(tracer_common::Action::Events, Features::probe().unwrap())
        };
        let progress = Progress::default();
        let mut programs = Programs::load(&plan, &options).unwrap();
        let (links, report) = Links::attach_plan(&programs, &plan, None, &progress).unwrap();
        assert_eq!((report.probes, report.links), (1, 2));
        let records = programs.take_records().unwrap();
        programs.enable(true);
        programs.enable(false);
        links.detach(&progress);
        drop((programs, records));
        bpf_descriptors()
    };
    let left: Vec<_> = (0..20).map(|_| run()).collect();
    assert_eq!(left, [0; 20]);
}

/// How many descriptors of eBPF maps, programs, links and type information this process has.
fn bpf_descriptors() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .filter(|to| to.to_string_lossy().contains("bpf") || to.ends_with("anon_inode:btf"))
        .count()
}
