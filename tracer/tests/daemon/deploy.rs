//! The files in deploy/ are accepted by the tools they are for, and match the daemon.
//!
//! - systemd: the unit, its hardening, its capabilities
//! - Prometheus: scrape configuration, alerts, the tests of the alerts
//! - Grafana: every metric exists, and every query has an answer
//! - Kubernetes: the manifest, and the configuration in it

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::Value;

use crate::support::{
    daemon::{Daemon, own_folder, probe, run},
    faultline,
    live::{Puppet, private_copy, wait_until},
    prometheus::Prometheus,
};

/// The highest exposure that `systemd-analyze security` may report for the service, in tenths;
/// docs/systemd.md says why it cannot be lower.
const EXPOSURE_TENTHS: u32 = 25;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn text(file: &str) -> String {
    let path = deploy(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words of a setting of the unit.
fn setting(name: &str) -> BTreeSet<String> {
    let unit = text("systemd/faultline.service");
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
    value.split_whitespace().map(str::to_owned).collect()
}

/// The documents of a YAML file.
fn yaml(file: &str) -> Vec<Value> {
    let text = text(file);
    serde_norway::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// Every string under one of these keys, anywhere.
fn strings(value: &Value, keys: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text.to_owned()),
                    _ => strings(value, keys, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, keys, found)),
        _ => {}
    }
}

/// The metric names in a PromQL expression, without quoted label values.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let outside: String = expression.split('"').step_by(2).collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let is_metric = |word: &&str| {
        ["faultline_", "process_"].iter().any(|prefix| word.starts_with(prefix))
            || word.contains(":faultline_")
    };
    outside.split(|c| !is_name(c)).filter(is_metric).map(str::to_owned).collect()
}

/// Check that systemd accepts the unit, with the example of limits beside it, and at most warns that it is
/// too old for one line.
#[test]
fn systemd_takes_the_unit() {
    let unit = text("systemd/faultline.service");
    let folder = own_folder();
    let file = folder.join("faultline.service");
    // The unit must name a program that exists.
    let program = env!("CARGO_BIN_EXE_faultline");
    fs::write(&file, unit.replace("/usr/bin/faultline", program)).unwrap();
    let drop_ins = folder.join("faultline.service.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("limits.conf"), text("systemd/limits.conf")).unwrap();
    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let before_253 = "Failed to parse service type, ignoring: notify-reload";
    let complaints: Vec<_> = said.lines().filter(|line| !line.ends_with(before_253)).collect();
    assert!(complaints.is_empty() && output.stdout.is_empty(), "{said}");
    assert!(output.status.success(), "{said}");
}

/// Check that the service is no more exposed than the documentation says.
#[test]
fn the_unit_is_hardened() {
    let unit = deploy("systemd/faultline.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", &format!("--threshold={EXPOSURE_TENTHS}")])
        .arg(unit)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", said.lines().last().unwrap_or_default());
}

