//! The daemon as a service: where its events go, its limits, and what it leaves behind.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram, net::UnixStream},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::support::{
    self, Target,
    daemon::{Daemon, Setup, own_folder, probe, run, sum_of},
    faultline,
    live::{Puppet, copy_program, private_copy, wait_until},
    target,
};

/// Check that events lost to a full disk are counted, that no line is ever incomplete, and that writing
/// resumes when there is room.
#[test]
fn full_disk() {
    let program = private_copy(&Puppet::program(), "fulldisk");
    let disk = own_folder();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&disk));
    let file = disk.join("events.json");
    let probes = format!("{}action = \"events\"\n", probe("ticks", &program, "tick(value: u64)"));
    let extra = format!("[events]\nfile = \"{}\"\n", file.display());
    let daemon = Daemon::start(&probes, &extra);
    let filler = disk.join("filler");
    fs::write(&filler, vec![0; 200 << 10]).unwrap();
    let mut puppet = Puppet::start_program(&program);
    puppet.step(2000);
    let figures = || {
        let text = daemon.scrape();
        let get = |name: &str, labels: &[&str]| sum_of(&text, name, labels) as u64;
        let lost = get("faultline_probe_lost_total", &["cause=\"output\""]);
        (get("faultline_probe_hits_total", &[]), get("faultline_probe_events_total", &[]), lost)
    };
    wait_until("all is accounted for", || {
        let (hits, events, lost) = figures();
        hits == 2000 && events + lost == hits
    });
    let (_, written, lost) = figures();
    assert!(written > 0 && lost > 0, "{written} written, {lost} lost");
    assert_eq!(daemon.metric("faultline_event_output_failures_total", &[]), 1.0);
    daemon.running.stderr.wait_for(1, |line| line.contains("failed to write events to"));
    fs::remove_file(&filler).unwrap();
    wait_until("writing goes on", || {
        puppet.step(1);
        figures().1 > written
    });
    daemon.running.stderr.wait_for(1, |line| line.contains("events are written again"));
    puppet.step(10);
    wait_until("all is accounted for", || {
        let (hits, events, lost) = figures();
        events + lost == hits
    });
    let events = figures().1;
    puppet.ends_well();
    let total = sum_of(&daemon.scrape(), "faultline_probe_events_total", &[]) as u64;
    daemon.stop();
    let text = fs::read_to_string(&file).unwrap();
    run(Command::new("umount").arg(&disk));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() as u64 >= events.max(total));
    assert!(lines.iter().all(|line| line["name"] == "ticks" && line["type"] == "event"));
}

/// Check that events go to standard output, and to listening clients if they are of the probe they asked
/// for.
#[test]
fn events_and_tail() {
    let program = private_copy(&Puppet::program(), "tail");
    let events =
        |name, function| format!("{}action = \"events\"\n", probe(name, &program, function));
    let probes = events("ticks", "tick(value: u64)") + &events("tocks", "tock");
    let daemon = Daemon::start(&probes, "");
    let socket = daemon.socket();
    let tail = faultline(["ctl", "--socket", socket.to_str().unwrap(), "tail", "ticks"]).stream();
    let mut puppet = Puppet::start_program(&program);
    // It listens from the moment the daemon has its request.
    wait_until("tail has events", || {
        puppet.step(1);
        !tail.stdout.lines().is_empty()
    });
    puppet.step(5);
    let lines = tail.stdout.wait_for(5, |line| line.contains("\"name\":\"ticks\""));
    let event: serde_json::Value = serde_json::from_str(&lines[0].text).unwrap();
    assert_eq!(event["pid"].to_string(), puppet.pid());
    daemon.running.stdout.wait_for(6, |line| line.contains("\"name\":\"ticks\""));
    tail.signal(libc::SIGINT);
    tail.finish().succeeded();
    let unknown = daemon.ctl(&["tail", "nosuch"]);
    assert!(unknown.stderr.contains("no probe `nosuch`"), "{unknown:?}");
    puppet.ends_well();
    daemon.stop();
}

/// Check that series above the limit are summed up in one, with nothing lost or counted twice.
#[test]
fn series_have_a_budget() {
    let program = private_copy(&target("functions.c", &["-O0"]), "budget");
    let setup = Setup::new(&probe("all", &program, "fn_*"), "");
    let text = fs::read_to_string(setup.config()).unwrap();
    fs::write(setup.config(), text.replace("max_series = 10000", "max_series = 100")).unwrap();
    let daemon = setup.start();
    let mut target = Target::start(&program, &["20", "wait"]);
    target.send("go");
    assert!(target.line().starts_with("done"));
    let text = daemon.scrape();
    assert_eq!(sum_of(&text, "faultline_probe_hits_total", &[]), 200_000.0);
    let series = text.lines().filter(|line| line.starts_with("faultline_probe_hits_total{"));
    assert_eq!(series.count(), 101);
    assert_eq!(sum_of(&text, "faultline_metrics_folded_probes", &[]), 9900.0);
    assert_eq!(sum_of(&text, "faultline_probe_hits_total", &["name=\"other\""]), 198_000.0);
    assert!(target.finish().0.success());
    daemon.stop();
}

