//! What a hit costs, and what could hurt: reported before anything is attached.
//!
//! - `list`, `--dry-run`: class and cost of each function; `--preview` counts exactly
//! - summaries: what the probes cost, in total, by probe and by CPU
//! - hazards: refused with the reason, allowed with `--force`

use serde_json::Value;

use crate::support::{
    assert_conserved, faultline,
    live::{private_copy, probes_of},
    number, target,
};

/// The lines of one type.
fn lines(all: &[Value], kind: &str) -> Vec<Value> {
    all.iter().filter(|line| line["type"] == kind).cloned().collect()
}

/// Check that `list` and `--dry-run` show the class and the cost of each function, also where the
/// breakpoint stays at the entry; and that single-stepped instructions cost more than others.
#[test]
#[cfg(target_arch = "x86_64")]
fn class_and_cost_of_each_function() {
    let program = target("entries.c", &["-fcf-protection"]);
    let place = |line: &Value| {
        (
            number(line, "moved_bytes"),
            line["class"].as_str().unwrap().to_owned(),
            number(line, "ns_a_call"),
        )
    };
    let list = faultline(["list", "--json", &format!("{}:plain", program.display())]).run();
    let [listed] = &lines(&list.succeeded().json(), "function")[..] else { panic!("one function") };
    let probe = probes_of(&program, &["plain"]).remove(0);
    let planned = |placement| {
        let run =
            faultline(["count", &probe, "--dry-run", "--json", "--placement", placement]).run();
        lines(&run.succeeded().json(), "planned").remove(0)
    };
    let (auto, entry) = (planned("auto"), planned("entry"));
    assert_eq!(place(listed), place(&auto));
    let (moved, class, cheap_ns) = place(&auto);
    assert_eq!((moved, class.as_str()), (4, "emulated"));
    let (moved, class, dear_ns) = place(&entry);
    assert_eq!((moved, class.as_str()), (0, "single-stepped"));
    assert!(cheap_ns > 0 && cheap_ns < dear_ns, "{cheap_ns} against {dear_ns}");

    let text = faultline(["list", &format!("{}:plain", program.display())]).run().succeeded();
    assert!(text.stdout.contains("+4 emulated (was single-stepped)"), "{}", text.stdout);
    let dry = faultline(["trace", &probe, "--dry-run"]).run().succeeded();
    assert!(dry.stdout.contains("+4 emulated (was single-stepped), "), "{}", dry.stdout);
}

/// Check that each nop that assemblers pad with has the class that the kernel gives it, seen from the
/// traced program: nops of two to eight bytes were priced as single-stepped where they are emulated. What
/// the kernel refuses is reported, not counted as never called.
#[test]
#[cfg(target_arch = "x86_64")]
fn nops_of_every_length_have_their_price() {
    let program = target("nops.c", &[]);
    let probe = |bytes: usize| probes_of(&program, &[&format!("nop{bytes}")]).remove(0);
    let dry_run = |bytes: usize| {
        let args = ["count", "--json", "--dry-run", "--placement", "entry", &probe(bytes)];
        faultline(args).run().succeeded().json()
    };
    let count = |bytes: usize| {
        let command = format!("{} {bytes}", program.display());
        let args = ["count", "--json", "--placement", "entry", "-c", &command, &probe(bytes)];
        faultline(args).run()
    };
    // `nop0` begins with a `mov`.
    let stepped = lines(&dry_run(0), "planned").remove(0);
    assert_eq!(stepped["class"], "single-stepped", "{stepped}");
    let stepped_ns = number(&stepped, "ns_a_call");
    for bytes in 0..=10 {
        let (dry, run) = (dry_run(bytes), count(bytes));
        let Some(planned) = lines(&dry, "planned").pop() else {
            assert_eq!(bytes, 10, "{dry:?}");
            let reason = "the kernel does not support a breakpoint on the instruction there";
            assert!(dry[0]["reason"].as_str().unwrap().starts_with(reason), "{dry:?}");
            assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
            assert!(run.stderr.contains(reason), "{}", run.stderr);
            let doctor = faultline(["doctor"]).run();
            assert!(doctor.stdout.contains("refused at 10-byte nops"), "{}", doctor.stdout);
            continue;
        };
        let is_stepped = run.stderr.contains("single-stepped: 1");
        let run = run.succeeded();
        assert!(is_stepped || run.stderr.contains("single-stepped: 0"), "{}", run.stderr);
        let ns = number(&planned, "ns_a_call");
        assert_eq!(planned["class"] == "single-stepped", is_stepped, "{planned}");
        assert_eq!(ns * 10 >= stepped_ns * 6, is_stepped, "{planned}: `mov` takes {stepped_ns}");
        let summary = run.json().pop().unwrap();
        assert_eq!(number(&summary, "hits"), 100, "{summary}");
        assert_eq!(number(&summary["cost"], "estimated_ns"), 100 * ns, "{summary}");
    }
}

