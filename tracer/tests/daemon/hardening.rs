//! Weaknesses found by attacking the daemon, with one test each.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::support::{
    self, Target,
    daemon::{Daemon, Setup, own_folder, probe},
    faultline,
    live::{Puppet, private_copy, wait_until},
    target,
};

fn cpu_seconds(daemon: &Daemon) -> f64 {
    daemon.ask(&["status"])["cpu_seconds"].as_f64().unwrap()
}

/// Check that a hundred clients that request a large scrape and do not read it cost as much as a few that
/// do. Each once had its own scrape, and the next client waited for all of them.
#[test]
fn stalled_scrapes_cost_one() {
    let program = private_copy(&target("functions.c", &["-O0"]), "stalled");
    let probes = format!("{}action = \"latency\"\n", probe("all", &program, "fn_*"));
    let daemon = Daemon::start(&probes, "");
    let mut target = Target::start(&program, &["1", "wait"]);
    target.send("go");
    assert!(target.line().starts_with("done"));
    let before = cpu_seconds(&daemon);
    (0..10).for_each(|_| drop(daemon.scrape()));
    let ten = cpu_seconds(&daemon) - before;
    let before = cpu_seconds(&daemon);
    let mut stalled: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for stream in &mut stalled {
        stream.read_exact(&mut [0; 15]).unwrap();
    }
    let hundred = cpu_seconds(&daemon) - before;
    assert!(hundred < ten + 0.1, "ten scrapes {ten} s of CPU, a hundred stalled ones {hundred} s");
    assert!(daemon.scrape().contains("faultline_functions 10000"));
    drop(stalled);
    assert!(target.finish().0.success());
    daemon.stop();
}

/// Check that constantly busy clients do not starve the watchdog: it was once answered only if every drain
/// had looked between two of their requests.
#[test]
fn a_flood_of_wishes_leaves_the_watchdog_alone() {
    let program = private_copy(&Puppet::program(), "flood");
    let mut setup = Setup::new("", "");
    let path = setup.folder.join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(support::HUNG_AFTER)).unwrap();
    setup.command.command().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let daemon = setup.start();
    let function = format!("{}:tick", program.display());
    for number in 0..8 {
        let name = format!("p{number}");
        daemon.ctl(&["attach", &name, &function, "--action", "events"]).succeeded();
    }
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let wish = "POST /v1/detach HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n";
                while !enough.load(Ordering::Relaxed) {
                    let answer = daemon.raw_control(&format!("{wish}{{\"names\":[]}} "));
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                }
            });
        }
        let mut answers = 0;
        while answers < 5 {
            let mut bytes = [0; 4096];
            let count = notify.recv(&mut bytes).unwrap();
            answers += usize::from(&bytes[..count] == b"WATCHDOG=1");
        }
        enough.store(true, Ordering::Relaxed);
    });
    assert!(daemon.running.stderr.lines().iter().all(|line| !line.text.contains("is stalled")));
    daemon.stop();
}

