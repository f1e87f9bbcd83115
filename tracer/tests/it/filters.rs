//! `--where`, `--sample` and `--rate` on the real kernel: only matching calls arrive, and each of the
//! others is counted under the right cause. Needs root.
//!
//! Contents: numbers; text; what cannot be read; who calls; returns; samples and rates; usage.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    Finished, Target, faultline,
    live::{Traced, probe, probes_of, summary_of},
    number, sum, target,
};

fn program() -> PathBuf {
    target("where.c", &[])
}

/// Traces a mode of `where.c` from its first instruction, under these probes and this condition.
fn trace(mode: &str, condition: &str, functions: &[&str]) -> Finished {
    let program = program();
    let command = format!("{} {mode}", program.display());
    let options = ["trace", "--json", "-c", &command, "--where", condition];
    let probes = probes_of(&program, functions);
    let run = faultline(options.into_iter().map(str::to_owned).chain(probes)).run().succeeded();
    assert_eq!(run.summary()["command"]["exit_code"], 0, "{}", run.stderr);
    run
}

/// The value of an argument in each event of one function, in their order.
fn values(run: &Finished, function: &str, name: &str) -> Vec<Value> {
    let of_function = |event: &Value| {
        event["probe"].as_str().is_some_and(|label| label.rsplit(':').next() == Some(function))
    };
    let events = run.events().into_iter().filter(of_function);
    events.map(|event| event["args"][name].clone()).collect()
}

/// How many hits were delivered, filtered, and, among those, undecided.
fn left(part: &Value) -> (u64, u64, u64) {
    let count = |name| number(part, name);
    (count("delivered"), count("filtered"), count("filtered_undecided"))
}

// ---- numbers ----

const NUMBERS: [i64; 19] = [
    0,
    1,
    -1,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2147483647,
    2147483648,
    4294967295,
    4294967296,
    i64::MAX,
    i64::MIN,
    0x1234_5678_0000_0007,
];

