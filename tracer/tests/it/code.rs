//! Code that is not what the file says: data with the name of a function, instructions that the loader or
//! the process changes, and copies. No program is changed, and what is not traced is named with the reason.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{
    Target, faultline, kernel_batches,
    live::{private_copy, probe, probes_of, summary_of, wait_counting},
    number, target,
};

/// Traces a command, whose program must print what it prints untraced.
fn traced_unharmed(program: &Path, functions: &[&str]) -> Value {
    let alone = Command::new(program).output().unwrap();
    let printed = String::from_utf8(alone.stdout).unwrap();
    assert!(alone.status.success() && printed.starts_with("sum "), "{printed}");
    let command = program.display().to_string();
    let args = ["trace", "--json", "-c", &command].map(str::to_owned);
    let finished = faultline(args.into_iter().chain(probes_of(program, functions))).run();
    let finished = finished.succeeded();
    assert!(finished.stderr.contains(&printed), "{}", finished.stderr);
    summary_of(&finished.stdout)
}

/// The only probe is refused for this reason, and the program is not started.
#[track_caller]
fn assert_refused(program: &Path, function: &str, reason: &str) {
    let probe = probes_of(program, &[function]).remove(0);
    let command = program.display().to_string();
    let refused = faultline(["trace", &probe, "-c", &command]).run();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.starts_with("error: cannot probe `"), "{}", refused.stderr);
    assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    assert!(!refused.stderr.contains("sum "), "{}", refused.stderr);
}

/// The reason for which a function is skipped.
#[track_caller]
fn reason<'a>(summary: &'a Value, function: &str) -> &'a str {
    let skipped = summary["skipped"].as_array().into_iter().flatten();
    let of = |one: &&Value| one["probe"].as_str().unwrap().ends_with(&format!(":{function}"));
    let one = skipped.into_iter().find(of).unwrap_or_else(|| panic!("{function}: {summary}"));
    one["reason"].as_str().unwrap()
}

const LABEL: &str = "a label that has no type and that no known function calls or jumps to";

/// Check that the labels of tables are not probed, whether they lie between functions or in a section of
/// data that shares its segment with code; and that labels of code are.
#[test]
fn labels_of_tables() {
    let program = private_copy(&target("labels.c", &["-Wl,-z,noseparate-code"]), "labels");
    assert_refused(&program, "table", LABEL);
    assert_refused(&program, "table_end", LABEL);
    assert_refused(&program, "limits", "there is no code in the file at its address");
    assert_refused(&program, "lookup+0x12", "the offset is beyond the end of the function");
    assert_refused(&program, "passed -> u64", "a label that no known function calls");
    let all = ["lookup", "table", "limits", "passed", "entered(n: u64) -> u64"];
    let summary = traced_unharmed(&program, &all);
    for function in ["lookup", "passed"] {
        assert_eq!(number(probe(&summary, function), "hits"), 8, "{summary}");
    }
    let returns = &probe(&summary, "entered")["returns"];
    assert_eq!(number(returns, "returned"), 8, "{summary}");
    assert!(reason(&summary, "table").starts_with(LABEL), "{summary}");

    let listed = |name: &str| {
        let what = probes_of(&program, &[name]).remove(0);
        faultline(["list", "--json", &what]).run().succeeded().json().remove(0)
    };
    assert!(listed("table")["unprobeable"].as_str().unwrap().starts_with(LABEL));
    assert!(listed("entered")["unprobeable"].is_null());
}

/// Check that an instruction that the loader changes is refused, and the instructions beside it are not.
#[test]
fn text_relocations() {
    let program = target("textrel.c", &["-Wl,-z,notext", "-Wl,--no-warnings", "-pie", "-fPIE"]);
    let program = private_copy(&program, "textrel");
    let changed = "the loader changes its first instruction (a text relocation)";
    assert_refused(&program, "fetch", changed);
    assert_refused(&program, "around+1", changed);
    let summary = traced_unharmed(&program, &["fetch", "fetch+10", "around", "around+11"]);
    for function in ["fetch+0xa", "around", "around+0xb"] {
        assert_eq!(number(probe(&summary, function), "hits"), 3, "{summary}");
    }
    assert!(reason(&summary, "fetch").starts_with(changed), "{summary}");
}

/// Check that functions in a segment that the program may write to are refused: the kernel would set no
/// breakpoint, and there would be no hits without a reason.
#[test]
fn writable_segments() {
    let program = private_copy(&target("labels.c", &["-Wl,-z,noseparate-code"]), "writable");
    let mut bytes = fs::read(&program).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let (headers, count) = (word(&bytes, 32) as usize, usize::from(bytes[56]));
    for at in (0..count).map(|index| headers + index * 56) {
        let (is_load, is_code) =
            (bytes[at] == 1 && bytes[at + 1..at + 4] == [0; 3], bytes[at + 4] & 1);
        if is_load && is_code == 1 {
            bytes[at + 4] |= 2;
        }
    }
    fs::write(&program, bytes).unwrap();
    let writable = "its code is in a segment that the program may write to";
    assert_refused(&program, "lookup", writable);
    let what = probes_of(&program, &["lookup"]).remove(0);
    let listed = faultline(["list", "--json", &what]).run().succeeded().json().remove(0);
    assert!(listed["unprobeable"].as_str().unwrap().starts_with(writable), "{listed}");
}

