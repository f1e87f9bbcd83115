//! `faultline bench`: every case has a figure, and every call it makes is seen.
//!
//! - a whole run: [`every_case_is_measured_and_checked`]
//! - on kernels that lack features: [`without_batches_and_sleep`]
//! - how it ends: [`ctrl_c_shows_what_there_is`], [`without_privileges`]

use std::{collections::HashSet, fs, path::PathBuf, process::Command, thread, time::Duration};

use faultline_engine::kernel::{
    Features,
    bench::{INSTRUCTIONS, Work},
};
use serde_json::Value;

use crate::{
    alone,
    support::{Finished, faultline, is_emulated, kernel_batches, number},
};

fn lines<'a>(all: &'a [Value], of: &str) -> Vec<&'a Value> {
    all.iter().filter(|line| line["type"] == of).collect()
}

/// Asserts that a figure is sane: its median is between its extremes, and none of them is 0.
#[track_caller]
fn assert_figure(line: &Value, name: &str) {
    let value = |part: &str| line[name][part].as_f64().unwrap_or_else(|| panic!("{name}: {line}"));
    let (median, min, max) = (value("median"), value("min"), value("max"));
    assert!(0.0 < min && min <= median && median <= max, "{name}: {line}");
}

/// Asserts the law of conservation for every checked case, and that every case that can be checked was.
#[track_caller]
fn assert_checked(all: &[Value]) -> usize {
    let mut checked = 0;
    for line in all.iter().filter(|line| line["type"] != "summary") {
        if line["checked"].is_null() {
            let countless = line["program"] == "none";
            assert!(countless, "no calls and hits were compared: {line}");
            continue;
        }
        let check = &line["checked"];
        assert_eq!(number(check, "expected"), number(check, "hits"), "{line}");
        let accounted = number(check, "delivered") + number(check, "lost");
        assert_eq!(number(check, "hits"), accounted, "{line}");
        assert!(number(check, "expected") > 0, "{line}");
        assert_eq!(line["ok"], true, "{line}");
        checked += 1;
    }
    checked
}

/// A successful run; if hits and calls differ, says for which case.
#[track_caller]
fn checked(run: Finished) -> Finished {
    assert_checked(&run.json());
    run.succeeded()
}

fn figures(run: &Finished, programs: &[Work]) -> Value {
    let all = run.json();
    let hits = lines(&all, "hit");
    assert_eq!(hits.len(), INSTRUCTIONS.len() * programs.len());
    for program in programs {
        for instruction in INSTRUCTIONS {
            let of = |line: &&&Value| {
                line["program"] == program.id() && line["instruction"] == instruction.id
            };
            let found: Vec<_> = hits.iter().filter(of).collect();
            assert_eq!(found.len(), 1, "{} on {}", program.id(), instruction.id);
            assert_figure(found[0], "ns");
        }
    }
    let threads = lines(&all, "throughput");
    for line in &threads {
        for name in ["calls_per_s", "ns", "cpu_ns", "on_cpu", "scaling", "cpu_scaling"] {
            assert_figure(line, name);
        }
        assert_eq!(line["mmap_beside"] == true, line["mappings_per_s"].as_f64() > Some(0.0));
    }
    let cases = |line: &&Value| {
        let name = |name: &str| line[name].as_str().unwrap().to_owned();
        (name("program"), name("instruction"), name("functions"), line["mmap_beside"] == true)
    };
    // No probe; two programs on two instructions, on separate functions or the same one, quiet or not;
    // events.
    assert_eq!(threads.iter().map(cases).collect::<HashSet<_>>().len(), 1 + 2 * 2 * 2 * 2 + 2);
    for line in lines(&all, "batch") {
        for name in ["attach_ms", "detach_ms", "grace_ms"] {
            assert_figure(line, name);
        }
    }
    let checked = assert_checked(&all);
    let summary = all.last().unwrap();
    assert_eq!(summary["type"], "summary", "the last line is the summary");
    assert_eq!(summary["complete"], true);
    assert_eq!(number(summary, "cases_checked"), checked as u64);
    assert_eq!(number(summary, "cases_failed"), 0);
    summary.clone()
}

fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    path
}

