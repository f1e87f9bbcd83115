//! `count` and `latency`: what the kernel sums up is exact.
//!
//! - how many: ten thousand and a hundred thousand functions, threads, processes, functions that are not
//!   called
//! - how long: compared with the target's own measurements
//! - output: JSON, tables, a pager that quits, a full disk, a terminal

use std::{collections::HashMap, fs, path::Path, process::Stdio};

use serde_json::Value;
use tracer_common::histogram::Histogram;

use crate::support::{
    self, Finished, Target, assert_conserved, faultline, kernel_batches,
    live::{probes_of, wait_counting},
    number, target,
};

/// The lines of one type of a `--json` run that are not interim, by probe.
fn lines(finished: &Finished, kind: &str) -> HashMap<String, Value> {
    let lines = finished.json().into_iter();
    lines
        .filter(|line| line["type"] == kind && line.get("so_far").is_none())
        .map(|line| (line["probe"].as_str().unwrap().to_owned(), line))
        .collect()
}

/// The summary of a run in which every hit was summed up; asserts conservation.
#[track_caller]
fn summary(finished: &Finished) -> Value {
    let summary = finished.json().pop().unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["probes"], Value::Array(Vec::new()), "each has a line of its own");
    let mut per_cpu = summary.clone();
    per_cpu["probes"] = per_cpu["per_cpu"].clone();
    assert_conserved(&per_cpu);
    summary
}

/// Calls each of many functions 20 times, and checks that each is reported with 20 calls.
fn count_many(program: &Path, functions: u64, digits: usize) {
    let mut run = faultline(["count", "--json", "-c", &format!("{} 20", program.display())]);
    let zeros = "0".repeat(digits - 1);
    let (pattern, functions, links) = if kernel_batches() {
        ("fn_*".to_owned(), functions, 1)
    } else {
        (format!("fn_{zeros}?"), 10, 10)
    };
    run.command().args(probes_of(program, &[&pattern]));
    let finished = run.run().succeeded();
    let counts = lines(&finished, "count");
    assert_eq!(counts.len() as u64, functions);
    let name = program.file_name().unwrap().to_str().unwrap();
    for index in 0..functions {
        let probe = format!("{name}:fn_{index:0digits$}");
        let hits = counts.get(&probe).map(|line| number(line, "hits"));
        assert_eq!(hits, Some(20), "{probe}");
    }
    let summary = summary(&finished);
    assert_eq!(number(&summary, "hits"), 20 * functions);
    assert_eq!(number(&summary, "delivered"), 20 * functions);
    assert_eq!(number(&summary["attach"], "links"), links);
}

/// Check that ten thousand functions are counted, each exactly.
#[test]
fn ten_thousand_functions() {
    count_many(&target("functions.c", &["-O0"]), 10_000, 4);
}

/// Check that a hundred thousand functions are counted, each exactly.
#[test]
fn a_hundred_thousand_functions() {
    count_many(&target("functions.c", &["-O0", "-DFIVE"]), 100_000, 5);
}

/// Check that ten thousand functions have their durations although each is called only twice.
#[test]
fn durations_of_ten_thousand_functions() {
    let program = target("functions.c", &["-O0"]);
    let mut run = faultline(["latency", "--json", "-c", &format!("{} 2", program.display())]);
    let (pattern, functions) = if kernel_batches() { ("fn_*", 10_000) } else { ("fn_000?", 10) };
    run.command().args(probes_of(&program, &[pattern]));
    let finished = run.run().succeeded();
    let latencies = lines(&finished, "latency");
    assert_eq!(latencies.len() as u64, functions);
    for (probe, line) in &latencies {
        assert_eq!(number(line, "count"), 2, "{probe}");
    }
    let summary = summary(&finished);
    assert_eq!(number(&summary, "hits"), 4 * functions);
    assert_eq!(number(&summary["dropped"], "no_memory"), 0);
}

