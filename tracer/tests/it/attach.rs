//! Attaching and detaching: what is attached, what is refused, and what is left. Also on older kernels, as
//! far as this one can stand in for them by ignoring newer features.

use std::{path::PathBuf, time::Duration};

use faultline_engine::kernel::{Links, Piece, Progress};
use faultline_plan::ProbeId;
use faultline_resolve::{Pid, SkipReason};

use crate::support::{
    self, Target,
    attaching::{ASSUMPTIONS, features, ids, load, plan_of},
    faultline,
    live::{Puppet, private_copy, probes_of, summary_of, wait_counting},
    number, target,
};

/// Check that `-p` traces the process with its threads, not its children and no other process, on every
/// kernel; and that differences of that kernel are reported.
#[test]
fn processes_on_every_kernel() {
    for (index, assume) in ASSUMPTIONS.into_iter().enumerate() {
        let program = private_copy(&Puppet::program(), &format!("processes{index}"));
        let mut puppet = Puppet::start_program(&program);
        let mut other = Puppet::start_program(&program);
        let probe = probes_of(&program, &["tick(value: u64) -> u64"]).remove(0);
        let pid = puppet.pid();
        let mut run = faultline(["trace", "--json", "-p", &pid, &probe]);
        run.command().env("FAULTLINE_ASSUME", assume);
        let running = run.start();
        wait_counting(running.pid());
        for (command, answer) in
            [("step 10", "stepped"), ("thread 20", "stepped"), ("fork 40", "stepped")]
        {
            assert_eq!(puppet.tell(command), answer);
        }
        other.step(80);
        running.signal(libc::SIGINT);
        let summary = summary_of(&running.finish().succeeded().stdout);
        assert_eq!(number(&summary, "hits"), 60, "{assume}: {summary}");
        assert_eq!(number(&summary["returns"], "returned"), 30, "{assume}: {summary}");
        assert_eq!(number(&summary["attach"], "links"), 2, "{assume}: {summary}");
        assert!(summary["detach"]["grace_ms"].as_f64().unwrap() > 0.0, "{assume}: {summary}");
        let notes = summary["notes"].as_array().map_or(0, Vec::len);
        assert_eq!(notes, features(assume).notes(true, false).len(), "{assume}: {summary}");
        puppet.ends_well();
        other.ends_well();
    }
}