/// Check that unit, DaemonSet and daemon name the same capabilities.
#[test]
fn capabilities_agree() {
    let bounding = setting("CapabilityBoundingSet");
    assert_eq!(bounding, setting("AmbientCapabilities"));

    let program = private_copy(&Puppet::program(), "capabilities");
    let daemon = Daemon::start(&probe("counted", &program, "tick"), "");
    let stopped = daemon.stop();
    let kept = stopped
        .stderr
        .lines()
        .find_map(|line| line.split_once("keeping capabilities: "))
        .unwrap()
        .1;
    let kept: BTreeSet<String> = kept.split(", ").map(|name| name.trim().to_owned()).collect();
    assert_eq!(bounding, kept, "the unit gives what the daemon keeps");

    let added: BTreeSet<String> = pod()["containers"][0]["securityContext"]["capabilities"]["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("CAP_{}", name.as_str().unwrap()))
        .collect();
    assert_eq!(bounding, added, "the DaemonSet adds what the daemon keeps");
}

/// Check that Prometheus accepts its configuration and the alerts, and that they fire as tested.
#[test]
fn prometheus_takes_its_files() {
    for args in [
        ["check", "config", "scrape.yml"],
        ["check", "rules", "faultline.rules.yml"],
        ["test", "rules", "faultline.rules.test.yml"],
    ] {
        run(Command::new("promtool").args(args).current_dir(deploy("prometheus")));
    }
}

/// Check that each alert is tested: that it fires, and that it does not.
#[test]
fn every_alert_is_tested() {
    let rules = yaml("prometheus/faultline.rules.yml");
    let mut alerts = Vec::new();
    rules.iter().for_each(|rules| strings(rules, &["alert"], &mut alerts));
    assert!(alerts.len() > 10);
    let tests = yaml("prometheus/faultline.rules.test.yml");
    let cases: Vec<&Value> = tests[0]["tests"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .collect();
    for alert in alerts {
        let fires = |case: &Value| case["exp_alerts"].as_array().is_some_and(|it| !it.is_empty());
        let of = || cases.iter().filter(|case| case["alertname"] == *alert);
        assert!(of().any(|case| fires(case)), "no test shows that {alert} fires");
        assert!(of().any(|case| !fires(case)), "no test shows that {alert} can be silent");
    }
}

/// Check that every metric named by an alert or the dashboard is one of the daemon's, and that every query
/// of the dashboard returns data once programs are traced.
#[test]
fn metrics_exist_and_queries_answer() {
    let program = private_copy(&Puppet::program(), "dashboard");
    let with = |name, function, more: &str| format!("{}{more}\n", probe(name, &program, function));
    let probes = with("counted", "tick", "action = \"count\"")
        + &with("timed", "tick -> u64", "action = \"latency\"")
        // A pointer, so that memory is read; a rate, so that hits are withheld.
        + &with("told", "tick(text: str)", "action = \"events\"\nrate = \"50/s\"");
    let daemon = Daemon::start(&probes, "[overhead]\nmax = \"99%\"\n");
    let prometheus = Prometheus::start(&daemon.folder, daemon.port);
    prometheus.wait_for("faultline_probe_hits_total{name=\"counted\"}", 0.0);
    let mut puppet = Puppet::start_program(&program);
    puppet.step(1_000);
    prometheus.wait_for("faultline_probe_hits_total{name=\"counted\"}", 1_000.0);

    let scrape = daemon.scrape();
    let samples = scrape.lines().filter(|line| !line.starts_with('#'));
    let mut known: BTreeSet<String> =
        samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
    let rules = yaml("prometheus/faultline.rules.yml");
    let mut recorded = Vec::new();
    rules.iter().for_each(|rules| strings(rules, &["record"], &mut recorded));
    known.extend(recorded);
    let dashboard: Value = serde_json::from_str(&text("grafana/faultline.json")).unwrap();
    let (mut alerts, mut queries) = (Vec::new(), Vec::new());
    rules.iter().for_each(|rules| strings(rules, &["expr"], &mut alerts));
    strings(&dashboard["panels"], &["expr"], &mut queries);
    let mut all = [alerts, queries.clone()].concat();
    strings(&dashboard["templating"], &["query"], &mut all);
    strings(&dashboard["annotations"], &["expr"], &mut all);
    assert!(all.len() > 50, "{}", all.len());
    for expression in &all {
        for metric in metrics_of(expression) {
            assert!(known.contains(&metric), "the daemon has no {metric}: {expression}");
        }
    }

    for query in queries {
        let mut expression = query.replace("$__rate_interval", "20s");
        for variable in ["$instance", "$name"] {
            expression = expression.replace(variable, ".*");
        }
        let answers = || !prometheus.samples(&expression).is_empty();
        wait_until(&format!("{query} has an answer"), answers);
    }
    puppet.ends_well();
    daemon.stop();
}

/// Check that the panels of the dashboard do not overlap, and have different ids.
#[test]
fn panels_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&text("grafana/faultline.json")).unwrap();
    let mut taken = HashMap::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = taken.insert(cell, panel["title"].clone());
            assert_eq!(other, None, "{} lies on it", panel["title"]);
        }
    }
}

fn pod() -> Value {
    let documents = yaml("kubernetes/daemonset.yaml");
    let set = documents.iter().find(|document| document["kind"] == "DaemonSet").unwrap();
    set["spec"]["template"]["spec"].clone()
}

/// Check that the manifest is consistent: mounted volumes exist, ports are the ones the configuration
/// listens on, and the daemon accepts that configuration.
#[test]
fn the_daemonset_holds_together() {
    let documents = yaml("kubernetes/daemonset.yaml");
    let map = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
    let config = map["data"]["faultline.toml"].as_str().unwrap();
    let folder = own_folder();
    let file = folder.join("faultline.toml");
    fs::write(&file, config).unwrap();
    let checked = faultline(["daemon", "--check", "--config", file.to_str().unwrap()]).run();
    checked.succeeded();

    let pod = pod();
    let container = &pod["containers"][0];
    assert_eq!(pod["hostPID"], true);
    assert_eq!(container["securityContext"]["privileged"], false);
    let port = &container["ports"][0];
    assert!(config.contains(&format!("listen = \"0.0.0.0:{}\"", port["containerPort"])));
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]
    {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], port["name"]);
    }
    let volumes: Vec<&Value> =
        pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(volumes.contains(&&mount["name"]), "{mount}");
    }
}
