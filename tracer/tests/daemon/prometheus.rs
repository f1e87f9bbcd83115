//! A real Prometheus scrapes the daemon while a real program runs under it.

use std::{fs, path::Path, process::Command};

use crate::support::{
    daemon::{Daemon, probe, run},
    live::{Puppet, private_copy},
    prometheus::Prometheus,
};

/// Check that PromQL returns exactly the calls that the program made, for each action, and that no scrape
/// failed or was dropped.
#[test]
fn exact_numbers_through_promql() {
    let program = private_copy(&Puppet::program(), "prometheus");
    let with = |name, function, action: &str| {
        format!("{}action = \"{action}\"\n", probe(name, &program, function))
    };
    let probes = with("counted", "tick", "count")
        + &with("timed", "tick -> u64", "latency")
        + &with("told", "tick(value: u64)", "events");
    let daemon = Daemon::start(&probes, "");
    let prometheus = Prometheus::start(&daemon.folder, daemon.port);
    prometheus.wait_for("up{job=\"faultline\"}", 1.0);
    prometheus.wait_for("faultline_probe_hits_total{name=\"counted\"}", 0.0);
    let mut puppet = Puppet::start_program(&program);
    puppet.step(100_000);
    assert_eq!(puppet.tell("thread 2345"), "stepped");
    let calls = 102_345.0;
    prometheus.wait_for("faultline_probe_hits_total{name=\"counted\"}", calls);
    prometheus.wait_for("faultline_probe_latency_seconds_count{name=\"timed\"}", calls);
    let infinite = "faultline_probe_latency_seconds_bucket{name=\"timed\", le=\"+Inf\"}";
    prometheus.wait_for(infinite, calls);
    let accounted = "sum(faultline_probe_events_total{name=\"told\"}) \
                     + sum(faultline_probe_lost_total{name=\"told\"})";
    prometheus.wait_for(accounted, calls);
    // Entries of three probes, and the returns of one.
    prometheus.wait_for("sum(faultline_cpu_hits_total)", 4.0 * calls);
    let quantile = "histogram_quantile(0.99, faultline_probe_latency_seconds_bucket)";
    assert!(prometheus.query(quantile).unwrap() > 0.0);
    assert_eq!(prometheus.query("min_over_time(up[1h])"), Some(1.0));
    assert_eq!(prometheus.query("count(faultline_build_info)"), Some(1.0));
    puppet.ends_well();
    daemon.stop();
}

/// Check that Prometheus's own tools accept both formats.
#[test]
fn formats_are_clean() {
    let program = private_copy(&Puppet::program(), "formats");
    let probes = format!(
        "{}action = \"events\"\nrate = \"100/s\"\n{}action = \"latency\"\n",
        probe("told", &program, "tick(value: u64)"),
        probe("timed", &program, "tock"),
    );
    let daemon = Daemon::start(&probes, "");
    let mut puppet = Puppet::start_program(&program);
    puppet.step(10);
    let text = daemon.scrape();
    let file = daemon.folder.join("metrics.txt");
    fs::write(&file, &text).unwrap();
    let checked = run(Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file).unwrap()));
    assert_eq!(checked, "");
    let described = |line: &&str| line.starts_with("# HELP ");
    let families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(text.lines().filter(described).count(), families.len());
    // docs/metrics.md documents every one of them.
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let docs = fs::read_to_string(docs).unwrap();
    for family in families {
        let name = family.split(' ').nth(2).unwrap();
        assert!(docs.contains(&format!("`{name}")), "docs/metrics.md has no {name}");
    }
    puppet.ends_well();
    daemon.stop();
}