/// The most memory that a process has had resident so far, in KiB.
fn peak_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Bug: to show durations, a run copied two whole histograms of 2.8 KiB per function: 20,000 functions took
/// 231 MiB.
#[test]
fn many_durations_take_little_memory() {
    if !kernel_batches() {
        return;
    }
    const FUNCTIONS: usize = 10_000;
    const HISTOGRAM_BYTES: usize = size_of::<Histogram>();
    let program = target("functions.c", &["-O0"]);
    let mut target = Target::start(&program, &["1", "wait"]);
    let mut run = faultline(["latency", "--json", "--interval", "200ms", "-p", &target.pid()]);
    run.command().args(probes_of(&program, &["fn_*"]));
    let run = run.stream_attached();
    let before = peak_kib(run.pid());
    target.send("go");
    assert!(target.line().starts_with("done"));
    // Of two readings, one at least has every function.
    run.stdout.wait_for(2 * FUNCTIONS, |line| line.contains(r#""so_far":true"#));
    let grown = (peak_kib(run.pid()) - before) as usize * 1024;
    assert!(grown < FUNCTIONS * HISTOGRAM_BYTES, "{} bytes a function", grown / FUNCTIONS);
    run.signal(libc::SIGINT);
    let finished = run.finish().succeeded();
    assert_eq!(lines(&finished, "latency").len(), FUNCTIONS);
    assert!(target.finish().0.success());
}

/// Check that durations are right to within a bucket's width: between the times measured inside the
/// functions and those measured by their callers; and that every call is counted, in recursion and in eight
/// threads.
#[test]
fn durations_are_right() {
    let program = target("durations.c", &[]);
    let functions = ["busy_1us", "sleep_10ms", "sleep_300ms", "recursive", "in_threads"];
    let mut run = faultline(["latency", "--json", "-c", program.to_str().unwrap()]);
    run.command().args(probes_of(&program, &functions));
    let finished = run.run().succeeded();
    let latencies = lines(&finished, "latency");
    let told = |function: &str| &latencies[&format!("durations:{function}")];

    // The command's standard output goes to standard error.
    let known: Vec<_> =
        finished.stderr.lines().filter(|line| line.split(' ').count() == 10).collect();
    assert_eq!(known.len(), 3, "{}", finished.stderr);
    for line in known {
        let mut words = line.split(' ');
        let line = told(words.next().unwrap());
        let known: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        assert_eq!(number(line, "count"), known[0]);
        for (index, figure) in ["p50_ns", "p90_ns", "p99_ns"].into_iter().enumerate() {
            let (inner, outer) = (known[1 + index] as f64, known[5 + index] as f64);
            let told = number(line, figure) as f64;
            assert!(told >= inner * 0.875, "{figure} of {inner} at least: {line}");
            assert!(told <= outer * 1.125, "{figure} of {outer} at most: {line}");
        }
        let longest = number(line, "max_ns");
        assert!((known[4]..=known[8]).contains(&longest), "{known:?}: {line}");
    }
    assert_eq!(number(told("recursive"), "count"), 20 * 50);
    assert_eq!(number(told("in_threads"), "count"), 8 * 1000);
    for line in latencies.values() {
        let buckets = line["buckets"].as_array().unwrap();
        let in_buckets: u64 = buckets.iter().map(|bucket| number(bucket, "count")).sum();
        assert_eq!(in_buckets, number(line, "count"));
        for bucket in buckets {
            let (from, to) = (number(bucket, "from_ns"), number(bucket, "to_ns"));
            assert!((to - from) * 8 <= from || from < 8, "{bucket} is at most an eighth wide");
        }
    }
    let summary = summary(&finished);
    let calls: u64 = latencies.values().map(|line| number(line, "count")).sum();
    assert_eq!(number(&summary, "hits"), 2 * calls);
    assert_eq!(number(&summary["returns"], "returned"), calls);
}

/// Check that with `-p` another process that runs the same code does not count, and that functions
/// which were not called are shown where that is asked for.
#[test]
fn one_process_and_what_it_does_not_call() {
    let program = support::live::private_copy(&target("functions.c", &["-O0"]), "one_process");
    let mut one = Target::start(&program, &["3", "wait"]);
    let mut other = Target::start(&program, &["5", "wait"]);
    let mut run = faultline(["count", "--json", "--all", "-p", &one.pid()]);
    run.command().args(probes_of(&program, &["fn_000*", "main"]));
    let run = run.start();
    wait_counting(run.pid());
    for target in [&mut one, &mut other] {
        target.send("");
        assert_eq!(target.line(), "done");
    }
    other.finish();
    one.finish();
    let finished = run.finish().succeeded();
    let counts = lines(&finished, "count");
    assert_eq!(counts.len(), 11);
    for (probe, line) in &counts {
        let hits = if probe.ends_with(":main") { 0 } else { 3 };
        assert_eq!(number(line, "hits"), hits, "{probe}");
    }
    assert_eq!(number(&summary(&finished), "hits"), 30);
}

/// Check that `--top` shows the most-called functions and says what it leaves out; and that the table lines
/// up.
#[test]
fn the_top_of_a_table() {
    let program = target("durations.c", &[]);
    let mut run = faultline(["count", "--top", "2", "-c", program.to_str().unwrap()]);
    run.command()
        .args(probes_of(&program, &["busy_1us", "sleep_10ms", "sleep_300ms", "in_threads"]));
    let finished = run.run().succeeded();
    // The cost of a call is measured, and differs from machine to machine.
    let words: Vec<Vec<_>> =
        finished.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let [head, first, second, rest] = words.as_slice() else { panic!("{}", finished.stdout) };
    assert_eq!(head, &["calls", "in", "probes", "function"]);
    assert_eq!((first[0], first[2]), ("8000", "durations:in_threads"));
    assert_eq!((second[0], second[2]), ("2000", "durations:busy_1us"));
    assert_eq!((rest[0], &rest[2..]), ("53", &["in", "2", "more"][..]));
    assert!([first, second, rest].iter().all(|row| row[1].starts_with('~')), "{}", finished.stdout);
    assert!(finished.stderr.contains("10053 hits, all delivered"), "{}", finished.stderr);
}

/// Check that interim figures are marked as such, and only grow.
#[test]
fn interim_figures() {
    let program = target("durations.c", &[]);
    for (command, figure) in [("count", "hits"), ("latency", "count")] {
        let mut run = faultline([command, "--json", "--interval", "20ms", "-c"]);
        run.command().arg(&program).args(probes_of(&program, &["sleep_10ms"]));
        let finished = run.run().succeeded();
        let figures: Vec<_> =
            finished.json().into_iter().filter(|line| line["type"] == command).collect();
        let (last, so_far) = figures.split_last().unwrap();
        assert_eq!(number(last, figure), 50);
        assert!(last.get("so_far").is_none());
        assert!(so_far.len() > 5, "half a second, and a line every 20 ms: {}", so_far.len());
        assert!(so_far.iter().all(|line| line["so_far"] == true));
        assert!(
            figures.windows(2).all(|pair| number(&pair[0], figure) <= number(&pair[1], figure))
        );
    }
}

/// Check that a full disk fails the run, and a pipe that is closed does not.
#[test]
fn outputs_that_end() {
    let program = target("functions.c", &["-O0"]);
    let run = |output: Stdio| {
        let mut run = faultline(["count", "--json", "-c", &format!("{} 1", program.display())]);
        let functions = if kernel_batches() { "fn_*" } else { "fn_000?" };
        run.command().args(probes_of(&program, &[functions])).stdout(output).stderr(Stdio::piped());
        run.command().output().unwrap()
    };
    let full = run(fs::File::options().write(true).open("/dev/full").unwrap().into());
    let said = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()).status.code(), Some(0));
}
