use super::*;
use crate::{json_line, json_text, palette::Palette};
use tracer_common::counter::{Counter, ENTRIES, RETURNS};

fn ms(ms: u64) -> Millis {
    Millis(Duration::from_millis(ms))
}

fn plain(hits: u64) -> Counts {
    Counts { hits, delivered: hits, ..Counts::default() }
}

fn probe(label: &str, counts: Counts) -> ProbeSummary {
    ProbeSummary { probe: label.to_owned(), counts, seen: None }
}

/// A run in which all went well.
fn clean() -> Summary {
    let counts = Counts {
        reads: Reads { resident: 1, faulted: 65, ..Reads::default() },
        faults: Faults { count: 70, wait_ns: 12_000_000 },
        returns: Returns { opened: 33, returned: 33, ..Returns::default() },
        ..plain(66)
    };
    Summary {
        counts,
        probes: vec![probe("libc.so.6:open", counts)],
        per_cpu: vec![CpuSummary { cpu: 3, counts }],
        attach: Attach {
            probes: 10_000,
            links: 1,
            ms: Millis(Duration::from_micros(9_100)),
            ..Attach::default()
        },
        detach: Detach { ms: Millis(Duration::from_nanos(34_200_400)), grace_ms: None },
        stopped_by: "Ctrl-C".to_owned(),
        duration_ms: ms(10_000),
        ..Summary::default()
    }
}

/// A run in which everything went wrong.
fn troubled() -> Summary {
    let good = plain(7);
    let mut bad = Counts {
        hits: 1_000,
        delivered: 900,
        filtered: 30,
        sampled_out: 20,
        throttled: 10,
        dropped: Dropped {
            ring_full: 19,
            output: 8,
            after_limit: 6,
            no_entry: 4,
            undecodable: 2,
            no_memory: 0,
            abandoned: 1,
        },
        reads: Reads {
            resident: 50,
            faulted: 5,
            truncated: 4,
            failed: 6,
            failed_by_errno: FailedByErrno { efault: 3, einval: 2, eagain: 1 },
        },
        filtered_undecided: 4,
        faults: Faults { count: 5, wait_ns: 5_120 },
        returns: Returns { opened: 100, returned: 90, lost: 3, unfinished: 7, passed: 5 },
        cost: Cost { handler_ns: 90_000_000, estimated_ns: 900_000_000 },
    };
    let probes = vec![probe("l:good", good), probe("l:\u{1b}bad", bad)];
    bad += good;
    Summary {
        counts: bad,
        probes,
        per_cpu: vec![CpuSummary { cpu: 0, counts: bad }],
        cpus: 4,
        attach: Attach {
            probes: 2,
            links: 3,
            skipped: 2,
            returns: Some(ReturnsWatched { ret: 3, uretprobe: 1 }),
            ms: ms(40),
            slowest: Some(SlowestFile { file: "/usr/lib/l.so".to_owned(), ms: ms(30) }),
        },
        detach: Detach { ms: ms(1_500), grace_ms: Some(ms(30)) },
        skipped: vec![SkippedProbe { probe: "l:x".to_owned(), reason: "is data".to_owned() }],
        deaths: Vec::new(),
        caveats: Vec::new(),
        notes: vec!["this kernel is old".to_owned()],
        overhead: None,
        children: None,
        command: Some(CommandEnd::Signal(9)),
        stopped_by: String::new(),
        duration_ms: ms(90_000),
    }
}

