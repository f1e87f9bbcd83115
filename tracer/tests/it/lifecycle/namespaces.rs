//! faultline inside a PID namespace, as in a container: it uses the process numbers of that namespace.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    faultline,
    live::{Puppet, private_copy},
    namespace::{Namespace, inner_pid},
    number, target,
};

fn tick_of(program: &Path, rest: &str) -> String {
    format!("{}:tick{rest}", program.display())
}

/// The events' processes, each once.
fn pids(events: &[Value]) -> Vec<u64> {
    let mut pids: Vec<u64> = events.iter().map(|event| number(event, "pid")).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Check that `-p` inside a PID namespace counts and traces the process of that number there, and no
/// other. It said "no hits".
#[test]
fn a_process_inside_a_pid_namespace() {
    let namespace = Namespace::start();
    let program = Puppet::program();
    let (mut puppet, mut other) = (namespace.puppet(&program), namespace.puppet(&program));
    let mut outside = Puppet::start();
    let inner = inner_pid(&puppet);
    let pid = inner.to_string();
    let counted = namespace.counting(&["count", "--json", "-p", &pid, &tick_of(&program, "")]);
    let timed = namespace.counting(&["latency", "--json", "-p", &pid, &tick_of(&program, "")]);
    let tick = tick_of(&program, "(value: u64) -> u64");
    let traced = namespace.counting(&["trace", "--json", "-p", &pid, &tick]);
    puppet.step(10);
    other.step(1000);
    outside.step(1000);
    // This thread ends, which must not be taken for the end of the other one.
    assert_eq!(puppet.tell("thread 7"), "stepped");
    for running in [&counted, &timed, &traced] {
        running.signal(libc::SIGINT);
    }
    let lines = counted.finish().succeeded().json();
    assert_eq!((number(&lines[0], "hits"), lines.len()), (17, 2), "{lines:?}");
    let lines = timed.finish().succeeded().json();
    assert_eq!((number(&lines[0], "count"), lines.len()), (17, 2), "{lines:?}");
    let traced = traced.finish().succeeded();
    let events = traced.events();
    assert_eq!(pids(&events), [inner]);
    let of_thread = |event: &&Value| number(event, "tid") != inner;
    assert_eq!((events.len(), events.iter().filter(of_thread).count()), (34, 14));
    let returns = &traced.summary()["returns"];
    let [opened, returned, lost] = ["opened", "returned", "lost"].map(|name| number(returns, name));
    assert_eq!((opened, returned, lost), (17, 17, 0));
    for puppet in [puppet, other, outside] {
        puppet.ends_well();
    }
}

/// Check that a command that is started inside a PID namespace is traced from its first call to its
/// last. It said "no hits".
#[test]
fn a_command_inside_a_pid_namespace() {
    let namespace = Namespace::start();
    let functions = target("functions.c", &[]);
    let file = super::scratch("namespaces.pid");
    let command = format!("sh -c 'echo $$ >{}; exec {} 20'", file.display(), functions.display());
    let probe = format!("{}:fn_0007(v: i32)", functions.display());
    let finished = namespace
        .start_faultline(&["trace", "--json", "-c", &command, &probe])
        .finish()
        .succeeded();
    let pid: u64 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let events = finished.events();
    assert_eq!((events.len(), pids(&events)), (20, vec![pid]));
    let probe = format!("{}:fn_0007", functions.display());
    let finished = namespace
        .start_faultline(&["count", "--json", "-c", &command, &probe])
        .finish()
        .succeeded();
    assert_eq!(number(&finished.json()[0], "hits"), 20);
}

/// Check that conditions compare the numbers that are valid inside. Check that tracing every process
/// includes those outside, with the number 0, and that none of their open calls is counted as lost.
#[test]
fn everything_from_inside_a_pid_namespace() {
    let namespace = Namespace::start();
    let program = private_copy(&Puppet::program(), "namespaces");
    let mut puppet = namespace.puppet(&program);
    let inner = inner_pid(&puppet);
    let (tick, main) =
        (tick_of(&program, "(value: u64)"), format!("{}:main -> i32", program.display()));
    let all = namespace.counting(&["trace", "--json", &tick, &main]);
    let one =
        namespace.counting(&["trace", "--json", "--where", &format!("pid == {inner}"), &tick]);
    let mut outside = Puppet::start_program(&program);
    puppet.step(10);
    outside.step(30);
    all.signal(libc::SIGINT);
    one.signal(libc::SIGINT);
    let all = all.finish().succeeded();
    let events = all.events();
    let of = |pid: u64| events.iter().filter(|event| number(event, "pid") == pid).count();
    // And the beginning of `main`.
    assert_eq!((of(inner), of(0), events.len()), (10, 31, 41));
    let returns = &all.summary()["returns"];
    let [opened, lost, unfinished] =
        ["opened", "lost", "unfinished"].map(|name| number(returns, name));
    assert_eq!((opened, lost, unfinished), (1, 0, 1));
    let one = one.finish().succeeded();
    let summary = one.summary();
    assert_eq!((number(&summary, "hits"), number(&summary, "filtered")), (40, 30));
    assert_eq!(pids(&one.events()), [inner]);
    puppet.ends_well();
    outside.ends_well();
    fs::remove_file(program).unwrap();
}

/// Check that a process in a namespace further inside is refused with the reason. It has a number here, but
/// no program can find it out.
#[test]
fn a_namespace_inside_the_namespace() {
    let namespace = Namespace::start();
    let nested = namespace.within(Namespace::start);
    let puppet = nested.puppet(&Puppet::program());
    let status = fs::read_to_string(format!("/proc/{}/status", puppet.pid())).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    let pid = numbers.split_ascii_whitespace().nth(1).unwrap();
    let finished =
        namespace.start_faultline(&["count", "-p", pid, &tick_of(&Puppet::program(), "")]).finish();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    let reason = format!(
        "process {pid} runs in a PID namespace inside faultline's, so its calls cannot be attributed to it \
         (run faultline on the host, or in that namespace)"
    );
    assert!(finished.stderr.contains(&reason), "{}", finished.stderr);
    puppet.ends_well();
}

/// Check that a `/proc` of another namespace is refused: its numbers belong to other processes. Bug: with
/// `-p`, the process of that number there was looked at, and called a kernel thread.
#[test]
fn a_proc_of_another_namespace() {
    let namespace = Namespace::start();
    let probe = tick_of(&Puppet::program(), "");
    let reason = "/proc belongs to another PID namespace, so process numbers would be wrong (mount one for \
                  this namespace: `unshare --mount-proc`, or `mount -t proc proc /proc`)";
    for args in [
        &["count", "--duration", "1s", &probe][..],
        &["count", "-p", "2", "--duration", "1s", &probe],
        &["list", "-p", "2", &probe],
    ] {
        let finished = namespace.within(|| faultline(args).start()).finish();
        assert_eq!(finished.status.code(), Some(1), "{args:?}: {}", finished.stderr);
        assert_eq!(finished.stderr, format!("error: {reason}\n"), "{args:?}");
    }
}
