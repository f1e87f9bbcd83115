//! Probes that are refused.

use super::{
    TICK,
    support::{
        faultline,
        live::{Puppet, Traced, probe, probes_of, wait_counting},
        number, target,
    },
};

/// Check that a mistake in a probe exits 2 and points at it.
#[test]
fn wrong_probe() {
    let finished = faultline(["trace", "libc:open(path: sting)"]).run();
    assert_eq!(finished.status.code(), Some(2));
    let lines: Vec<_> = finished.stderr.lines().collect();
    let at = lines.iter().position(|line| line.contains("libc:open(path: sting)")).unwrap();
    let column = lines[at].find("sting").unwrap();
    assert_eq!(lines[at + 1].find('^'), Some(column), "{}", finished.stderr);
    assert!(finished.stderr.starts_with("error: unknown type `sting`"), "{}", finished.stderr);
}

/// Check that a missing function is an error that suggests the name that was meant.
#[test]
fn unknown_function() {
    let probe = probes_of(&Puppet::program(), &["tikc"]).remove(0);
    let finished = faultline(["trace", &probe]).run();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.starts_with("error: no function `tikc` in"), "{}", finished.stderr);
    assert!(finished.stderr.contains("did you mean `tick`?"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

/// Check that everything that can be probed is, that the rest is reported with the reason, and that
/// `--strict` turns that into a failure.
#[test]
fn some_good_some_not() {
    let mut puppet = Puppet::start();
    let pid = puppet.pid();
    let mut probes = probes_of(&Puppet::program(), &[TICK, "tikc", "tick+1"]);
    let mut args = ["trace", "--json", "-p", &pid].map(str::to_owned).to_vec();
    args.append(&mut probes);
    let strict = faultline(args.iter().map(String::as_str).chain(["--strict"])).run();
    assert_eq!(strict.status.code(), Some(1), "{}", strict.stderr);
    assert_eq!(strict.stdout, "");
    assert!(strict.stderr.contains("2 probes cannot be attached (--strict)"), "{}", strict.stderr);

    let running = faultline(&args).start();
    wait_counting(running.pid());
    puppet.step(10);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 10);
    assert_eq!(number(&summary["attach"], "probes"), 1);
    assert_eq!(number(&summary["attach"], "skipped"), 2);
    let skipped = summary["skipped"].to_string();
    for said in ["no function `tikc`", "no instruction begins at this offset"] {
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
        assert!(skipped.contains(said), "{skipped}");
    }
    puppet.ends_well();
}

/// Check that a probe inside an instruction is refused before it can do harm, and that one at the next
/// instruction is not.
#[test]
fn offset_inside_an_instruction() {
    let program = target("calls.c", &[]);
    // A nop of five bytes, then `ret`.
    for offset in 1..=4 {
        let probe = probes_of(&program, &[&format!("nop5_u64+{offset}")]).remove(0);
        let refused = faultline(["trace", &probe]).run();
        assert_eq!(refused.status.code(), Some(1), "+{offset}: {}", refused.stderr);
        let said = "no instruction begins at this offset";
        assert!(refused.stderr.contains(said), "+{offset}: {}", refused.stderr);
    }
    let probes = probes_of(&program, &["nop5_u64+5", "nop5_u64+0x2"]);
    let mut traced = Traced::start(&program, &["2", "100"], &probes);
    traced.go();
    let finished = traced.finish().well();
    let summary = finished.summary();
    assert_eq!(number(&summary, "hits"), 200);
    assert_eq!(number(probe(&summary, "nop5_u64+0x5"), "hits"), 200);
}

/// Check that a return is not traced from inside a function: the kernel would replace what is not
/// the return address.
#[test]
fn return_at_an_offset() {
    let probe = probes_of(&target("calls.c", &[]), &["nop5_u64+5 -> u64"]).remove(0);
    let refused = faultline(["trace", &probe]).run();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let said =
        "a return can only be traced from the function's first instruction, not from an offset";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}