/// Check that JSON has the fields of the contract, in their order, and no errno that did not
/// occur.
#[test]
fn json() {
    let mut out = Vec::new();
    json_line(&clean(), &mut out).unwrap();
    let counts = concat!(
        r#""hits":66,"delivered":66,"filtered":0,"sampled_out":0,"throttled":0,"#,
        r#""dropped":{"ring_full":0,"output":0,"after_limit":0,"no_entry":0,"undecodable":0,"no_memory":0,"abandoned":0},"#,
        r#""reads":{"resident":1,"faulted":65,"truncated":0,"failed":0,"failed_by_errno":{}},"#,
        r#""filtered_undecided":0,"#,
        r#""faults":{"count":70,"wait_ns":12000000},"#,
        r#""returns":{"opened":33,"returned":33,"lost":0,"unfinished":0,"passed":0},"#,
        r#""cost":{"handler_ns":0,"estimated_ns":0}"#,
    );
    let expected = format!(
        concat!(
            r#"{{"type":"summary",{counts},"probes":[{{"probe":"libc.so.6:open",{counts}}}],"#,
            r#""per_cpu":[{{"cpu":3,{counts}}}],"cpus":0,"#,
            r#""attach":{{"probes":10000,"links":1,"skipped":0,"ms":9.1}},"#,
            r#""detach":{{"ms":34.2}},"skipped":[],"stopped_by":"Ctrl-C","duration_ms":10000.0}}"#,
            "\n",
        ),
        counts = counts
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

/// Check the JSON of what a clean run does not have.
#[test]
fn json_of_trouble() {
    let mut out = Vec::new();
    json_line(&troubled(), &mut out).unwrap();
    let line = String::from_utf8(out).unwrap();
    for part in [
        r#""failed_by_errno":{"EFAULT":3,"EINVAL":2,"EAGAIN":1}"#,
        r#""probe":"l:\u001bbad""#,
        r#""skipped":[{"probe":"l:x","reason":"is data"}],"notes":["this kernel is old"],"command":{"signal":9}"#,
        r#""slowest":{"file":"/usr/lib/l.so","ms":30.0}"#,
        r#""detach":{"ms":1500.0,"grace_ms":30.0}"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let code = json_text(&CommandEnd::Code(3)).unwrap();
    assert_eq!(code, "{\"exit_code\":3}\n");
}

/// Check that the summary of a clean run is short.
#[test]
fn text() {
    assert_eq!(
        clean().text(Palette::new(false)),
        "\
66 hits, all delivered in 10.0s (Ctrl-C)
  faulted in  65  values were not resident: 70 pages faulted in, 12.0ms waited
  10000 probes attached in 9.10ms (1 link), detached in 34.2ms
"
    );
    assert_eq!(
        Summary { duration_ms: ms(1_000), ..Summary::default() }.text(Palette::new(false)),
        "no hits in 1.0s\n"
    );
    assert!(
        Summary { counts: plain(1), ..clean() }
            .text(Palette::new(false))
            .starts_with("1 hit delivered in")
    );
}

/// Check that each loss is shown with its cause, its remedy, and its probe.
#[test]
fn text_of_trouble() {
    assert_eq!(
        troubled().text(Palette::new(false)),
        r"1007 hits, 907 delivered, 40 lost in 1m 30s
  left out     60  30 by the condition, 20 by sampling, 10 by the rate limit
  undecided     4  of these because a value in the condition could not be read
  ring full    19  lost before they were read: raise --buffer, or trace less
  output        8  lost because the output could not be written
  after limit   6  arrived after the last event that was requested
  no entry      4  returns of calls whose entry was not seen
  undecodable   2  records could not be decoded: please report this
  abandoned     1  still in flight when the run ended without waiting for them
  unread        6  values could not be read: 3 EFAULT (not mapped), 2 EINVAL (a negative length), 1 EAGAIN (not resident, and not waited for)
  cut           4  values were longer than their limit: raise it, as in str[4096]
  faulted in    5  values were not resident: 5 pages faulted in, 5.12µs waited
  unfinished    7  of 100 calls had not returned
  no return     3  calls did not return, or not as far as faultline can follow: left by a jump or with their thread, over 64 deep, on another stack, or of too many tasks at once
  passed        5  hits were at `ret`s of traced functions, but of no call that is followed
  2 probes attached in 40.0ms (3 links, slowest: /usr/lib/l.so, 30.0ms), detached in 1.5s (grace period 30.0ms)
  returns watched: 3 functions at their own `ret`s, 1 by the kernel's return probe
  probes took about 900ms, 90.0ms of it in faultline's programs: 1.0 % of one CPU
  2 functions not probed, such as l:x: is data
  this kernel is old
  the command was killed by signal 9
  hits  delivered  left out  lost  unread  cut  faulted in  probe
  1000        900        60    40       6    4           5  l:\x1bbad
     7          7         0     0       0    0           0  l:good
"
    );
}

/// Check that many probes take one line.
#[test]
fn text_of_many_probes() {
    let probes = (1..=21).map(|hits| probe(&format!("l:f{hits}"), plain(hits))).collect();
    let counts = plain((1..=21).sum());
    let per_cpu = vec![CpuSummary { cpu: 0, counts }];
    let summary = Summary { counts, probes, per_cpu, ..Summary::default() };
    assert_eq!(
        summary.text(Palette::new(false)),
        "231 hits, all delivered in 0ns\n  busiest  21  hits at l:f21, of 21 probes hit\n"
    );
}

/// Check that the text says when one of several CPUs carried nearly all hits, unless they are few.
#[test]
fn text_of_one_busy_cpu() {
    let cpu = |cpu, hits| CpuSummary { cpu, counts: plain(hits) };
    let text = |one, other, cpus| {
        let per_cpu = vec![cpu(0, one), cpu(3, other)];
        Summary { counts: plain(one + other), per_cpu, cpus, ..Summary::default() }
            .text(Palette::new(false))
    };
    assert!(text(500, 99_500, 8).contains("CPU 3 of 8 carried 99 % of the hits"));
    for lines in [text(30_000, 70_000, 8), text(1, 99, 8), text(0, 100_000, 1)] {
        assert!(!lines.contains("carried"), "{lines}");
    }
}

/// Check that there are colours when asked for, and that losses have one.
#[test]
fn colours() {
    let text = troubled().text(Palette::new(true));
    assert!(text.contains("\x1b[31m40 lost\x1b[0m"), "{text}");
    assert!(text.contains("  \x1b[31mring full    19\x1b[0m  lost before"), "{text}");
    assert!(!troubled().text(Palette::new(false)).contains('\x1b'));
}

/// Check that the equation holds in total, by probe and by CPU, and that the text says if not.
#[test]
fn conservation() {
    assert!(clean().is_conserved());
    assert!(troubled().is_conserved());
    assert!(Summary::default().is_conserved());
    let broken: [fn(&mut Summary); 9] = [
        |summary| summary.counts.hits += 1,
        |summary| summary.counts.delivered += 1,
        |summary| summary.counts.reads.failed += 1,
        |summary| summary.counts.reads.resident += 1,
        |summary| summary.probes[0].counts.hits += 1,
        |summary| summary.probes[1].counts.dropped.output -= 1,
        |summary| summary.probes.truncate(1),
        |summary| summary.per_cpu.clear(),
        |summary| {
            // As many too many here as too few there.
            summary.probes[0].counts.delivered += 1;
            summary.probes[1].counts.delivered -= 1;
        },
    ];
    for (index, break_it) in broken.into_iter().enumerate() {
        let mut summary = troubled();
        break_it(&mut summary);
        assert!(!summary.is_conserved(), "{index}");
        assert!(
            summary.text(Palette::new(false)).contains("these figures do not add up"),
            "{index}"
        );
    }
}

/// Check that records of no known probe or CPU explain as many hits there, and no more.
#[test]
fn undecodable_records_have_no_probe() {
    let mut summary = clean();
    summary.counts.delivered -= 2;
    summary.counts.dropped.undecodable += 2;
    for counts in [&mut summary.probes[0].counts, &mut summary.per_cpu[0].counts] {
        counts.delivered -= 2;
    }
    assert!(summary.is_conserved());
    summary.probes[0].counts.delivered -= 1;
    assert!(!summary.is_conserved());
}

/// Check that both forms say what a budget did.
#[test]
fn overhead() {
    let overhead = Overhead {
        max_percent: Ppm::percent(0.02),
        policy: "detach".to_owned(),
        mean_percent: Ppm::percent(0.0131),
        peak_percent: Ppm::percent(0.382),
        attach_work_ms: ms(7),
        exceeded: 1,
        detached: 3,
        attached_again: 2,
        away: 1,
        attached_share: None,
    };
    let detached = Summary { overhead: Some(overhead.clone()), ..clean() };
    let text = detached.text(Palette::new(false));
    let words = "  the probes took about 1.31 % of all CPUs (at most 38.20 %; budget 2.00 %); exceeded 1 time: \
                3 probes detached, 2 attached again, 1 still detached at the end\n";
    assert!(text.contains(words), "{text}");
    let mut json = Vec::new();
    json_line(&detached, &mut json).unwrap();
    let json = String::from_utf8(json).unwrap();
    let fields = concat!(
        r#","overhead":{"max_percent":2.0,"policy":"detach","mean_percent":1.31,"#,
        r#""peak_percent":38.2,"attach_work_ms":7.0,"exceeded":1,"detached":3,"#,
        r#""attached_again":2,"away":1},"#,
    );
    assert!(json.contains(fields), "{json}");

    let share = Some(Ppm::share(0.125));
    let cycled = Overhead { policy: "duty-cycle".to_owned(), attached_share: share, ..overhead };
    let text = Summary { overhead: Some(cycled), ..clean() }.text(Palette::new(false));
    assert!(text.contains("and were attached 12.5 % of the time: figures with ~ are estimates"));
    let quiet = Overhead { exceeded: 0, ..Overhead::default() };
    let text = Summary { overhead: Some(quiet), ..clean() }.text(Palette::new(false));
    assert!(text.contains("budget 0.00 %)\n"), "{text}");
}

/// Check that both forms say what became of forked children, with and without `--follow`.
#[test]
fn children() {
    let text = |children: Children| {
        Summary { children: Some(children), ..clean() }.text(Palette::new(false))
    };
    let freed = Children {
        inherited: 12,
        freed_times: 2,
        freed_within_ms: Some(ms(1043)),
        cpu_ms: ms(270),
        ..Children::default()
    };
    let words = "  12 forked children were not traced (use --follow to trace children); the breakpoints that \
                 they inherited were removed within 1.0s\n  what these children paid until then is not known and \
                 not in any budget; those alive at that time had used 270ms of CPU\n";
    assert!(text(freed.clone()).contains(words), "{}", text(freed));
    let some = Children { inherited_to_the_end: 1, ..freed.clone() };
    let words = "were removed within 1.0s, from 1 of them at the end\n";
    assert!(text(some.clone()).contains(words), "{}", text(some));
    let none = Children { inherited: 1, inherited_to_the_end: 1, ..Children::default() };
    let words = "  1 forked child was not traced (use --follow to trace children); the breakpoints that they \
                 inherited were removed at the end\n  what these children paid until then is not known and not in \
                 any budget\n";
    assert!(text(none.clone()).contains(words), "{}", text(none));
    let followed = Children { followed: 2000, not_followed: 3, ..Children::default() };
    let words = "  2000 forked children were traced too (--follow)\n  3 forked children were not traced: too \
                 many at once\n";
    assert!(text(followed.clone()).contains(words), "{}", text(followed));

    let mut json = Vec::new();
    json_line(&Summary { children: Some(freed), ..clean() }, &mut json).unwrap();
    let json = String::from_utf8(json).unwrap();
    let fields = concat!(
        r#","children":{"followed":0,"not_followed":0,"inherited":12,"inherited_to_the_end":0,"#,
        r#""freed_times":2,"freed_within_ms":1043.0,"cpu_ms":270.0},"#,
    );
    assert!(json.contains(fields), "{json}");
}

/// Check that docs/json.md names every figure of a summary.
#[test]
fn figures_are_documented() {
    fn names(value: &serde_json::Value, all: &mut Vec<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            all.push(name.clone());
            names(value, all);
        }
    }
    let document = include_str!("../../../../docs/json.md");
    let (_, rest) = document.split_once("\n## `summary`\n").unwrap();
    let of_summary = rest.split("\n## ").next().unwrap();
    let of_event = document.split_once("\n## `count`\n").unwrap().0;
    let counts = Counts::of_kernel(&|_| 1);
    let mut all = Vec::new();
    names(&serde_json::to_value(counts).unwrap(), &mut all);
    for name in all {
        let is_errno = name.starts_with('E');
        let place = if is_errno { of_event } else { of_summary };
        // `opened = returned + …` is in one pair of marks.
        let found = place.split('`').skip(1).step_by(2).any(|marked| {
            marked.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
        });
        assert!(found, "docs/json.md does not tell of `{name}`");
    }
}

/// Check that each counter is in the summary once, and that hits are those of entries and returns.
#[test]
fn every_counter_is_in_the_summary() {
    for counter in tracer_common::counter::ALL {
        let only = |other| u64::from(other == counter);
        let counts = Counts::of_kernel(&only);
        let is_hit = u64::from(ENTRIES.contains(&counter) || RETURNS.contains(&counter));
        assert_eq!(counts.hits, is_hit, "{counter:?}");
        let sum =
            sum_of(&serde_json::to_value(counts).unwrap()) - counts.hits - counts.reads.failed;
        assert_eq!(sum, u64::from(counter != Counter::PlainHits), "{counter:?}");
    }
}

fn sum_of(value: &serde_json::Value) -> u64 {
    match value.as_object() {
        Some(fields) => fields.values().map(sum_of).sum(),
        None => value.as_u64().unwrap(),
    }
}
