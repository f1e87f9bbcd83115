//! What a user is told when a traced process dies.

use serde_json::{Value, json};

use super::support::{
    Finished, Target, faultline,
    live::{probes_of, wait_counting},
    target,
};

/// Counts functions of a program that dies in this way, and of which the summary is text.
fn die(how: &str, functions: &[&str]) -> Finished {
    let program = target("deaths.c", &[]);
    let args = ["count".to_owned(), "-c".to_owned(), format!("{} {how}", program.display())];
    faultline(args.into_iter().chain(probes_of(&program, functions))).run().succeeded()
}

/// What the summary says about deaths.
fn told(finished: &Finished) -> Vec<&str> {
    let about = |line: &&str| line.contains(" died of ");
    finished.stderr.lines().filter(about).map(str::trim).collect()
}

/// The same in a run that traces a process that runs already.
fn die_when_told(how: &str, args: &[&str], functions: &[&str]) -> (String, Finished) {
    let program = target("deaths.c", &[]);
    let mut dying = Target::start(&program, &[how, "wait"]);
    let pid = dying.pid();
    let args = ["trace", "-p", &pid].into_iter().chain(args.iter().copied()).map(str::to_owned);
    let running = faultline(args.chain(probes_of(&program, functions))).start();
    wait_counting(running.pid());
    dying.send("");
    dying.finish();
    (pid, running.finish().succeeded())
}

const NOTHING: &str = "; nothing points to faultline: no return address was replaced";

/// Check that a breakpoint in copied code is named as the cause, with the probe whose breakpoint it was,
/// and the one in code that stayed where it was is not.
#[test]
fn breakpoints_in_copied_code_are_named() {
    let finished = die("copied", &["copied"]);
    let [told] = &told(&finished)[..] else { panic!("{}", finished.stderr) };
    assert!(told.starts_with("process "), "{told}");
    assert!(told.contains(" died of SIGTRAP while it was probed, at "), "{told}");
    assert!(
        told.ends_with(
            "; faultline may be the cause: it executed a breakpoint where the kernel knows of none, as \
             in code that was copied while `deaths:copied` was probed"
        ),
        "{told}"
    );
    assert!(finished.stderr.contains("  the command was killed by signal 5\n"));
    assert!(!finished.stderr.contains("there was no call"), "{}", finished.stderr);
}

/// Check that a program's own breakpoint is not taken for one of faultline's.
#[test]
#[cfg(target_arch = "x86_64")]
fn own_breakpoints_are_recognised() {
    let finished = die("breakpoint", &["plain"]);
    let [told] = &told(&finished)[..] else { panic!("{}", finished.stderr) };
    assert!(
        told.ends_with(
            ": it executed a breakpoint that is at no probe's place: its own, or a debugger's"
        ),
        "{told}"
    );
}

/// Check that a program that crashes on its own is said to have, with the place, and that nothing is
/// accused.
#[test]
fn crashes_of_its_own() {
    for (how, signal) in [("crash", "SIGSEGV"), ("abort", "SIGABRT")] {
        let finished = die(how, &["plain"]);
        let [told] = &told(&finished)[..] else { panic!("{}", finished.stderr) };
        assert!(told.contains(&format!(" died of {signal} while it was probed, at ")), "{told}");
        assert!(told.ends_with(NOTHING), "{told}");
    }
}

/// Check that the death of a child that is followed is explained.
#[test]
fn followed_children_are_explained() {
    let program = target("deaths.c", &[]);
    let path = program.display();
    let command = format!("sh -c '{path} crash; true'");
    let args = ["count", "-f", "-c", &command, &format!("{path}:plain")];
    let finished = faultline(args).run().succeeded();
    let [told] = &told(&finished)[..] else { panic!("{}", finished.stderr) };
    assert!(told.contains(" died of SIGSEGV while it was probed, at "), "{told}");
}

/// Check that programs that end as they want, or are killed by someone, are not explained.
#[test]
fn other_ends_are_not_explained() {
    for how in ["", "killed"] {
        let finished = die(how, &["plain"]);
        assert!(told(&finished).is_empty(), "{}", finished.stderr);
    }
}

/// Check that the death of a process that is no child is explained, with the place in the file, and the
/// probed function that it died in.
#[test]
fn watched_processes_are_explained() {
    for how in ["crash", "handled"] {
        let (pid, finished) = die_when_told(how, &["--json"], &["crash"]);
        let summary = finished.summary();
        let [death] = &summary["deaths"].as_array().unwrap()[..] else { panic!("{summary}") };
        assert_eq!(death["pid"], json!(pid.parse::<u32>().unwrap()));
        assert_eq!((&death["signal"], &death["name"]), (&json!(11), &json!("SIGSEGV")));
        let program = target("deaths.c", &[]);
        assert_eq!(death["file"], program.to_str().unwrap(), "{how}: {death}");
        assert_eq!(death["suspects"][0]["suspect"], "in_function");
        assert_eq!(death["suspects"][0]["probes"], json!(["deaths:crash"]));
    }
    let (_, finished) = die_when_told("", &["--json"], &["plain"]);
    assert_eq!(finished.summary()["deaths"], Value::Null);
}

/// Check that an exception that a return probe kills the program for is explained by it, with the probe's
/// name.
#[test]
fn return_probes_are_named() {
    let program = target("throws.cc", &[]);
    let mut dying = Target::start(&program, &["3", "1"]);
    let pid = dying.pid();
    let probes = probes_of(&program, &["thrower(depth: u64) -> u64", "plain(v: u64) -> u64"]);
    let args = ["trace", "--force", "--returns", "uretprobe", "-p", &pid].map(str::to_owned);
    let running = faultline(args.into_iter().chain(probes)).start();
    wait_counting(running.pid());
    dying.send("");
    dying.finish();
    let finished = running.finish().succeeded();
    let [told] = &told(&finished)[..] else { panic!("{}", finished.stderr) };
    assert!(told.starts_with(&format!("process {pid} died of SIG")), "{told}");
    let said = "; faultline may be the cause: return probes had replaced return addresses, of \
                `throws:thrower`: exceptions, stack switches and programs that inspect their stacks do \
                not survive that (use `--returns ret`)";
    assert!(told.contains(said), "{told}");
}