/// Check that a change whose second half fails leaves nothing of the first half: the thread that drained
/// its events once ran for ever.
#[test]
fn half_a_change_leaves_nothing() {
    let program = private_copy(&Puppet::program(), "half");
    let daemon = Daemon::start("", "");
    let events = format!("{}action = \"events\"\n", probe("ticks", &program, "tick"));
    let tasks = || fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().count();
    let function = format!("{}:tick", program.display());
    daemon.ctl(&["attach", "x", &function, "--action", "events"]).succeeded();
    let with_one_group = daemon.descriptors();
    daemon.ctl(&["detach", "x"]).succeeded();
    daemon.wait_released();
    wait_until("its descriptors are closed", || daemon.descriptors() < with_one_group);
    let before = (tasks(), daemon.descriptors());
    // Room for one group and the 64 reserved descriptors, but not for another group.
    let most = with_one_group as u64 + 64 + 4;
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the process is our child, and the limit lives through the call.
    let limited = unsafe {
        libc::prlimit(daemon.pid(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(limited, 0);
    let counted = probe("tocks", &program, "tock");
    daemon.configure(&format!("{events}{counted}"), "");
    for _ in 0..5 {
        let failed = daemon.ctl(&["reload"]);
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert!(failed.stderr.contains("open files"), "{failed:?}");
    }
    assert_eq!(daemon.ask(&["list"])["probes"].as_array().unwrap().len(), 0);
    wait_until("nothing is left", || (tasks(), daemon.descriptors()) <= before);
    daemon.stop();
}

/// Check that `limits.max_functions` also applies to targets that appear later.
#[test]
fn limits_hold_for_targets_that_come() {
    let program = private_copy(&Puppet::program(), "limited");
    let name = program.file_name().unwrap().to_str().unwrap();
    let probes = format!("{}process = \"{name}\"\n", probe("ticks", &program, "t?ck"));
    let extra = "[limits]\nmax_functions = 1\n[targets]\nrescan_every = \"1s\"\n";
    let daemon = Daemon::start(&probes, extra);
    let puppet = Puppet::start_program(&program);
    daemon.running.stderr.wait_for(1, |line| {
        line.contains("2 functions would be probed; the limit is 1 (limits.max_functions)")
    });
    wait_until("it is said why", || {
        let problem = daemon.listed("ticks")["problem"].to_string();
        problem.contains("limits.max_functions")
    });
    assert_eq!(daemon.metric("faultline_links", &[]), 0.0);
    puppet.ends_well();
    daemon.stop();
}

/// Check that a thousand signals make a few reloads, and not one after another for minutes.
#[test]
fn signals_are_taken_together() {
    let program = private_copy(&target("functions.c", &["-O0"]), "signals");
    let probes: String =
        (0..2000).map(|n| probe(&format!("p{n}"), &program, &format!("fn_{n:04}"))).collect();
    let daemon = Daemon::start(&probes, "");
    for _ in 0..300 {
        daemon.running.signal(libc::SIGHUP);
        thread::sleep(Duration::from_millis(1));
    }
    // The last one counts: the file as it finds it takes effect in the end.
    daemon.configure(&probe("last", &program, "fn_9999"), "");
    daemon.running.signal(libc::SIGHUP);
    daemon.running.stderr.wait_for(1, |line| line.contains("1 probe added, 2000 removed"));
    let reloads = daemon.metric("faultline_config_reloads_total", &["success"]);
    assert!(reloads < 150.0, "{reloads} reloads");
    daemon.stop();
}

/// Check that systemd's status shows a failed reload until one succeeds, and not just for ten seconds.
#[test]
fn a_failed_reload_stays_in_the_status() {
    let mut setup = Setup::new("", "");
    let path = setup.folder.join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(support::HUNG_AFTER)).unwrap();
    setup.command.command().env("NOTIFY_SOCKET", &path);
    let daemon = setup.start();
    let next = |wanted: &str| loop {
        let mut bytes = [0; 4096];
        let count = notify.recv(&mut bytes).unwrap();
        let message = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if message.starts_with(wanted) {
            return message;
        }
    };
    daemon.configure("nonsense", "");
    assert!(!daemon.ctl(&["reload"]).status.success());
    next("RELOADING=1");
    next("READY=1");
    assert!(next("STATUS=").contains("last reload failed"));
    daemon.configure("", "");
    daemon.ask(&["reload"]);
    next("RELOADING=1");
    assert!(!next("READY=1").contains("last reload failed"));
    daemon.stop();
}

/// Check that a client can attach to a file that only a container has, without asking to wait for it.
#[test]
fn attached_where_only_a_container_has_it() {
    let folder = own_folder();
    let program = folder.join("only");
    let daemon = Daemon::start("", "");
    let script = format!(
        "mount -t tmpfs none {f} && cp {puppet} {p} && exec {p}",
        f = folder.display(),
        puppet = Puppet::program().display(),
        p = program.display(),
    );
    let mut inside = Target::start(
        Path::new("/usr/bin/unshare"),
        &["--mount", "--propagation", "private", "sh", "-c", &script],
    );
    let function = |name: &str| format!("{}:{name}", program.display());
    daemon.ctl(&["attach", "ticks", &function("tick")]).succeeded();
    let typo = daemon.ctl(&["attach", "typo", &function("tikc")]);
    assert!(typo.stderr.contains("did you mean `tick`?"), "{typo:?}");
    inside.send("step 7");
    assert_eq!(inside.line(), "stepped");
    daemon.wait_metric("faultline_probe_hits_total", &["name=\"ticks\""], 7.0);
    assert!(inside.finish().0.success());
    daemon.stop();
    fs::remove_dir_all(folder).unwrap();
}

/// Check that a daemon that is killed while it attaches thousands of links is gone soon: it once closed
/// them one after another, each with its own grace period, and kept its address all that time.
#[test]
fn killed_while_attaching() {
    let program = private_copy(&target("functions.c", &["-O0"]), "killed-attaching");
    let probes: String =
        (0..10_000).map(|n| probe(&format!("p{n}"), &program, &format!("fn_{n:04}"))).collect();
    let setup = Setup::new(&probes, "");
    let (folder, port, config) = (setup.folder.clone(), setup.port, setup.config());
    let mut killed = setup.command.stream();
    let links = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", killed.pid())).unwrap().flatten();
        let files = tasks.filter_map(|task| fs::read_dir(task.path().join("fd")).ok());
        files.map(Iterator::count).sum::<usize>()
    };
    wait_until("it attaches", || links() > 3000);
    killed.child.kill().unwrap();
    wait_until("the killed daemon is gone", || killed.child.try_wait().unwrap().is_some());
    assert!(killed.stderr.lines().iter().all(|line| !line.text.contains("ready: ")));
    let again = faultline(["daemon", "--config", config.to_str().unwrap()]).stream();
    again.stderr.wait_for(1, |line| line.contains("ready: 10000 probes attached"));
    Daemon { running: again, folder, port }.stop();
}

/// Check that an answer to megabytes of nonsense does not repeat them.
#[test]
fn errors_are_short() {
    let daemon = Daemon::start("", "");
    let nonsense = format!("{{\"probes\":[\"{}\"]}}", "x".repeat(1 << 20));
    let request = format!(
        "POST /v1/probes HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{nonsense}",
        nonsense.len()
    );
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.len() < 2048, "{}", answer.len());
    daemon.stop();
}

