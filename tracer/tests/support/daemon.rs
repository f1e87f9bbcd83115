//! A daemon under test, with its configuration in a private folder, its socket and its metrics.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use super::{Faultline, Finished, faultline, live::wait_until, streaming::Streaming};

pub struct Daemon {
    pub running: Streaming,
    pub folder: PathBuf,
    pub port: u16,
}

/// A daemon that has not been started yet.
pub struct Setup {
    pub folder: PathBuf,
    pub port: u16,
    pub command: Faultline,
}

/// A folder that no other test uses.
pub fn own_folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("faultline-daemon-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The `[[probe]]` table of a counted function; more keys may follow.
pub fn probe(name: &str, target: &Path, function: &str) -> String {
    format!("[[probe]]\nname = \"{name}\"\nprobe = \"{}:{function}\"\n", target.display())
}

impl Setup {
    /// A folder with this configuration; `extra` is TOML below `[targets]`, `[events]` and so on.
    pub fn new(probes: &str, extra: &str) -> Self {
        let folder = own_folder();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut setup = Self { folder, port, command: faultline(["daemon", "--config"]) };
        setup.write(probes, extra);
        let config = setup.config();
        setup.command.command().arg(config);
        let end_with_the_test = || {
            // SAFETY: the call takes no pointer.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only prctl is called.
        unsafe { setup.command.command().pre_exec(end_with_the_test) };
        setup
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("faultline.toml")
    }

    fn write(&self, probes: &str, extra: &str) {
        write_config(&self.folder, self.port, probes, extra);
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Daemon {
        let running = self.command.stream();
        running.stderr.wait_for(1, |line| line.contains("ready: "));
        Daemon { running, folder: self.folder, port: self.port }
    }
}

fn write_config(folder: &Path, port: u16, probes: &str, extra: &str) {
    let socket = folder.join("control.sock");
    // Tests that count exactly must not use up each other's budget.
    let overhead = if extra.contains("[overhead]") { "" } else { "[overhead]\nmax = \"off\"\n" };
    let text = format!(
        "{probes}\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n\
         max_series = 10000\n[control]\nsocket = \"{}\"\n{overhead}{extra}\n",
        socket.display()
    );
    fs::write(folder.join("faultline.toml"), text).unwrap();
}

impl Daemon {
    pub fn start(probes: &str, extra: &str) -> Self {
        Setup::new(probes, extra).start()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Writes another configuration.
    pub fn configure(&self, probes: &str, extra: &str) {
        write_config(&self.folder, self.port, probes, extra);
    }

    /// Runs `faultline ctl`.
    pub fn ctl(&self, args: &[&str]) -> Finished {
        let socket = self.socket();
        let fixed = ["ctl", "--socket", socket.to_str().unwrap()];
        faultline(fixed.into_iter().chain(args.iter().copied())).run()
    }

    /// The output of a successful `ctl --json`.
    #[track_caller]
    pub fn ask(&self, args: &[&str]) -> Value {
        let finished = self.ctl(&[args, &["--json"]].concat()).succeeded();
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// The probe in `ctl list`.
    #[track_caller]
    pub fn listed(&self, name: &str) -> Value {
        let list = self.ask(&["list"]);
        let probes = list["probes"].as_array().unwrap();
        probes.iter().find(|probe| probe["name"] == name).cloned().unwrap_or(Value::Null)
    }

    /// The body of the response at a path.
    pub fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        body(stream)
    }

    /// Sends a raw request to the control socket; returns the whole answer.
    pub fn raw_control(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub fn scrape(&self) -> String {
        self.http("/metrics")
    }

    /// The sum of all samples of a metric whose labels contain all of these.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum_of(&self.scrape(), name, labels)
    }

    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[&str], wanted: f64) {
        let mut last = f64::NAN;
        let started = std::time::Instant::now();
        while last.to_bits() != wanted.to_bits() {
            assert!(
                started.elapsed() < super::HUNG_AFTER,
                "{name}{labels:?} is {last}, never {wanted}; {:?}",
                self.running.stderr.lines()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
            last = self.metric(name, labels);
        }
    }

    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Stops it as systemd would.
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.running.signal(libc::SIGTERM);
        let socket = self.socket();
        let finished = self.running.finish().succeeded();
        assert!(!socket.exists(), "the socket is gone with the daemon");
        fs::remove_dir_all(self.folder).unwrap();
        finished
    }

    /// Waits until nothing is being released.
    #[track_caller]
    pub fn wait_released(&self) {
        wait_until("all is released", || self.ask(&["status"])["releasing"] == 0);
    }
}

pub fn body(mut stream: impl std::io::Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let mut whole = String::new();
    let mut rest = body;
    while let Some((length, tail)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&tail[..length]);
        rest = tail[length..].trim_start_matches("\r\n");
    }
    whole
}

/// The sum of all samples of a metric whose labels contain all of these.
pub fn sum_of(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let fits =
                rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label));
            fits.then(|| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        })
        .sum()
}

/// Runs a program; returns what it printed if it succeeded.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