/// Check that a daemon started by root keeps only the capabilities it needs, and that an ordinary user with
/// two of them can run one.
#[test]
fn privileges() {
    let program = private_copy(&Puppet::program(), "privileges");
    let daemon = Daemon::start(&probe("ticks", &program, "tick"), "");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    // BPF, PERFMON, CHECKPOINT_RESTORE, SYS_PTRACE, DAC_READ_SEARCH.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(set), "000001c000080004", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    daemon.stop();

    let folder = own_folder();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let binary = folder.join("faultline");
    copy_program(Path::new(env!("CARGO_BIN_EXE_faultline")), &binary);
    let app = folder.join("app");
    copy_program(&Puppet::program(), &app);
    let setup = Setup::new(&probe("ticks", &app, "tick"), "");
    fs::set_permissions(&setup.folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = faultline([""; 0]);
    *command.command() = Command::new("setpriv");
    let caps = "-all,+bpf,+perfmon";
    command
        .command()
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args([format!("--inh-caps={caps}"), format!("--ambient-caps={caps}")])
        .arg(format!("--bounding-set={caps}"))
        .arg(&binary)
        .args(["daemon", "--config"])
        .arg(setup.config());
    let daemon = Setup { command, ..setup }.start();
    let mut puppet = Puppet::start_program(&app);
    puppet.step(42);
    daemon.wait_metric("faultline_probe_hits_total", &["name=\"ticks\""], 42.0);
    puppet.ends_well();
    daemon.stop();
    fs::remove_dir_all(folder).unwrap();
}

/// Check what the daemon reports to systemd, and when.
#[test]
fn systemd_protocol() {
    let program = private_copy(&Puppet::program(), "systemd");
    let mut setup = Setup::new(&probe("ticks", &program, "tick"), "");
    let path = setup.folder.join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(support::HUNG_AFTER)).unwrap();
    setup.command.command().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let daemon = setup.start();
    let message = || {
        let mut bytes = [0; 4096];
        let count = notify.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let next = |wanted: &str| loop {
        let message = message();
        if message.contains(wanted) {
            return message;
        }
        assert!(
            message == "WATCHDOG=1" || message.starts_with("STATUS="),
            "{message:?} while {wanted} is awaited"
        );
    };
    let ready = next("READY=1");
    assert_eq!(ready, "READY=1\nSTATUS=1 probe attached (1 function, 1 link)");
    next("WATCHDOG=1");
    next("WATCHDOG=1");
    daemon.running.signal(libc::SIGHUP);
    let reloading = next("RELOADING=1");
    let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(at.parse::<u64>().unwrap() > 0);
    next("READY=1");
    daemon.configure("nonsense", "");
    daemon.running.signal(libc::SIGHUP);
    next("RELOADING=1");
    assert!(next("READY=1").contains("last reload failed"));
    daemon.running.signal(libc::SIGTERM);
    next("STOPPING=1");
    daemon.running.finish().succeeded();
}

/// Check that output that is not read does not keep the daemon from stopping, and that a stop while a
/// client listens is clean.
#[test]
fn stops_while_clients_listen() {
    let program = private_copy(&Puppet::program(), "stops");
    let probes = format!("{}action = \"events\"\n", probe("ticks", &program, "tick"));
    let daemon = Daemon::start(&probes, "");
    let mut stalled = UnixStream::connect(daemon.socket()).unwrap();
    stalled.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut puppet = Puppet::start_program(&program);
    puppet.go(2);
    puppet.wait_called(20_000);
    let finished = daemon.stop();
    assert!(finished.stderr.contains("all probes released"), "{}", finished.stderr);
    puppet.wait_called(100);
    puppet.ends_well();
    let mut rest = Vec::new();
    stalled.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stalled.read_to_end(&mut rest);
    assert!(rest.starts_with(b"HTTP/1.1 200 OK"));
}

/// Check that a killed daemon with many links is gone soon, along with its breakpoints: the next one counts
/// every hit once.
#[test]
fn killed_with_many_links() {
    let program = private_copy(&target("functions.c", &["-O0"]), "killed-many");
    let probes: String =
        (0..1000).map(|n| probe(&format!("p{n}"), &program, &format!("fn_{n:04}"))).collect();
    let mut daemon = Daemon::start(&probes, "");
    assert_eq!(daemon.metric("faultline_links", &[]), 1000.0);
    daemon.running.child.kill().unwrap();
    daemon.running.child.wait().unwrap();
    let config = daemon.folder.join("faultline.toml");
    let again = faultline(["daemon", "--config", config.to_str().unwrap()]).stream();
    again.stderr.wait_for(1, |line| line.contains("ready: "));
    let daemon = Daemon { running: again, folder: daemon.folder.clone(), port: daemon.port };
    let mut target = Target::start(&program, &["10", "wait"]);
    target.send("go");
    assert!(target.line().starts_with("done"));
    daemon.wait_metric("faultline_probe_hits_total", &[], 10_000.0);
    assert!(target.finish().0.success());
    daemon.stop();
}