const FUNCTIONS: [&str; 6] = ["unlocked", "moved", "overlaid", "hooked", "plain", "quick"];

/// A copy of `changes.c`, running.
fn changes(name: &str) -> (PathBuf, Target) {
    let program = private_copy(&target("changes.c", &[]), name);
    let target = Target::start(&program, &[]);
    (program, target)
}

#[track_caller]
fn tell(target: &mut Target, line: &str) -> i64 {
    target.send(line);
    let answer = target.line();
    answer
        .strip_prefix("done ")
        .and_then(|sum| sum.parse().ok())
        .unwrap_or_else(|| panic!("{answer}"))
}

/// What `go` computes: each function adds its number, and `hooked` 1000 once it is patched.
fn sum(calls: i64, is_patched: bool) -> i64 {
    let own: i64 = if is_patched { 1 + 2 + 3 + 1000 + 5 + 6 } else { 1 + 2 + 3 + 4 + 5 + 6 };
    6 * (calls * (calls - 1) / 2) + own * calls
}

/// Check that functions whose code a process has overwritten, unlocked or replaced are not probed there,
/// with the reason; the others are, and the process computes what it would have.
#[test]
fn code_changed_by_the_process() {
    let (program, mut target) = changes("changed");
    for change in ["patch", "unlock", "move", "overlay"] {
        assert_eq!(tell(&mut target, change), 0);
    }
    let pid = target.pid();
    let args = ["trace", "--json", "-p", &pid].map(str::to_owned);
    let running = faultline(args.into_iter().chain(probes_of(&program, &FUNCTIONS))).start();
    wait_counting(running.pid());
    assert_eq!(tell(&mut target, "go 10"), sum(10, true));
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    for function in ["plain", "quick"] {
        assert_eq!(number(probe(&summary, function), "hits"), 10, "{summary}");
    }
    assert_eq!(number(&summary, "hits"), 20, "{summary}");
    assert_eq!(number(&summary["attach"], "probes"), 2, "{summary}");
    for (function, said) in [
        ("hooked", "its code was changed in memory"),
        ("unlocked", "its code is in memory that the process may write to"),
        ("moved", "a copy of its code has taken its place"),
        ("overlaid", "a copy of its code has taken its place"),
    ] {
        let reason = reason(&summary, function);
        assert!(
            reason.starts_with(said) && reason.contains(&format!(": process {pid}")),
            "{reason}"
        );
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
    }
    assert!(target.finish().0.success());
}

/// Check that a program that puts a copy of its code in place of it is not traced from its start: breakpoints
/// in the copy would end it. Once it runs, what is not copied is traced, and the copy is named.
#[test]
fn programs_that_copy_their_code() {
    let program = private_copy(&target("copies.c", &[]), "copies");
    assert_refused(&program, "serve", "the program replaces its code by a copy when it starts");
    let mut target = Target::start(&program, &[]);
    let pid = target.pid();
    let args = ["trace", "--json", "-p", &pid].map(str::to_owned);
    let probes = probes_of(&program, &["serve", "other"]);
    let running = faultline(args.into_iter().chain(probes)).start();
    wait_counting(running.pid());
    assert_eq!(tell(&mut target, "go 10"), 120);
    running.signal(libc::SIGINT);
    let summary = running.finish().succeeded().summary();
    assert_eq!(number(probe(&summary, "other"), "hits"), 10, "{summary}");
    assert!(reason(&summary, "serve").starts_with("a copy of its code has taken its place"));
    assert!(target.finish().0.success());
}

/// Check that a function that the process overwrites while it is traced is named in the summary: its hits
/// stop, and the process computes what it would have.
#[test]
fn code_changed_while_it_is_traced() {
    let (program, mut target) = changes("changed_meanwhile");
    let pid = target.pid();
    let args = ["trace", "--json", "-p", &pid].map(str::to_owned);
    let running = faultline(args.into_iter().chain(probes_of(&program, &FUNCTIONS))).start();
    wait_counting(running.pid());
    assert_eq!(tell(&mut target, "go 10"), sum(10, false));
    assert_eq!(tell(&mut target, "patch"), 0);
    assert_eq!(tell(&mut target, "unlock"), 0);
    assert_eq!(tell(&mut target, "go 5"), sum(5, true));
    running.signal(libc::SIGINT);
    let summary = running.finish().succeeded().summary();
    for function in FUNCTIONS {
        let hits = if function == "hooked" { 10 } else { 15 };
        assert_eq!(number(probe(&summary, function), "hits"), hits, "{function}: {summary}");
    }
    let notes = summary["notes"].as_array().unwrap();
    let note = format!(
        "`{}` was not traced to the end: its code was changed in memory",
        probe(&summary, "hooked")["probe"].as_str().unwrap()
    );
    let said = |one: &&Value| one.as_str().unwrap().starts_with(&note);
    assert_eq!(notes.iter().filter(said).count(), 1, "{summary}");
    assert!(!summary["notes"].to_string().contains("unlocked"), "{summary}");
    assert_eq!(tell(&mut target, "go 3"), sum(3, true), "after the detach");
    assert!(target.finish().0.success());
}

