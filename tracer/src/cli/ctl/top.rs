//! `ctl top`: which probes are hit now.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use serde_json::Value;
use tokio::signal::unix::SignalKind;

use super::client::Client;
use crate::{
    cli::{Failure, screen::Screen},
    signals::Listener,
};
use faultline_output::json_text;
use faultline_spec::units::{counted, duration_text, size_text};

/// What is shown, and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) interval: Duration,
    pub(super) top: Option<usize>,
    pub(super) iterations: Option<u64>,
    pub(super) json: bool,
}

/// Shows tables until it is interrupted.
pub(super) async fn run(client: &Client, options: Options) -> Result<(), Failure> {
    let mut interrupt = Listener::new(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(options.interval.max(Duration::from_millis(50)));
    let mut screen = Screen::default();
    let in_place = io::stdout().is_terminal() && !options.json;
    let mut before = None;
    let mut shown = 0;
    while options.iterations.is_none_or(|most| shown < most) {
        tokio::select! {
            _ = tick.tick() => {}
            () = interrupt.recv() => return Ok(()),
        }
        let now = client.get("/v1/figures").await?;
        // The first sample only serves the rates of the second.
        let Some(last) = before.replace(now.clone()) else { continue };
        shown += 1;
        let text = if options.json {
            json_text(&now)?
        } else {
            let (columns, lines) = if in_place { Screen::size() } else { (0, usize::MAX) };
            let text = table(&last, &now, options.top, lines);
            if in_place { screen.show(&text, columns) } else { format!("{text}\n") }
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

/// The difference of two samples, per second.
struct Rates<'a> {
    last: &'a Value,
    now: &'a Value,
    seconds: f64,
}

impl Rates<'_> {
    fn of(&self, name: &str) -> f64 {
        // What the last sample does not have began after it, or restarted.
        number(self.now, name).saturating_sub(number(self.last, name)) as f64 / self.seconds
    }
}

fn table(last: &Value, now: &Value, top: Option<usize>, lines: usize) -> String {
    let ms = number(now, "uptime_ms").saturating_sub(number(last, "uptime_ms")).max(1);
    let seconds = ms as f64 / 1e3;
    let none = Vec::new();
    let list = |name: &str, of: &Value| of[name].as_array().cloned().unwrap_or_default();
    let cpu_use = (now["cpu_seconds"].as_f64().unwrap_or(0.0)
        - last["cpu_seconds"].as_f64().unwrap_or(0.0))
        / seconds;
    let mut out = format!(
        "the daemon: {:.1} % of a CPU, {} resident{}\n",
        cpu_use * 100.0,
        size_text(number(now, "resident_bytes")),
        match number(now, "away") {
            0 => String::new(),
            away => format!(
                "; {} detached by the overhead budget (ctl list)",
                counted(away, "function")
            ),
        }
    );
    out.push_str("CPU     hits/s   events/s     lost/s   faults/s  fault wait  in probes\n");
    let last_cpus = list("cpus", last);
    for (index, cpu) in now["cpus"].as_array().unwrap_or(&none).iter().enumerate() {
        let rates = Rates { last: last_cpus.get(index).unwrap_or(&Value::Null), now: cpu, seconds };
        out.push_str(&format!(
            "{:>3} {:>10.0} {:>10.0} {:>10.0} {:>10.0}  {:>8.2} % {:>8.2} %\n",
            number(cpu, "cpu"),
            rates.of("hits"),
            rates.of("events"),
            rates.of("lost"),
            rates.of("faults"),
            rates.of("fault_wait_ns") / 1e7,
            rates.of("cost_ns") / 1e7,
        ));
    }
    out.push_str("\n    hits/s   events/s     lost/s  in probes       mean       most  PROBE\n");
    let key = |probe: &Value| {
        let part = |name: &str| probe[name].as_str().unwrap_or_default().to_owned();
        (part("name"), part("probe"))
    };
    let last_probes = list("probes", last);
    let last_of: HashMap<_, _> = last_probes.iter().map(|probe| (key(probe), probe)).collect();
    let mut rows: Vec<_> = now["probes"]
        .as_array()
        .unwrap_or(&none)
        .iter()
        .map(|probe| {
            let last = last_of.get(&key(probe)).copied().unwrap_or(&Value::Null);
            let rates = Rates { last, now: probe, seconds };
            (rates.of("hits"), number(probe, "hits"), rates)
        })
        .collect();
    rows.sort_by(|one, other| other.0.total_cmp(&one.0).then(other.1.cmp(&one.1)));
    // A line is left for what does not fit, and one for the cursor.
    let room = lines.saturating_sub(out.lines().count() + 2);
    let count = top.unwrap_or(room).min(room).min(rows.len());
    for (hits, _, rates) in &rows[..count] {
        let calls = rates.of("calls");
        let mean = if calls > 0.0 {
            duration_text((rates.of("sum_ns") / calls) as u64).to_string()
        } else {
            String::new()
        };
        let most = rates.now["max_ns"]
            .as_u64()
            .map_or_else(String::new, |most| duration_text(most).to_string());
        let (name, probe) = key(rates.now);
        out.push_str(&format!(
            "{hits:>10.0} {:>10.0} {:>10.0} {:>8.2} % {mean:>10} {most:>10}  {} {}\n",
            rates.of("events"),
            rates.of("lost"),
            rates.of("cost_ns") / 1e7,
            name.escape_debug(),
            probe.escape_debug(),
        ));
    }
    if rows.len() > count {
        let rest: f64 = rows[count..].iter().map(|row| row.0).sum();
        out.push_str(&format!("{rest:>10.0} in {} more\n", rows.len() - count));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that rates are the difference of two samples over the daemon's own time, and that what
    /// does not fit is summed up.
    #[test]
    fn tables() {
        let look = |ms: u64, a: u64, b: u64| {
            serde_json::json!({
                "uptime_ms": ms, "cpu_seconds": 0.0, "resident_bytes": 1 << 20,
                "cpus": [{"cpu": 0, "hits": a + b}],
                "probes": [
                    {"name": "a", "probe": "f:a", "hits": a},
                    {"name": "b", "probe": "f:\u{1b}b", "hits": b, "calls": b, "sum_ns": 2000 * b, "max_ns": 5000},
                ],
            })
        };
        let text = table(&look(1000, 10, 0), &look(3000, 12, 200), Some(1), usize::MAX);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2].split_whitespace().take(2).collect::<Vec<_>>(), ["0", "101"]);
        assert!(lines[5].starts_with("       100 "), "{text}");
        assert!(lines[5].contains("2.00µs") && lines[5].ends_with("b f:\\u{1b}b"), "{text}");
        assert_eq!(lines[6], "         1 in 1 more");
    }
}