/// Check that a quick run has a figure for each case, that each call of each case was seen, and that the
/// picture is valid and names what it shows.
#[test]
fn every_case_is_measured_and_checked() {
    let _alone = alone();
    let picture = file("bench.svg");
    let args = ["bench", "--quick", "--json", "--threads", "2", "--svg", picture.to_str().unwrap()];
    let run = checked(faultline(args).run());
    let sleepable = Features::probe().unwrap().sleepable;
    let needs_sleep = |work: &Work| {
        matches!(work, Work::Empty { sleepable: true } | Work::EmptyReturn { sleepable: true })
    };
    let programs: Vec<_> =
        Work::ALL.into_iter().filter(|work| sleepable || !needs_sleep(work)).collect();
    let summary = figures(&run, &programs);
    let host = &summary["host"];
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(host["kernel"], kernel.trim());
    assert!(host["cpu_model"].as_str().is_some_and(|model| !model.is_empty()), "{host}");
    assert!(number(host, "cpus") > 0);
    for name in ["cheapest_ns", "prologue_ns", "dearest_ns", "scaling_distinct", "detach_ms"] {
        assert!(summary["figures"][name].as_f64() > Some(0.0), "{name}: {summary}");
    }
    let all = run.json();
    let most = lines(&all, "batch").iter().map(|line| number(line, "probes")).max();
    assert_eq!(most, Some(if kernel_batches() { 10_000 } else { 4 }));
    if Features::probe().unwrap().faults_in(false) {
        let faulting = lines(&all, "faulting");
        assert!(number(faulting[0], "faults") > 0, "the other handler waited for pages");
    }

    let svg = fs::read_to_string(&picture).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let texts: Vec<_> =
        document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    let names = INSTRUCTIONS.iter().map(|instruction| instruction.name);
    for name in names.chain(["ns a call", "threads", "probes", "milliseconds", "ideal (dashed)"]) {
        assert!(texts.contains(&name), "the picture says `{name}`: {texts:?}");
    }
}

/// Check that the benchmark copes with older kernels: fewer probes where each needs a link, and no
/// sleepable programs where they are not supported.
#[test]
fn without_batches_and_sleep() {
    let _alone = alone();
    let mut run = faultline(["bench", "--quick", "--json", "--threads", "2"]);
    run.command().env("FAULTLINE_ASSUME", "no-multi,no-sleepable");
    let run = run.run().succeeded();
    let programs: Vec<_> = Work::ALL
        .into_iter()
        .filter(|work| {
            !matches!(work, Work::Empty { sleepable: true } | Work::EmptyReturn { sleepable: true })
        })
        .collect();
    let summary = figures(&run, &programs);
    assert_eq!(summary["host"]["multi_links"], false);
    let advice = summary["advice"].as_array().unwrap();
    assert!(advice.iter().any(|advice| advice["about"] == "detach"), "{summary}");
    let all = run.json();
    let batches = lines(&all, "batch");
    assert!(batches.iter().all(|line| line["probes"] == line["links"]));
    assert!(batches.iter().all(|line| line["beside_faults"] == false));
    assert_eq!(lines(&all, "faulting").len(), 0);
}

/// Check that Ctrl-C ends it with status 0 and shows what was measured so far.
#[test]
fn ctrl_c_shows_what_there_is() {
    let _alone = alone();
    let run = faultline(["bench", "--json"]).start();
    thread::sleep(Duration::from_secs(if is_emulated() { 10 } else { 1 }));
    run.signal(libc::SIGINT);
    let run = checked(run.finish());
    let all = run.json();
    let summary = all.last().unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["complete"], false, "it takes longer than that: {summary}");
    assert_checked(&all);
}

/// Check that the missing privilege is named in one line, and nothing is written.
#[test]
fn without_privileges() {
    let _alone = alone();
    let picture = file("unprivileged.svg");
    let mut run = faultline(["bench"; 0]);
    *run.command() = Command::new("setpriv");
    run.command().args(["--bounding-set=-all", "--inh-caps=-all"]);
    run.command().args([env!("CARGO_BIN_EXE_faultline"), "bench", "--svg"]).arg(&picture);
    let run = run.run();
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.starts_with("error: missing CAP_BPF, needed to "), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert!(!picture.exists());
}
