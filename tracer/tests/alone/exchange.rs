//! Links are replaced by others under full load, without losing or doubling a hit.

use std::{
    fs,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use faultline_engine::{
    Host, Options, Settings, Tracer,
    discovery::Prepared,
    kernel::Holding,
    request::{Request, RequestText, Selection},
};
use faultline_resolve::Pid;
use tracer_common::{Action, counter::Counter};

use crate::{
    alone,
    support::{Target, attaching::ids, is_emulated, kernel_batches, live::probes_of, target},
};

/// A function of a program, in one process.
fn request(program: &Path, function: &str, action: Action, pid: Pid) -> Request {
    let text = RequestText {
        name: "exchanged".to_owned(),
        probe: probes_of(program, &[function]).remove(0),
        action,
        ..RequestText::default()
    };
    Request {
        name: function.into(),
        selection: Selection::Pids(vec![pid]),
        ..text.check().unwrap()
    }
}

/// Exchanges links under full load, on all CPUs, and checks that every call of a function that stays is counted
/// once, at its entry and at its return. There are more threads than CPUs, so that they are preempted anywhere.
/// With `is_held` somebody else has the descriptors of replaced links for some time.
fn exchange(action: Action, functions: &[&str], hits_a_call: u64, is_held: bool) {
    let exchanges = if is_emulated() || is_held { 5 } else { 25 };
    let program = target("load.c", &["-O0"]);
    let mut target = Target::start(&program, &["4", "one"]);
    let pid: Pid = target.pid().parse().unwrap();
    let mut requests: Vec<_> =
        functions.iter().map(|function| request(&program, function, action, pid)).collect();
    requests.push(request(&program, "fn_00[0-2]?", action, pid));
    let host = Host::detect();
    let prepared = Prepared::new(&host, requests);
    let tracer = Tracer::start(Options {
        host,
        settings: Settings::default(),
        holding: Holding::Here,
        helper: false,
        diagnostics: false,
        // Its links may be exchanged.
        changes: true,
        handlers: None,
        observer: Arc::new(|notice| eprintln!("{notice}")),
    })
    .unwrap();
    let attached = tracer.attach(prepared, &Arc::default()).blocking_recv().unwrap().unwrap();
    let set = attached.set;
    let stays = ids(&set.plan, |label| label.ends_with(":hot"));
    let goes = ids(&set.plan, |label| label.contains(":fn_"));
    assert!(goes.len() >= exchanges, "{} functions for {exchanges}", goes.len());
    set.begin();
    target.send("go");
    for probe in goes.into_iter().take(exchanges) {
        let held = if is_held { copies_of_links() } else { Vec::new() };
        assert_eq!(is_held, !held.is_empty());
        // The function that stays is in the same link.
        tracer.detach(&set, &[probe]).blocking_recv().unwrap().unwrap();
        if is_held {
            thread::sleep(Duration::from_millis(20));
        }
    }
    target.send("stop");
    let called: u64 = target.line().split(' ').next().unwrap().parse().unwrap();
    assert!(called > exchanges as u64, "there was load");
    let counters = &set.source.counters;
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
    let stopped = tracer.stop(None, &Arc::default()).blocking_recv().unwrap();
    assert!(stopped.complete);
    assert!(target.finish().0.success());
}

/// Copies of the descriptors of this process's links.
fn copies_of_links() -> Vec<OwnedFd> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = descriptors.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.to_str() == Some("anon_inode:bpf_link"))
    });
    let numbers = links.map(|entry| entry.file_name().to_str().unwrap().parse::<RawFd>().unwrap());
    let copies = numbers.map(|number| {
        // SAFETY: it is open.
        let copy = unsafe { libc::dup(number) };
        // SAFETY: a new descriptor belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(copy) }
    });
    copies.collect()
}

/// Check that exchanges are exact for every action, and also where two probes share a breakpoint. This includes
/// tasks that are preempted while they leave a mark, which once ended up with another task; and between the
/// programs of two probes, where one was once removed before the other was added.
#[test]
fn exchanges_are_exact() {
    let _alone = alone();
    if !kernel_batches() {
        return;
    }
    // Links that only count; links with returns; two probes at one place, where a mark of the one once
    // outlived its link and displaced the other's.
    exchange(Action::Count, &["hot", "warm"], 1, false);
    exchange(Action::Latency, &["hot -> u64", "warm -> u64"], 2, false);
    exchange(Action::Events, &["hot(a: u64)", "hot", "warm"], 1, false);
    exchange(Action::Latency, &["hot(a: u64) -> u64", "hot -> u64", "warm -> u64"], 2, false);
}

/// Check the same where somebody else has the descriptors of the replaced links, such as whoever looks at them
/// in /proc: the kernel then removes their breakpoints later.
#[test]
fn others_may_hold_replaced_links() {
    let _alone = alone();
    if !kernel_batches() {
        return;
    }
    exchange(Action::Count, &["hot", "warm"], 1, true);
    exchange(Action::Latency, &["hot -> u64", "warm -> u64"], 2, true);
}