/// Check that a preview counts every call of a command, says what tracing them would cost, and leaves
/// nothing attached; and that a preview of functions that are not called says so.
#[test]
fn preview_counts_exactly() {
    let program = private_copy(&target("functions.c", &["-O0"]), "preview");
    let command = format!("{} 20", program.display());
    let probe = probes_of(&program, &["fn_000?(a: u64) -> u64"]).remove(0);
    let args = ["trace", &probe, "--dry-run", "--preview", "1m", "--json", "-c", &command];
    let all = faultline(args).run().succeeded().json();
    let planned = lines(&all, "planned");
    assert_eq!(planned.len(), 10);
    assert!(planned.iter().all(|line| number(line, "preview_calls") == 20), "{planned:?}");
    let plan = &lines(&all, "plan")[0];
    assert_eq!(number(plan, "preview_calls"), 200);
    assert!(plan["estimated_overhead_percent"].as_f64().unwrap() > 0.0, "{plan}");

    let target = format!("{}:fn_000?", program.display());
    let list = ["list", &target, "--preview", "1m", "--json", "-c", &command];
    let listed = lines(&faultline(list).run().succeeded().json(), "function");
    assert_eq!(listed.len(), 10);
    assert!(listed.iter().all(|line| number(line, "preview_calls") == 20), "{listed:?}");
    let idle = faultline(["list", &target, "--preview", "10ms"]).run().succeeded();
    assert!(idle.stderr.contains("0 calls in"), "{}", idle.stderr);
    // A preview without a dry run makes no sense.
    assert_eq!(faultline(["trace", &probe, "--preview", "1s"]).run().status.code(), Some(2));
}

/// Check that every summary reports what the probes cost, by probe and by CPU, and that the parts add up;
/// and the programs' own share if they do more than count.
#[test]
fn summaries_tell_what_probes_took() {
    let program = target("durations.c", &[]);
    for (command, functions, has_programs) in [
        ("trace", ["busy_1us(a: u64) -> u64", "sleep_10ms"], true),
        ("count", ["busy_1us", "sleep_10ms"], false),
        ("latency", ["busy_1us", "sleep_10ms"], true),
    ] {
        let mut run = faultline([command, "--json", "-c", program.to_str().unwrap()]);
        run.command().args(probes_of(&program, &functions));
        let summary = run.run().succeeded().json().pop().unwrap();
        let took = |part: &Value| {
            (number(&part["cost"], "handler_ns"), number(&part["cost"], "estimated_ns"))
        };
        let (handler_ns, estimated_ns) = took(&summary);
        assert_eq!(handler_ns > 0, has_programs, "{command}: {summary}");
        assert!(estimated_ns > handler_ns, "{command}: {summary}");
        assert!(number(&summary, "cpus") >= 1);
        let per_cpu = summary["per_cpu"].as_array().unwrap();
        let sum = per_cpu.iter().map(took).fold((0, 0), |sum, (a, b)| (sum.0 + a, sum.1 + b));
        assert_eq!(sum, (handler_ns, estimated_ns), "{command}: {summary}");
        if command == "trace" {
            assert_conserved(&summary);
        }
    }
}

/// Check that returns in a Go program are refused with the reason, entries are not, and `--force` overrides
/// that.
#[test]
fn go_returns_are_refused() {
    let program = target("hazards.c", &["-DLIKE_GO"]);
    let run = |more: &[&str], function: &str| {
        let mut run = faultline(["trace", "--json", "-c", program.to_str().unwrap()]);
        run.command().args(probes_of(&program, &[function])).args(more);
        run.run()
    };
    let refused = run(&[], "leaf(n: i64) -> i64");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("Go moves the stacks"), "{}", refused.stderr);
    assert_eq!(number(&run(&[], "leaf(n: i64)").succeeded().summary(), "delivered"), 200);
    let forced = run(&["--force"], "leaf(n: i64) -> i64").succeeded();
    assert_eq!(number(&forced.summary(), "delivered"), 400);
    let doctor = faultline(["doctor", program.to_str().unwrap()]).run();
    assert!(doctor.stdout.contains("returns need --force: Go"), "{}", doctor.stdout);
}

/// Check that a probe on a five-byte nop inside a function is refused where this kernel would overwrite
/// what the function keeps below its stack pointer, as `doctor` found out, and is harmless otherwise.
#[test]
#[cfg(target_arch = "x86_64")]
fn nop_inside_a_leaf_function() {
    let program = target("hazards.c", &[]);
    let doctor = faultline(["doctor", "--json"]).run().json();
    let feature = doctor.iter().find(|line| line["feature"] == "five-byte nops inside functions");
    let hurts = feature.unwrap()["finding"] == "degraded";
    let mut run = faultline(["count", "--json", "-c", program.to_str().unwrap()]);
    run.command().args(probes_of(&program, &["leaf+5"]));
    let finished = run.run();
    if hurts {
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stderr.contains("below its stack pointer"), "{}", finished.stderr);
    } else {
        assert!(finished.stderr.contains("wrong: 0"), "{}", finished.stderr);
        assert_eq!(number(&finished.succeeded().json().pop().unwrap(), "hits"), 200);
    }
    // At the function's entry there is nothing there yet.
    let mut entry = faultline(["count", "--json", "-c", program.to_str().unwrap()]);
    entry.command().args(probes_of(&program, &["leaf"]));
    assert!(entry.run().succeeded().stderr.contains("wrong: 0"));
}
