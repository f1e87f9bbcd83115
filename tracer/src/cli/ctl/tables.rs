//! The daemon's answers for people.

use std::time::Duration;

use serde_json::Value;

use faultline_spec::units::{counted, duration_text, size_text};

/// Files shown per probe, without --verbose.
const SHOWN_FILES: usize = 2;

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().escape_debug().to_string()
}

pub(super) fn status(status: &Value) -> String {
    let uptime = Duration::from_millis(number(status, "uptime_ms"));
    let releasing = match number(status, "releasing") {
        0 => String::new(),
        sets => format!(", {} being released", counted(sets, "set")),
    };
    let state = if status["ready"] == true { "ready" } else { "not ready yet" };
    format!(
        "faultline {} (process {}), {state}, up for {}\n\
         configuration  {}\n\
         probes         {} attached, {} waiting for their target{releasing}\n\
         functions      {} probed, {} skipped, {}\n\
         since start    {} hits, {} events, {} lost\n\
         own use        {:.2} s of CPU, {} resident, {} open files\n{}",
        text(status, "version"),
        number(status, "pid"),
        duration_text(u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX)),
        text(status, "config"),
        number(status, "probes_attached"),
        number(status, "probes_waiting"),
        number(status, "functions"),
        number(status, "skipped"),
        counted(number(status, "links"), "link"),
        number(status, "hits"),
        number(status, "events"),
        number(status, "lost"),
        status["cpu_seconds"].as_f64().unwrap_or(0.0),
        size_text(number(status, "resident_bytes")),
        number(status, "open_fds"),
        overhead(&status["overhead"]),
    ) + &slow(&status["slow"])
}

/// What takes unusually long, a line each.
fn slow(slow: &Value) -> String {
    let none = Vec::new();
    let texts = slow.as_array().unwrap_or(&none).iter().filter_map(Value::as_str);
    texts.map(|text| format!("slow           {}\n", text.escape_debug())).collect()
}

fn overhead(overhead: &Value) -> String {
    let Some(max) = overhead["max_percent"].as_f64() else { return String::new() };
    let away = match number(overhead, "away") {
        0 => String::new(),
        away => format!(", {} detached now", counted(away, "function")),
    };
    format!(
        "overhead       at most {max} % of all CPUs ({}); exceeded {} times{away}\n",
        text(overhead, "policy"),
        number(overhead, "exceeded"),
    )
}

pub(super) fn list(list: &Value, verbose: bool) -> String {
    let none = Vec::new();
    let probes = list["probes"].as_array().unwrap_or(&none);
    let width = |get: &dyn Fn(&Value) -> String, least: usize| {
        probes.iter().map(|probe| get(probe).chars().count()).max().unwrap_or(0).max(least)
    };
    let name_width = width(&|probe| text(probe, "name"), 4);
    let probe_width = width(&|probe| text(probe, "probe"), 5).min(60);
    let mut out = format!(
        "{:<name_width$}  {:<7}  {:<8}  {:>9}  {:<probe_width$}  IN\n",
        "NAME", "ACTION", "STATE", "FUNCTIONS", "PROBE"
    );
    for probe in probes {
        out.push_str(&format!(
            "{:<name_width$}  {:<7}  {:<8}  {:>9}  {:<probe_width$}  {}\n",
            text(probe, "name"),
            text(probe, "action"),
            text(probe, "state"),
            number(probe, "functions"),
            text(probe, "probe"),
            place(probe, verbose),
        ));
        if verbose {
            let hints = list["hints"].as_array().unwrap_or(&none).iter();
            for hint in hints.filter(|hint| hint["name"] == probe["name"]) {
                out.push_str(&format!("{:name_width$}  {}\n", "", text(hint, "sentence")));
            }
            for skipped in probe["reasons"].as_array().unwrap_or(&none) {
                let (label, reason) = (text(skipped, "probe"), text(skipped, "reason"));
                out.push_str(&format!("{:name_width$}  not probed: {label}: {reason}\n", ""));
            }
        }
    }
    out
}

/// Where a probe is attached, or why it is not.
fn place(probe: &Value, verbose: bool) -> String {
    if let Some(problem) = probe["problem"].as_str() {
        return problem.escape_debug().to_string();
    }
    let none = Vec::new();
    let files = probe["files"].as_array().unwrap_or(&none);
    let shown = if verbose { files.len() } else { SHOWN_FILES };
    let mut places: Vec<_> = files
        .iter()
        .take(shown)
        .filter_map(|file| Some(file.as_str()?.escape_debug().to_string()))
        .collect();
    if files.len() > shown {
        places.push(format!("and {} more", files.len() - shown));
    }
    let mut place = places.join(", ");
    let processes = probe["processes"].as_array().map_or(0, Vec::len) as u64;
    if processes != 0 {
        let plural = if processes == 1 { "" } else { "es" };
        place.push_str(&format!(" in {processes} process{plural}"));
    }
    match number(probe, "detached") {
        0 => {}
        detached => place.push_str(&format!(" ({detached} over the overhead budget, detached)")),
    }
    place
}

pub(super) fn changed(changed: &Value) -> String {
    let none = Vec::new();
    let mut out = String::new();
    let list = |name: &str| changed[name].as_array().unwrap_or(&none);
    for added in list("added") {
        let name = text(added, "name");
        match added["waiting"].as_str() {
            Some(problem) => {
                out.push_str(&format!("{name} waits for its target: {}\n", problem.escape_debug()));
            }
            None => {
                let functions = counted(number(added, "functions"), "function");
                let skipped = match number(added, "skipped") {
                    0 => String::new(),
                    count => format!(", {count} not probed (see ctl list --verbose)"),
                };
                out.push_str(&format!("{name} is attached to {functions}{skipped}\n"));
            }
        }
    }
    for removed in list("removed") {
        let name = removed.as_str().unwrap_or_default().escape_debug();
        out.push_str(&format!("{name} is detached\n"));
    }
    for note in list("notes") {
        out.push_str(&format!("note: {}\n", note.as_str().unwrap_or_default().escape_debug()));
    }
    let took = changed["attach_ms"].as_f64().unwrap_or(0.0);
    out.push_str(&format!(
        "{} added, {} removed, {} unchanged, in {took:.1} ms\n",
        list("added").len(),
        list("removed").len(),
        number(changed, "kept"),
    ));
    out
}
