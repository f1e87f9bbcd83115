//! Links that give way to others under full load, exactly.
//!
//! Alone in its program: a test beside it that starts a process would hand it copies of our links for
//! as long as it takes to execute, and a link of which there is a copy is not released.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test cannot do is a failed test")]

mod support;

use std::collections::HashSet;

use faultline_engine::kernel::{
    Changed, Features, LinkSets, LoadOptions, Programs, Progress, Scope,
};
use faultline_plan::ProbeId;
use faultline_resolve::Pid;
use support::{
    Target,
    attaching::{ids, plan_of},
    is_emulated, kernel_batches, target,
};
use tracer_common::{Action, counter::Counter};

/// Check that links are exchanged under full load, on all CPUs, and that every call of a function
/// that stays is counted once, at its entry and at its return, whatever becomes of hits, and also
/// where two probes share its breakpoint. More threads than CPUs: they are preempted anywhere, also
/// while they leave a mark, which once ended up with another task, and between the programs of two
/// probes, where one had gone once before the other had come.
#[test]
fn exchanges_are_exact() {
    if !kernel_batches() {
        return;
    }
    let exchanges = if is_emulated() { 5 } else { 25 };
    for (action, functions, hits_a_call) in [
        // Links that only count; with returns; two probes at one place: a mark of the one that outlived
        // its link once pushed out the other's.
        (Action::Count, &["hot", "warm"][..], 1),
        (Action::Latency, &["hot -> u64", "warm -> u64"], 2),
        (Action::Events, &["hot(a: u64)", "hot", "warm"], 1),
        (Action::Latency, &["hot(a: u64) -> u64", "hot -> u64", "warm -> u64"], 2),
    ] {
        let program = target("load.c", &["-O0"]);
        let mut target = Target::start(&program, &["4", "one"]);
        let pid: Pid = target.pid().parse().unwrap();
        let plan = plan_of(&program, functions);
        let options = LoadOptions {
            pids: vec![pid],
            exchanges: true,
            ..LoadOptions::new(action, Features::probe().unwrap())
        };
        let programs = Programs::load(&plan, &options).unwrap();
        let scope = Scope::Processes(vec![pid]);
        let attach = |probes: &[ProbeId]| {
            LinkSets::attach(&programs, &plan, probes, &scope, &Progress::default()).unwrap().0
        };
        let all: Vec<_> = (0..plan.probes.len() as u32).map(ProbeId).collect();
        let goes: HashSet<_> = ids(&plan, |label| label.ends_with(":warm")).into_iter().collect();
        let stays = ids(&plan, |label| label.ends_with(":hot"));
        let mut links = attach(&all);
        programs.enable(true);
        target.send("go");
        for _ in 0..exchanges {
            let Changed { old, exchange } =
                links.take_out(&programs, &plan, &goes, &scope).unwrap();
            assert!(exchange, "what stays is in the same link");
            old.detach(&Progress::default());
            programs.end_exchange();
            links.add(attach(&goes.iter().copied().collect::<Vec<_>>()));
            // All in one link again: what stays goes for good in the next round otherwise.
            programs.begin_exchange();
            let new = attach(&all);
            programs.outlast_hits().unwrap();
            std::mem::replace(&mut links, new).into_links().detach(&Progress::default());
            programs.end_exchange();
        }
        target.send("stop");
        let called: u64 = target.line().split(' ').next().unwrap().parse().unwrap();
        assert!(called > exchanges, "there was load");
        let counters = programs.counters(plan.probes.len()).unwrap();
        for probe in stays {
            let calls = [Counter::CallsOpened, Counter::CallsReturned, Counter::CallsLost]
                .map(|counter| counters.sum(probe, counter));
            assert_eq!(
                counters.hits(probe),
                called * hits_a_call,
                "{action:?}, {probe:?}; calls opened, returned, lost: {calls:?}"
            );
            assert_eq!(counters.sum(probe, Counter::NoEntry), 0, "{action:?}");
        }
        links.into_links().detach(&Progress::default());
        assert!(target.finish().0.success());
    }
}