/// Check that errors name the file that cannot be opened for events, and say why a socket's path is
/// invalid.
#[test]
fn errors_name_the_path() {
    let run = |extra: &str| {
        let setup = Setup::new("", extra);
        let finished = setup.command.run();
        assert_eq!(finished.status.code(), Some(1));
        fs::remove_dir_all(setup.folder).unwrap();
        finished.stderr
    };
    let stderr = run("[events]\nfile = \"/no/such/folder/events\"\n");
    assert!(stderr.contains("failed to open /no/such/folder/events for events"), "{stderr}");
    let setup = Setup::new("", "");
    let text = fs::read_to_string(setup.config()).unwrap();
    let long = text.replace("control.sock", &"x".repeat(120));
    fs::write(setup.config(), long).unwrap();
    let stderr = setup.command.run().stderr;
    assert!(stderr.contains("bytes: must be 1 to 107"), "{stderr}");
    fs::remove_dir_all(setup.folder).unwrap();
}

/// Check that a file system that accepts a look-up, open or read and never answers blocks nothing else:
/// other probes count and can be changed, the daemon reports what is stuck and for how long, and SIGTERM
/// ends it. A process that waits for such an answer cannot be killed. When the answer finally comes, the
/// target is probed.
#[test]
fn file_systems_that_do_not_answer() {
    let program = private_copy(&Puppet::program(), "unanswered");
    let served = target("hung_fuse.c", &[]);
    for kind in ["lookup", "open", "read"] {
        let folder = own_folder().join(kind);
        fs::create_dir_all(&folder).unwrap();
        let args = [folder.to_str().unwrap(), kind, program.to_str().unwrap()];
        let mut server = Target::start(&served, &args);
        let hung =
            format!("{}pids = [{}]\n", probe("hung", &folder.join("lib.so"), "tock"), server.pid());
        let probes = format!("{hung}{}", probe("ticks", &program, "tick"));
        let extra = "[targets]\nrescan_every = \"1s\"\n[limits]\nstop_timeout = \"5s\"\n";
        let daemon = Daemon::start(&probes, extra);
        let mut puppet = Puppet::start_program(&program);
        puppet.step(10);
        daemon.wait_metric("faultline_probe_hits_total", &["name=\"ticks\""], 10.0);
        let problem = daemon.listed("hung")["problem"].to_string();
        assert!(problem.contains("its file system has not answered for"), "{kind}: {problem}");
        wait_until("the status says what hangs", || {
            daemon.ask(&["status"])["slow"].to_string().contains("lib.so")
        });
        let said = daemon.ctl(&["status"]).succeeded().stdout;
        let slow = said.lines().find(|line| line.starts_with("slow           opening "));
        assert!(slow.is_some_and(|line| line.contains("lib.so` in process ")), "{kind}: {said}");
        let tocks = format!("{}:tock", program.display());
        daemon.ctl(&["attach", "tocks", &tocks]).succeeded();
        daemon.ctl(&["detach", "tocks"]).succeeded();
        if kind == "read" {
            server.send("answer");
            wait_until("it is probed", || daemon.listed("hung")["state"] == "attached");
            assert!(daemon.ask(&["status"]).get("slow").is_none());
        }
        // The daemon ends although the file system has not answered yet.
        let said = daemon.stop().stderr;
        assert!(said.contains("all probes released"), "{kind}: {said}");
        puppet.ends_well();
        server.finish();
    }
}

/// Check that what a reload has not begun to attach when SIGTERM comes is not attached any more, and that
/// what it was attaching is released before the daemon says that everything is.
#[test]
fn a_stop_overtakes_a_reload() {
    let program = private_copy(&target("functions.c", &["-O0"]), "overtaken");
    let target = Target::start(&program, &["1", "wait"]);
    let mut overtaken = 0;
    for delay_ms in [0, 20, 40, 60, 80, 120, 160] {
        let first = probe("first", &program, "fn_0000");
        let daemon = Daemon::start(&first, "");
        daemon.configure(&format!("{first}{}", probe("all", &program, "fn_*")), "");
        daemon.running.signal(libc::SIGHUP);
        thread::sleep(Duration::from_millis(delay_ms));
        let said = daemon.stop().stderr;
        let (_, after) = said.split_once("received SIGTERM, stopping").unwrap();
        assert!(after.contains("all probes released"), "{delay_ms} ms: {said}");
        if said.contains("INFO reloaded") {
            // It was done when the signal came, although another thread may say so a moment later.
            assert!(after.contains("2 links released"), "{delay_ms} ms: {said}");
        } else {
            overtaken += 1;
            assert!(!after.contains("probes added"), "{delay_ms} ms: {said}");
        }
    }
    assert!(overtaken > 0, "every reload was done before the stop");
    target.finish();
}
