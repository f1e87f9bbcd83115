//! What a daemon says about probes without hits, and about processes that died while they were probed.

use serde_json::json;

use crate::support::{
    Target,
    daemon::{Daemon, probe},
    live::private_copy,
    target,
};

/// Check that `ctl list --verbose` says why a probe had no hits, and what else counts as its hits; and that a
/// probe that was hit needs no explanation.
#[test]
fn silent_probes_are_explained() {
    let program = private_copy(&target("hints.c", &[]), "hints_daemon");
    let mut running = Target::start(&program, &["3", "wait"]);
    let named = |name, function| probe(name, &program, function);
    let probes = named("inlined", "shared") + &named("taxes", "tax_de") + &named("never", "never");
    let daemon = Daemon::start(&probes, "");
    let mut other = Target::start(&program, &["3", "wait"]);
    running.send("");
    running.finish();
    let label = program.file_name().unwrap().to_str().unwrap().to_owned();
    let text = daemon.ctl(&["list", "--verbose"]).succeeded().stdout;
    let line = |sentence: &str| {
        let found = text.lines().any(|line| line.trim() == sentence);
        assert!(found, "no line `{sentence}` in:\n{text}");
    };
    line(&format!(
        "no hits at {label}:shared: the compiler inlined it in 2 places, where its calls cannot be seen \
         (probe what calls it)"
    ));
    line(&format!("{label}:tax_de: `tax_fr` is the same code, so its calls count here"));
    assert!(!text.contains(&format!("no hits at {label}:tax_de")), "{text}");
    let list = daemon.ask(&["list", "--verbose"]);
    let hints = list["hints"].as_array().unwrap();
    let of = |name: &str| hints.iter().find(|hint| hint["name"] == name).unwrap();
    assert_eq!(of("inlined")["cause"], "inlined");
    assert_eq!(of("inlined")["places"], 2);
    assert_eq!(of("taxes")["names"], json!(["tax_fr"]));
    assert_eq!(of("never")["cause"], "not_called");
    other.send("");
    other.finish();
    let list = daemon.ask(&["list", "--verbose"]);
    let never = list["hints"].as_array().unwrap().iter().find(|hint| hint["name"] == "never");
    assert_eq!(never.unwrap()["cause"], "not_mapped");
    assert!(!daemon.ctl(&["list"]).succeeded().stdout.contains("no hits"));
    daemon.stop();
}

/// Check that the log names the death of a process that executed a breakpoint in copied code, where every
/// process is probed, and is silent about one that died of its own.
#[test]
fn deaths_are_in_the_log() {
    let program = private_copy(&target("deaths.c", &[]), "deaths_daemon");
    let daemon = Daemon::start(&probe("copied", &program, "copied"), "");
    let mut crashing = Target::start(&program, &["crash", "wait"]);
    crashing.send("");
    crashing.finish();
    let mut dying = Target::start(&program, &["copied", "wait"]);
    let pid = dying.pid();
    dying.send("");
    dying.finish();
    let label = program.file_name().unwrap().to_str().unwrap().to_owned();
    daemon.running.stderr.wait_for(1, |line| {
        line.contains(&format!("process {pid} died of SIGTRAP while it was probed"))
            && line.ends_with(&format!("while `{label}:copied` was probed"))
    });
    assert!(!daemon.running.stderr.lines().iter().any(|line| line.text.contains("SIGSEGV")));
    daemon.stop();
}
