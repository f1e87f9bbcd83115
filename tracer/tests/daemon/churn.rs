//! Churn: probes, processes, events, clients and configurations that are added and removed over and over.
//!
//! Short by default. With `FAULTLINE_CHURN=1h` it runs for that long, and prints what the daemon used every
//! five minutes: the figures of docs/daemon.md.

use std::{
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use faultline_spec::units::parse_duration;

use crate::support::{
    self, Target,
    daemon::{Daemon, probe},
    live::{Puppet, private_copy, wait_until},
    number, target,
};

/// The resources of a daemon.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    resident_bytes: u64,
    threads: usize,
    /// Over all descriptor tables: threads that hold links have their own.
    descriptors: usize,
    cpu_seconds: f64,
}

impl Held {
    fn by(daemon: &Daemon) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let tables = tasks.flatten().map(|task| task.path().join("fd"));
        let counts: Vec<usize> =
            tables.filter_map(|fds| Some(fs::read_dir(fds).ok()?.count())).collect();
        // Only now: answering takes a connection and a thread.
        let status = daemon.ask(&["status"]);
        Self {
            resident_bytes: number(&status, "resident_bytes"),
            threads: counts.len(),
            descriptors: counts.iter().sum(),
            cpu_seconds: status["cpu_seconds"].as_f64().unwrap(),
        }
    }

    /// Its resources at rest: serving threads end some seconds after their work.
    fn at_rest(daemon: &Daemon) -> Self {
        daemon.wait_released();
        thread::sleep(Duration::from_secs(12));
        Self::by(daemon)
    }
}

struct Churn {
    daemon: Daemon,
    /// Its probes stay attached all the time.
    puppet: Puppet,
    functions: std::path::PathBuf,
    visitor: std::path::PathBuf,
    rounds: usize,
    /// Calls that a reload must not lose.
    called: u64,
}

impl Churn {
    fn start() -> Self {
        let puppet = private_copy(&Puppet::program(), "churn-stays");
        let functions = private_copy(&target("functions.c", &["-O0"]), "churn");
        let visitor = private_copy(&Puppet::program(), "churn-visits");
        let folder = support::daemon::own_folder();
        let extra = format!(
            "[events]\nfile = \"{}\"\nrotate_at = \"256KiB\"\nkeep = 2\n\
             [targets]\nrescan_every = \"2s\"\n",
            folder.join("events.json").display()
        );
        let probes = Self::lasting(&puppet, &visitor);
        let daemon = Daemon::start(&probes, &extra);
        fs::write(daemon.folder.join("extra"), extra).unwrap();
        let puppet = Puppet::start_program(&puppet);
        Self { daemon, puppet, functions, visitor, rounds: 0, called: 0 }
    }

    fn lasting(puppet: &Path, visitor: &Path) -> String {
        let name = visitor.file_name().unwrap().to_str().unwrap();
        format!(
            "{}{}process = \"{name}\"\naction = \"events\"\n",
            probe("ticks", puppet, "tick"),
            probe("visits", visitor, "tick(value: u64)"),
        )
    }

    fn round(&mut self) {
        let round = self.rounds;
        self.rounds += 1;
        let action = ["count", "latency", "events"][round % 3];
        let daemon = &self.daemon;
        let pattern = format!("{}:fn_{:02}*", self.functions.display(), round % 100);
        daemon.ctl(&["attach", "x", &pattern, "--action", action]).succeeded();
        let mut target = Target::start(&self.functions, &["20", "wait"]);
        target.send("go");
        assert!(target.line().starts_with("done"));
        daemon.wait_metric(
            "faultline_probe_hits_total",
            &["name=\"x\""],
            match action {
                "latency" => 4000.0,
                _ => 2000.0,
            },
        );
        assert!(target.finish().0.success());
        self.puppet.step(100);
        self.called += 100;
        match round % 5 {
            // A short-lived process.
            0 => {
                let mut visitor = Puppet::start_program(&self.visitor);
                let pid = visitor.pid().parse::<u64>().unwrap();
                wait_until("the process is found", || {
                    let processes = &daemon.listed("visits")["processes"];
                    processes.as_array().unwrap().iter().any(|p| *p == pid)
                });
                visitor.step(50);
                visitor.ends_well();
            }
            // A reload that changes something, and one that is refused.
            1 => {
                let (puppet, visitor) = (self.puppet_path(), &self.visitor);
                let extra = fs::read_to_string(daemon.folder.join("extra")).unwrap();
                let lasting = Self::lasting(&puppet, visitor);
                let more = probe(&format!("more-{round}"), &self.functions, "fn_999?");
                daemon.configure(&format!("{lasting}{more}"), &extra);
                assert!(number(&daemon.ask(&["reload"]), "kept") >= 2);
                daemon.configure("nonsense", "");
                assert!(!daemon.ctl(&["reload"]).status.success());
                daemon.configure(&lasting, &extra);
                daemon.ask(&["reload"]);
            }
            // Clients: some listen and leave, some say nothing, some send nonsense.
            2 => {
                for request in
                    ["GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n", "", "\0\0\0\0\r\n\r\n"]
                {
                    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
                    let _ = stream.write_all(request.as_bytes());
                }
                daemon.ctl(&["top", "--interval", "100ms", "--iterations", "1"]).succeeded();
            }
            _ => {
                daemon.scrape();
                daemon.ctl(&["list", "--verbose"]).succeeded();
            }
        }
        daemon.ctl(&["detach", "x"]).succeeded();
    }

    fn puppet_path(&self) -> std::path::PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.puppet.pid())).unwrap()
    }
}

/// Check that churn leaves nothing behind: no descriptor, no thread, no link, no growth; and that probes
/// that stay attached throughout lose no hit.
#[test]
fn churn_leaves_nothing() {
    let asked = std::env::var("FAULTLINE_CHURN").ok();
    let time = asked.map(|text| parse_duration(&text).unwrap());
    let mut churn = Churn::start();
    let started = Instant::now();
    let line = |rounds: usize, held: Held| {
        println!(
            "{:>5} s {rounds:>6} rounds {:>6.1} MiB {:>4} threads {:>4} descriptors {:>7.1} s of CPU",
            started.elapsed().as_secs(),
            held.resident_bytes as f64 / f64::from(1 << 20),
            held.threads,
            held.descriptors,
            held.cpu_seconds,
        );
    };
    // Memory that the first of each kind allocates is reused by the others.
    (0..15).for_each(|_| churn.round());
    let before = Held::at_rest(&churn.daemon);
    line(churn.rounds, before);
    let mut told = Instant::now();
    let go_on = |rounds| time.map_or(rounds < 60, |time| started.elapsed() < time);
    while go_on(churn.rounds) {
        churn.round();
        if told.elapsed() > Duration::from_secs(300) {
            told = Instant::now();
            line(churn.rounds, Held::at_rest(&churn.daemon));
        }
    }
    let after = Held::at_rest(&churn.daemon);
    line(churn.rounds, after);
    assert_eq!(after.threads, before.threads, "threads");
    assert_eq!(after.descriptors, before.descriptors, "open files");
    let most = before.resident_bytes + (4 << 20);
    assert!(after.resident_bytes < most, "memory: {before:?} {after:?}");
    let Churn { daemon, puppet, called, .. } = churn;
    assert_eq!(daemon.metric("faultline_probe_hits_total", &["name=\"ticks\""]), called as f64);
    assert_eq!(daemon.metric("faultline_undecodable_records_total", &[]), 0.0);
    puppet.ends_well();
    daemon.stop();
}