/// A type, and how it reads a register's content.
type Narrow = (&'static str, fn(i64) -> i128);

const TYPES: [Narrow; 8] = [
    ("i8", |v| i128::from(v as i8)),
    ("u8", |v| i128::from(v as u8)),
    ("i16", |v| i128::from(v as i16)),
    ("u16", |v| i128::from(v as u16)),
    ("i32", |v| i128::from(v as i32)),
    ("u32", |v| i128::from(v as u32)),
    ("i64", i128::from),
    ("u64", |v| i128::from(v as u64)),
];

/// Check that numbers of every width are compared according to their type by every comparison, whatever is
/// in the upper bits of their register.
#[test]
fn numbers_of_every_width() {
    let functions: Vec<_> = TYPES.iter().map(|(ty, _)| format!("num_{ty}(v: {ty})")).collect();
    let functions: Vec<_> = functions.iter().map(String::as_str).collect();
    type Case = (&'static str, fn(i128) -> bool);
    let conditions: [Case; 9] = [
        ("v == 7", |v| v == 7),
        ("v != 7", |v| v != 7),
        ("v < 1", |v| v < 1),
        ("v <= 1", |v| v <= 1),
        ("v > 7", |v| v > 7),
        ("v >= 7", |v| v >= 7),
        ("!(v > 0 && v < 127) || v == 7", |v| !(v > 0 && v < 127) || v == 7),
        ("v & 0x41 != 0", |v| v & 0x41 != 0),
        ("v in {0, 1, 0x7f}", |v| [0, 1, 127].contains(&v)),
    ];
    for (condition, holds) in conditions {
        let run = trace("numbers", condition, &functions);
        let summary = run.summary();
        for (ty, narrow) in TYPES {
            let function = format!("num_{ty}");
            let wanted: Vec<_> = NUMBERS.iter().map(|v| narrow(*v)).filter(|v| holds(*v)).collect();
            let got: Vec<_> = values(&run, &function, "v")
                .iter()
                .map(|v| v.as_i64().map(i128::from).or(v.as_u64().map(i128::from)).unwrap())
                .collect();
            assert_eq!(got, wanted, "{ty}: {condition}");
            let filtered = (NUMBERS.len() - wanted.len()) as u64;
            assert_eq!(left(probe(&summary, &function)), (wanted.len() as u64, filtered, 0));
        }
    }
}

/// Check that an argument that is passed on the stack is compared.
#[test]
fn arguments_on_the_stack() {
    let run = trace("calls", "g < -2 || g == 4", &["seventh(_, _, _, _, _, _, g: i32)"]);
    assert_eq!(values(&run, "seventh", "g"), [-5, -4, -3, 4]);
    assert_eq!(left(&run.summary()), (4, 6, 0));
}

// ---- text ----

/// Check that string equality and prefixes are exact at every length around the limits of a step.
#[test]
fn strings_of_every_length() {
    let lengths = [
        0, 1, 62, 63, 64, 65, 126, 127, 128, 129, 191, 192, 193, 200, 254, 255, 256, 257, 300, 5000,
    ];
    for length in [1, 63, 64, 65, 127, 128, 192, 200, 255, 256] {
        let constant = "a".repeat(length);
        let shown = |run: &Finished| -> Vec<usize> {
            let texts = values(run, "text", "s");
            texts.iter().map(|s| s.as_str().unwrap().len()).collect()
        };
        let run = trace("texts", &format!("s == \"{constant}\""), &["text(s: str[8192])"]);
        assert_eq!(shown(&run), [length], "==");
        let run = trace("texts", &format!("s ^= \"{constant}\""), &["text(s: str[8192])"]);
        let wanted: Vec<_> = lengths.into_iter().filter(|other| *other >= length).collect();
        assert_eq!(shown(&run), wanted, "^= {length}");
        // The three pointers that cannot be read.
        assert_eq!(left(&run.summary()), (wanted.len() as u64, 24 - wanted.len() as u64, 3));
    }
    let run = trace("texts", "s == \"\" || s in {\"end\", \"b\"}", &["text(s: str)"]);
    assert_eq!(values(&run, "text", "s"), ["", "end"]);
}

/// Check that a condition may use a returned string.
#[test]
fn returned_strings() {
    let condition = format!("ret == \"{}\" || ret == \"a\"", "a".repeat(257 - 1));
    let run = trace("texts", &condition, &["gives -> str"]);
    let returned: Vec<_> =
        run.events().iter().map(|event| event["ret"].as_str().unwrap().len()).collect();
    assert_eq!(returned, [1, 256]);
    // 20 entries, and the other 18 returns.
    assert_eq!(left(&run.summary()), (2, 38, 0));
}

/// Check that ranges are compared byte by byte, with their length.
#[test]
fn ranges() {
    for (condition, lengths, undecided) in [
        (r#"p == "x\x00y""#, &[3][..], 0),
        // Where there is a byte, except at the null pointer.
        (r#"p ^= "x""#, &[3], 1),
        (r#"p == """#, &[0], 0),
        (r#"p == "end\0""#, &[4], 0),
        (r#"p == "a""#, &[1], 0),
        // The bytes are only compared if there are two.
        (r#"p == "aa""#, &[], 1),
        (r#"p ^= "end\0x""#, &[], 1),
    ] {
        let run = trace("texts", condition, &["range(p: bytes[n], n: i32)"]);
        assert_eq!(values(&run, "range", "n"), lengths, "{condition}");
        assert_eq!(left(&run.summary()).2, undecided, "{condition}");
    }
    let run = trace("texts", "p == \"aaaa\"", &["range(p: bytes[4], n: i32)"]);
    assert!(number(&run.summary(), "delivered") >= 17);
}

// ---- what cannot be read ----

/// Check that a value that cannot be read matches neither a condition nor its opposite, that this is
/// counted, and that a condition that is decided without the value does not need it.
#[test]
fn unreadable_values_are_undecided() {
    for (condition, delivered, undecided) in [
        ("s == \"end\"", 1, 3),
        ("s != \"end\"", 20, 3),
        ("!(s == \"end\")", 20, 3),
        ("s == \"end\" || s != \"end\"", 21, 3),
        ("pid == 0 && s == \"end\"", 0, 0),
        ("pid != 0 || s == \"end\"", 24, 0),
    ] {
        let run = trace("texts", condition, &["text(s: str)"]);
        assert_eq!(left(&run.summary()), (delivered, 24 - delivered, undecided), "{condition}");
    }
    let text = faultline([
        "trace",
        "-c",
        &format!("{} texts", program().display()),
        "--where",
        "s == \"end\"",
        &format!("{}:text(s: str)", program().display()),
    ])
    .run()
    .succeeded();
    assert!(text.stderr.contains("undecided   3"), "{}", text.stderr);
}

/// Check that strings on pages that are only on disk are compared too.
#[test]
fn cold_pages() {
    let program = target("cold_pages.c", &[]);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("files");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("where_cold_pages");
    let command = format!("{} {}", program.display(), file.display());
    for (condition, delivered) in
        [("text == \"the string of page 7\"", 1), ("text ^= \"the string of page 1\"", 11)]
    {
        let run = faultline([
            "trace",
            "--json",
            // Faults pages in on every kernel.
            "--force",
            "-c",
            &command,
            "--where",
            condition,
            &format!("{}:take(text: str)", program.display()),
        ])
        .run()
        .succeeded();
        assert!(run.stderr.contains("cold 64\n"), "the pages were not cold: {}", run.stderr);
        let summary = run.summary();
        assert_eq!(left(&summary), (delivered, 64 - delivered, 0), "{condition}");
        assert_eq!(number(&summary["faults"], "count"), 64);
    }
}

// ---- who calls ----

/// Runs `work` in threads under these options and probes, until it is done.
fn work(calls: u64, threads: u64, options: &[&str]) -> Finished {
    let program = program();
    let (calls, threads) = (calls.to_string(), threads.to_string());
    let mut traced = Traced::start(&program, &["work", &calls, &threads], options);
    traced.go();
    traced.finish().well()
}

fn work_probe(signature: &str) -> String {
    format!("{}:work{signature}", program().display())
}

/// Check that threads can be selected by name and id, and processes by id.
#[test]
fn threads_and_processes() {
    let probe = work_probe("");
    for (condition, delivered) in [
        ("comm == \"worker2\"", 10),
        ("comm == \"worker\"", 0),
        ("comm ^= \"worker\"", 40),
        ("comm in {\"worker0\", \"worker3\"}", 20),
        ("comm != \"worker0\"", 30),
        ("pid == 1", 0),
    ] {
        let summary = work(10, 4, &["--where", condition, &probe]).summary();
        assert_eq!(left(&summary), (delivered, 40 - delivered, 0), "{condition}");
    }
    let target = Target::start(&program(), &["work", "10", "4"]);
    let condition = format!("pid == {0} && tid != {0}", target.pid());
    let mut traced = Traced::attach(target, &["--where", &condition, &probe]);
    traced.go();
    assert_eq!(left(&traced.finish().well().summary()), (40, 0, 0));
}

/// Check that with four threads at full speed each call is judged correctly, and returns follow their
/// entries.
#[test]
fn four_threads_at_full_speed() {
    let probe = work_probe("(i: i64, thread: i32) -> i64");
    let condition = "i & 0xff == 7 && thread != 2";
    let run = work(50_000, 4, &["--where", condition, "--buffer", "64MiB", &probe]);
    let summary = summary_of(&run.stdout);
    // 196 of 0…49999 end in 7 (base 256), in three threads, entry and return.
    let wanted = (0..50_000).filter(|i| i & 0xff == 7).count() as u64 * 3 * 2;
    assert_eq!(left(&summary), (wanted, 400_000 - wanted, 0));
    assert_eq!(number(&summary["returns"], "returned"), 200_000);
    assert_eq!(number(&summary["dropped"], "no_entry"), 0);
}

// ---- returns ----

/// Check that a condition on the return shows the returns that match it, and nothing else.
#[test]
fn returns_and_durations() {
    let probes = ["takes(ms: i64, result: i64) -> i64"];
    for (condition, results) in [
        ("ret < 0", &[-5, -5][..]),
        ("duration > 300ms", &[5, -5]),
        ("duration < 300ms && ret == 5", &[5]),
        ("ms == 400 && ret == -5", &[-5]),
        ("ms == 400 || ret == -5", &[-5, 5, -5]),
        ("!(ms == 0 && duration < 300ms) && result > 0", &[5]),
        ("ret == 5 || pid == 0", &[5, 5]),
    ] {
        let run = trace("calls", condition, &probes);
        let returned: Vec<_> = run.events().iter().map(|event| event["ret"].clone()).collect();
        assert_eq!(returned, results, "{condition}");
        let summary = run.summary();
        let delivered = results.len() as u64;
        assert_eq!(left(&summary), (delivered, 8 - delivered, 0), "{condition}");
        assert_eq!(number(&summary["returns"], "returned"), 4);
    }
}

/// Check that the returns of nested calls follow their own entries.
#[test]
fn recursion() {
    let run = trace("calls", "depth > 30", &["down(depth: i64) -> i64"]);
    let events = run.events();
    let entries: Vec<_> = events.iter().filter(|event| event["kind"] == "entry").collect();
    let depths: Vec<_> = entries.iter().map(|event| number(&event["args"], "depth")).collect();
    assert_eq!(depths, (31..=50).rev().collect::<Vec<_>>());
    let returns: Vec<_> = events.iter().filter(|event| event["kind"] == "return").collect();
    let returned: Vec<_> = returns.iter().map(|event| number(event, "ret")).collect();
    assert_eq!(returned, (31..=50).collect::<Vec<_>>());
    let summary = run.summary();
    assert_eq!(left(&summary), (40, 60, 0));
    assert_eq!(number(&summary["dropped"], "no_entry"), 0);
}

// ---- samples and rates ----

/// Check that a sample is about as large as it should be, and that a return follows its entry.
#[test]
fn samples() {
    let probe = work_probe("(i: i64, thread: i32) -> i64");
    let run = work(10_000, 4, &["--sample", "1/10", "--buffer", "64MiB", &probe]);
    let summary = summary_of(&run.stdout);
    assert_eq!(number(&summary, "hits"), 80_000);
    let delivered = number(&summary, "delivered");
    assert_eq!(number(&summary, "sampled_out"), 80_000 - delivered);
    // 4000 calls are expected, with a standard deviation of 60.
    assert!((3_400..=4_600).contains(&(delivered / 2)), "{summary}");
    let kinds = |kind: &str| {
        let kind = format!("\"kind\":\"{kind}\"");
        run.stdout.lines().filter(|line| line.contains(&kind)).count()
    };
    assert_eq!(kinds("entry"), kinds("return"));
    let all = work(1_000, 2, &["--sample", "1/1", &probe]).summary();
    assert_eq!(number(&all, "delivered"), 4_000);
}

/// Check that no more calls pass than the rate and its burst allow, for each probe separately, and that the
/// first ones do pass.
#[test]
fn rates() {
    let program = program();
    let target = Target::start(&program, &["spin"]);
    let options = ["--rate", "1000/s", "--duration", "3s", &work_probe("(i: i64) -> i64")];
    let mut traced = Traced::attach(target, &options);
    traced.target.send("go");
    let run = traced.running.finish().succeeded();
    traced.target.child.kill().unwrap();
    let summary = summary_of(&run.stdout);
    let entries = run.stdout.lines().filter(|line| line.contains("\"kind\":\"entry\"")).count();
    let seconds = summary["duration_ms"].as_f64().unwrap() / 1_000.0;
    let most = 100.0 + 1_000.0 * (seconds + 0.1);
    assert!((100.0..=most).contains(&(entries as f64)), "{entries} calls in {seconds} s");
    assert!(number(&summary, "throttled") > 10_000, "{summary}");
    assert_eq!(number(&summary, "filtered") + number(&summary, "sampled_out"), 0);
}

/// Check that each probe has a rate of its own, on all CPUs together.
#[test]
fn rates_are_per_probe() {
    // A second call would need a tenth of a minute.
    let options = ["--rate", "1/m", &work_probe("(i: i64)"), &work_probe("(i: i64, t: i32)")];
    let summary = work(2_000, 4, &options).summary();
    assert_eq!(number(&summary, "hits"), 16_000);
    assert_eq!(number(&summary, "delivered"), 2);
    assert_eq!(number(&summary, "throttled"), 15_998);
}

/// Check that the condition comes first, then the sample, then the rate.
#[test]
fn all_together() {
    let probe = work_probe("(i: i64)");
    let options = ["--where", "i < 5000", "--sample", "1/2", "--rate", "20/m", &probe];
    let summary = work(10_000, 2, &options).summary();
    assert_eq!(number(&summary, "filtered"), 10_000);
    let sampled_out = number(&summary, "sampled_out");
    assert!((4_500..=5_500).contains(&sampled_out), "{summary}");
    assert!((2..=3).contains(&number(&summary, "delivered")), "{summary}");
    let at_return = work_probe("(i: i64) -> i64");
    let options = ["--where", "ret < 5000", "--sample", "1/2", &at_return];
    let summary = work(10_000, 1, &options).summary();
    // Every entry, and half of the returns.
    assert_eq!(number(&summary, "filtered"), 15_000);
    assert!((2_200..=2_800).contains(&number(&summary, "sampled_out")), "{summary}");
}

// ---- usage ----

/// Check that invalid conditions, samples and rates are wrong usage, and that the error points at the
/// mistake.
#[test]
fn wrong_usage() {
    let probe = work_probe("(i: i64, thread: i32)");
    for (option, value, told) in [
        ("--where", "i >", "  i >\n     ^"),
        ("--where", "thread < \"x\"", "  thread < \"x\"\n           ^~~"),
        ("--where", "thraed == 1", "did you mean `thread`?"),
        ("--where", "ret == 1", "-> i64`"),
        ("--where", "thread == 0x80000000", "`-2147483648` has the same bits"),
        ("--sample", "5", "such as `1/100`"),
        ("--sample", "3/2", "at most 1"),
        ("--rate", "5", "such as `1000/s`"),
        ("--rate", "0/s", "from 1 to"),
    ] {
        let run = faultline(["trace", option, value, &probe]).run();
        assert_eq!(run.status.code(), Some(2), "{option} {value}: {}", run.stderr);
        assert!(run.stderr.contains(told), "{option} {value}: {}", run.stderr);
    }
}

/// Check that a probe that the condition does not apply to is skipped with the reason, and the rest is
/// traced; with --strict nothing is.
#[test]
fn probes_without_the_name() {
    let program = program();
    let probes = probes_of(&program, &["takes(ms: i64)", "down(depth: i64)"]);
    let command = format!("{} calls", program.display());
    let options = ["trace", "--json", "-c", &command, "--where", "depth == 3"].map(str::to_owned);
    let run = faultline(options.iter().chain(&probes)).run().succeeded();
    let summary = run.summary();
    assert_eq!(left(&summary), (1, 49, 0));
    let reason = "the condition uses a name that this probe does not have: `depth`";
    assert_eq!(summary["skipped"][0]["reason"], reason, "{summary}");
    let strict = faultline(options.iter().chain(&probes).chain(&["--strict".to_owned()])).run();
    assert_eq!(strict.status.code(), Some(1), "{}", strict.stderr);
}

/// Check that a dry run shows the condition and the limits.
#[test]
fn dry_run() {
    let probe = work_probe("(i: i64)");
    let options = ["trace", "--dry-run", "--where", "i>0x10", "--sample", "1/5", "--rate", "9/s"];
    let run = faultline(options.into_iter().chain([&*probe])).run().succeeded();
    for line in ["where i > 16\n", "sample 1/5\n", "rate 9/s\n"] {
        assert!(run.stdout.contains(line), "{}", run.stdout);
    }
    let run = faultline(options.into_iter().chain([&*probe, "--json"])).run().succeeded();
    assert_eq!(run.json()[0]["where"], "i > 16", "{}", run.stdout);
}

// ---- count and latency ----

/// The line of one function in what `count --json` or `latency --json` prints, and the summary.
fn summed(command: &str, condition: &str, signature: &str, options: &[&str]) -> (Value, Value) {
    let probe = work_probe(signature);
    let target = format!("{} work 10000 4", program().display());
    let fixed = [command, "--json", "-c", &target, "--where", condition, &probe];
    let finished = faultline(fixed.iter().chain(options)).run().succeeded();
    let lines = finished.json();
    let line = lines.iter().find(|line| line["type"] == command);
    let summary = lines.last().unwrap().clone();
    let chosen = ["delivered", "filtered", "sampled_out", "throttled"];
    let accounted = chosen.iter().map(|name| number(&summary, name)).sum::<u64>();
    assert_eq!(number(&summary, "hits"), accounted + sum(&summary["dropped"]), "{summary}");
    (line.unwrap_or_else(|| panic!("no line: {lines:?}")).clone(), summary)
}

/// Check that only matching calls are counted, by their arguments or by their return.
#[test]
fn counts() {
    let (line, summary) = summed("count", "i < 10 && thread != 1", "(i: i64, thread: i32)", &[]);
    assert_eq!(number(&line, "hits"), 30, "{line}");
    assert_eq!(left(&summary), (30, 40_000 - 30, 0));
    // The result is `i - thread`.
    let (line, summary) = summed("count", "ret < 0", "(i: i64, thread: i32) -> i64", &[]);
    assert_eq!(number(&line, "hits"), 1 + 2 + 3, "{line}");
    assert_eq!(left(&summary), (6, 80_000 - 6, 0));
    let probe = work_probe("(i: i64)");
    let run = faultline(["count", "--rate", "10/s", &probe]).run();
    assert_eq!(run.status.code(), Some(2), "{}", run.stderr);
}

/// Check that only the durations of matching calls are in the histogram.
#[test]
fn latencies() {
    let (line, summary) = summed("latency", "i < 10 && ret >= 0", "(i: i64) -> i64", &[]);
    assert_eq!(number(&line, "count"), 10 + 9 + 8 + 7, "{line}");
    // The entries that matched are not results by themselves.
    assert_eq!(number(&summary, "hits"), 80_000);
    let (line, summary) = summed("latency", "i < 5000", "(i: i64)", &["--sample", "1/2"]);
    let count = number(&line, "count");
    assert!((9_300..=10_700).contains(&count), "{line}");
    assert_eq!(number(&summary, "sampled_out"), 2 * (20_000 - count), "{summary}");
}
