//! Attach and detach over and over, under full load, and leave nothing behind.

use std::{fs, thread, time::Duration};

use faultline_engine::kernel::{Links, Progress};
use faultline_plan::{AttachPlan, ProbeId};
use tracer_common::counter::Counter;

use crate::{
    alone,
    support::{
        Target,
        attaching::{features, load, plan_of},
        is_emulated,
        live::{private_copy, wait_until},
        target,
    },
};

/// Check that a target whose thousand functions are called by four threads without pause still computes
/// correctly while they are probed and released again and again; that every round accounts for all of its
/// hits; and that nothing is left behind.
#[test]
fn two_hundred_rounds() {
    let _alone = alone();
    let program = private_copy(&target("churn.c", &[]), "rounds");
    let features = features(&std::env::var("FAULTLINE_ASSUME").unwrap_or_default());
    let (function, probes, rounds) = match (features.batches(), is_emulated()) {
        (true, false) => ("churn_*", 1000, 200),
        (true, true) => ("churn_1??", 100, 20),
        // With a link per probe, each needs its own grace period.
        (false, _) => ("churn_1?", 10, 5),
    };
    let plan = plan_of(&program, &[function]);
    assert_eq!(plan.probes.len(), probes);
    let target = Target::start(&program, &["4"]);
    let mut hits = Vec::new();
    let mut before = (0, 0);
    for round in 0..rounds {
        // Memory that the first rounds allocate is reused by the others.
        if round == rounds / 10 {
            before = held();
        }
        hits.push(attach_and_detach(&plan, features));
    }
    let after = held();
    let (status, printed) = target.finish();
    assert!(status.success(), "the target ended with {status}");
    assert!(printed.ends_with(" 0\n"), "wrong results: {printed}");
    assert!(hits.iter().all(|hits| *hits > 0), "rounds without a hit: {hits:?}");
    assert_eq!(after.0, before.0, "open files");
    assert!(after.1 < before.1 + 8 * 1024, "{} KiB of memory, and {} before", after.1, before.1);
}

/// Runs one round; returns its hits.
fn attach_and_detach(plan: &AttachPlan, features: faultline_engine::kernel::Features) -> u64 {
    let mut programs = load(plan, None, features);
    let counters = programs.counters(plan.probes.len()).unwrap();
    let mut records = programs.take_records().unwrap();
    let progress = Progress::default();
    let (links, report) = Links::attach_plan(&programs, plan, None, &progress).unwrap();
    assert_eq!((report.probes, report.refused.len()), (plan.probes.len(), 0));
    let hits =
        || -> u64 { (0..plan.probes.len() as u32).map(|id| counters.hits(ProbeId(id))).sum() };
    programs.enable(true);
    thread::sleep(Duration::from_millis(5));
    // On a busy machine the target may not have run at all.
    wait_until("it is hit", || hits() > 0);
    programs.enable(false);
    links.detach(&progress);
    let sum = |counter| -> u64 {
        (0..plan.probes.len() as u32).map(|id| counters.sum(ProbeId(id), counter)).sum()
    };
    let read = records.drain(usize::MAX, |_| ()) as u64;
    let hits = hits();
    assert_eq!(hits, read + sum(Counter::RingFull), "read {read} of {hits}");
    hits
}

/// Open files of this process, and its memory in KiB.
fn held() -> (usize, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (fs::read_dir("/proc/self/fd").unwrap().count(), memory)
}