/// Check that a page that is not resident is read if programs may sleep and either no one else has to wait
/// for it or `--force` is given; and that its argument is `null` with EAGAIN otherwise; never anything
/// else.
#[test]
fn cold_pages_on_every_kernel() {
    let program = target("cold_pages.c", &[]);
    let probe = probes_of(&program, &["take(text: str)"]).remove(0);
    let cases = ASSUMPTIONS.into_iter().flat_map(|assume| [(assume, false), (assume, true)]);
    for (index, (assume, force)) in cases.enumerate() {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cold_attach{index}"));
        let command = format!("'{}' '{}'", program.display(), file.display());
        let mut args = vec!["trace", "--json", &probe, "-c", &command];
        args.extend(force.then_some("--force"));
        let mut run = faultline(args);
        run.command().env("FAULTLINE_ASSUME", assume);
        let output = run.run().succeeded().stdout;
        let _ = std::fs::remove_file(file);
        let summary = summary_of(&output);
        assert_eq!(number(&summary, "delivered"), 64, "{assume}: {summary}");
        let reads = &summary["reads"];
        let told = summary["notes"].to_string().contains("page that is not resident");
        let features = features(assume);
        assert_eq!(told, !features.faults_in(force), "{assume}: {summary}");
        if features.sleepable && (force || features.batches()) {
            assert_eq!(number(reads, "faulted"), 64, "{assume}: {summary}");
            assert!(output.contains(r#""text":"the string of page 63""#), "{output}");
        } else {
            assert_eq!(number(&reads["failed_by_errno"], "EAGAIN"), 64, "{assume}: {summary}");
            assert_eq!(output.matches(r#""unread":{"text":"EAGAIN"}"#).count(), 64, "{output}");
        }
    }
}

/// Check that a breakpoint that the kernel refuses is found, whether or not that was expected, and
/// everything else is attached.
#[test]
fn refused_points() {
    let program = private_copy(&target("churn.c", &[]), "refused");
    // The kernel checks the instructions once a process has mapped them.
    let target = Target::start(&program, &["1"]);
    let mut plan = plan_of(&program, &["churn_1*", "refused", "churn_2*"]);
    let refused = ids(&plan, |label| label.ends_with(":refused"));
    let [ProbeId(refused)] = refused[..] else { panic!("one refused probe") };
    let probes = plan.probes.len();
    assert_eq!(probes, 223);
    for doubtful in [true, false] {
        plan.probes[refused as usize].doubtful = doubtful;
        let programs = load(&plan, None, features(""));
        let progress = Progress::default();
        let (links, report) = Links::attach_plan(&programs, &plan, None, &progress).unwrap();
        assert_eq!(report.probes, probes - 1, "{report:?}");
        let [skipped] = &report.refused[..] else { panic!("{report:?}") };
        assert!(skipped.label.ends_with(":refused"), "{report:?}");
        assert_eq!(skipped.reason, SkipReason::Unsupported);
        assert_eq!((progress.done(), progress.total()), (probes, probes));
        assert_eq!(links.points(), probes - 1);
        links.detach(&progress);
    }
    assert!(target.finish().1.ends_with(" 0\n"), "wrong results");
}

/// Check that each group of probes has its own links: one is released, and the others keep counting.
#[test]
fn groups_of_probes() {
    let program = private_copy(&target("churn.c", &[]), "groups");
    let plan = plan_of(&program, &["churn_11", "churn_12", "churn_13"]);
    let target = Target::start(&program, &["1"]);
    let pid: Pid = target.pid().parse().unwrap();
    for assume in ASSUMPTIONS {
        let programs = load(&plan, Some(pid), features(assume));
        let counters = programs.counters(plan.probes.len()).unwrap();
        let progress = Progress::default();
        let groups: [&[ProbeId]; 2] = [&[ProbeId(0), ProbeId(2)], &[ProbeId(1)]];
        let file = &plan.files[0].file;
        let pieces = groups.map(|probes| Piece { file, process: Some(pid), probes });
        let (links, report) = Links::attach(&programs, &plan.probes, &pieces, &progress).unwrap();
        let mut links: Vec<_> = links.into_iter().map(Option::unwrap).collect();
        assert_eq!((links.len(), report.probes), (2, 3), "{assume}");
        assert_eq!(links.iter().map(Links::points).collect::<Vec<_>>(), [2, 1], "{assume}");
        programs.enable(true);
        let hits = || [0, 1, 2].map(|id| counters.hits(ProbeId(id)));
        let all_grow = |before: [u64; 3]| hits().iter().zip(before).all(|(now, old)| *now > old);
        support::live::wait_until("all three are hit", || all_grow([0; 3]));
        links.pop().unwrap().detach(&progress);
        // Another test that starts a program holds all our descriptors for a moment.
        support::live::wait_until("the others are hit, and the released one is not", || {
            let before = hits();
            support::live::wait_until("the others are hit", || {
                let now = hits();
                now[0] > before[0] + 10 && now[2] > before[2] + 10
            });
            hits()[1] == before[1]
        });
        Links::detach_all(links, &progress);
        support::live::wait_until("none is", || {
            let before = hits();
            std::thread::sleep(Duration::from_millis(20));
            hits() == before
        });
    }
    let (status, printed) = target.finish();
    assert!(status.success());
    assert!(printed.ends_with(" 0\n"), "wrong results: {printed}");
}

/// Check that a limit on open files that is too low for one link per probe is an error that names both
/// numbers, before anything is attached; and that the limit is raised where that is allowed.
#[test]
fn too_few_descriptors() {
    let program = target("functions.c", &["-O0"]);
    let probe = probes_of(&program, &["fn_*"]).remove(0);
    let limited = |hard: u64, probe: &str| {
        let mut run = faultline(["trace", "--json", probe, "-c", "true"]);
        run.command().env("FAULTLINE_ASSUME", "no-multi");
        run.limited(libc::RLIMIT_NOFILE, 70, hard).run()
    };
    let refused = limited(100, &probe);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let needed = needed_files(&refused.stderr, "10,000 probes", 100);
    assert!((10_000..11_000).contains(&needed), "{}", refused.stderr);
    let few = probe.replace("fn_*", "fn_000?");
    let raised = limited(4096, &few).succeeded();
    assert_eq!(number(&raised.summary()["attach"], "links"), 10, "{}", raised.stderr);
}

/// The limit of open files that an error asks for.
#[track_caller]
fn needed_files(stderr: &str, probes: &str, limit: u64) -> u64 {
    let before = format!("error: attaching {probes} needs a limit of ");
    let after = format!(" open files, and the limit is {limit} (ulimit -n)\n");
    let needed = stderr.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after));
    let needed = needed.unwrap_or_else(|| panic!("{stderr}"));
    needed.replace(',', "").parse().unwrap()
}

/// Bug: under `ulimit -n 64` the error said "1 probes need 1 open files". Check that the limit that an
/// error asks for is enough.
#[test]
fn the_limit_of_open_files_that_suffices() {
    let tick = probes_of(&Puppet::program(), &["tick"]).remove(0);
    let limited = |most: u64| {
        let run = faultline(["trace", "--json", &tick, "-c", "true"]);
        run.limited(libc::RLIMIT_NOFILE, most, most).run()
    };
    let refused = limited(64);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let needed = needed_files(&refused.stderr, "1 probe", 64);
    let refused = limited(needed - 1);
    assert_eq!(needed_files(&refused.stderr, "1 probe", needed - 1), needed);
    limited(needed).succeeded();
    // Not even the maps can be created.
    let refused = limited(30);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    limited(needed_files(&refused.stderr, "1 probe", 30)).succeeded();
}

/// Check that the file that took longest is reported if there are several.
#[test]
fn slowest_file() {
    let (one, other) = (Puppet::program(), target("churn.c", &[]));
    let probes = [probes_of(&one, &["tick"]), probes_of(&other, &["churn_1*"])].concat();
    let args = ["trace", "--json", "-c", "true"].map(str::to_owned);
    let summary = faultline(args.iter().chain(&probes)).run().succeeded().summary();
    let file = summary["attach"]["slowest"]["file"].as_str().unwrap_or_else(|| panic!("{summary}"));
    assert!([one, other].iter().any(|program| program.to_str() == Some(file)), "{file}");
}

/// Check that a target that cannot be traced is refused at once, with the reason.
#[test]
fn no_such_thing_to_trace() {
    let tick = probes_of(&Puppet::program(), &["tick"]).remove(0);
    let said = |status: i32, args: &[&str]| {
        let run = faultline(args).run();
        assert_eq!(run.status.code(), Some(status), "{args:?}: {}", run.stderr);
        run.stdout + &run.stderr
    };
    // kthreadd is pid 2, except in a PID namespace of our own.
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n") {
        assert!(said(2, &["trace", "-p", "2", &tick]).contains("a kernel thread"));
        let doctor = said(1, &["doctor", "-p", "2"]);
        assert!(doctor.contains("error: this process cannot be traced"), "{doctor}");
    }
    let doctor = said(1, &["doctor", "nosuch"]);
    assert!(doctor.contains("error: there is nothing to trace in this target"), "{doctor}");
    assert!(said(1, &["trace", &tick, "-c", "/no/such/command"]).contains("`/no/such/command`"));
    assert!(!said(1, &["trace", &tick, "-c", "no-such-command"]).contains("tracing 1 probe"));
    for pid in ["0", "self", "-1"] {
        let text = said(2, &["trace", &tick, &format!("--pid={pid}")]);
        assert!(text.contains("a process id is a number from 1 on"), "{text}");
    }
}