/// Check that a link for all processes is not made where it would harm one of them; and that a process that
/// merely cannot be seen is named, while the others are traced.
#[test]
fn code_changed_in_one_of_many() {
    let (program, mut changed) = changes("one_of_many");
    let mut other = Target::start(&program, &[]);
    tell(&mut changed, "patch");
    tell(&mut changed, "unlock");
    let args = ["trace", "--json"].map(str::to_owned);
    let running = faultline(args.into_iter().chain(probes_of(&program, &FUNCTIONS))).start();
    wait_counting(running.pid());
    assert_eq!(tell(&mut changed, "go 10"), sum(10, true));
    assert_eq!(tell(&mut other, "go 7"), sum(7, false));
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    assert!(reason(&summary, "hooked").contains(&format!(": process {}", changed.pid())));
    for function in ["moved", "overlaid", "plain", "quick"] {
        assert_eq!(number(probe(&summary, function), "hits"), 17, "{summary}");
    }
    assert_eq!(number(&summary["attach"], "skipped"), 1, "{summary}");
    assert_eq!(number(probe(&summary, "unlocked"), "hits"), 7, "{summary}");
    let note = format!(
        "`{}` is not traced everywhere: its code is in memory that the process may write to",
        probe(&summary, "unlocked")["probe"].as_str().unwrap()
    );
    assert!(summary["notes"].to_string().contains(&note), "{summary}");
    assert!(finished.stderr.contains("is not traced everywhere"), "{}", finished.stderr);
    assert!(changed.finish().0.success() && other.finish().0.success());
}

/// Check that the breakpoints of another tracer are not taken for patches, nor the calls that the kernel
/// makes of them: both see every hit.
#[test]
fn breakpoints_of_another_tracer() {
    let (program, mut target) = changes("two_tracers");
    let pid = target.pid();
    let args = ["trace", "--json", "-p", &pid].map(str::to_owned);
    let start = || faultline(args.iter().cloned().chain(probes_of(&program, &FUNCTIONS))).start();
    let first = start();
    wait_counting(first.pid());
    // The kernel makes a call of the nop at its first hits.
    assert_eq!(tell(&mut target, "go 100"), sum(100, false));
    let second = start();
    wait_counting(second.pid());
    assert_eq!(tell(&mut target, "go 10"), sum(10, false));
    let runs = [first, second];
    runs.iter().for_each(|run| run.signal(libc::SIGINT));
    for (run, calls) in runs.into_iter().zip([110, 10]) {
        let summary = run.finish().succeeded().summary();
        for function in FUNCTIONS {
            assert_eq!(number(probe(&summary, function), "hits"), calls, "{function}: {summary}");
        }
        assert_eq!(number(&summary["attach"], "skipped"), 0, "{summary}");
    }
    // Nothing of them is left that would be taken for a patch.
    let third = start();
    wait_counting(third.pid());
    assert_eq!(tell(&mut target, "go 5"), sum(5, false));
    third.signal(libc::SIGINT);
    assert_eq!(number(&third.finish().succeeded().summary(), "hits"), 30);
    assert!(target.finish().0.success());
}

/// Check that a thousand functions that another tracer has its breakpoints on, and that are being called,
/// are all taken for what they are.
#[test]
fn a_thousand_functions_of_another_tracer() {
    let program = private_copy(&target("churn.c", &[]), "thousand");
    let target = Target::start(&program, &["1"]);
    let pid = target.pid();
    let (functions, count) = if kernel_batches() { ("churn_*", 1000) } else { ("churn_1?", 10) };
    let probe = probes_of(&program, &[functions]).remove(0);
    let start = || faultline(["count", "--json", "-p", &pid, &probe]).start();
    let first = start();
    wait_counting(first.pid());
    let second = start();
    wait_counting(second.pid());
    for run in [first, second] {
        run.signal(libc::SIGINT);
        let finished = run.finish().succeeded();
        let summary = finished.json().pop().unwrap();
        assert_eq!(number(&summary["attach"], "probes"), count, "{summary}");
        assert!(!finished.stderr.contains("not traced"), "{}", finished.stderr);
    }
    assert!(target.finish().1.ends_with(" 0\n"), "wrong results");
}
