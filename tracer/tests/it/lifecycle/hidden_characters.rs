//! Names that contain terminal control sequences: no command's JSON lets them through.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use super::support::{
    Finished,
    daemon::{Daemon, own_folder},
    faultline, target,
};

/// Clears the screen, begins a C1 control sequence, and reverses the text from there on.
const HIDDEN: &str = "fn\u{1b}[2J\u{9b}1m\u{202e}\"\\é";

/// A program whose name and function contain them.
struct Evil {
    folder: PathBuf,
    program: PathBuf,
}

impl Evil {
    fn new() -> Self {
        let folder = own_folder();
        let program = folder.join("evil\u{9b}\u{202e}");
        let status = Command::new("objcopy")
            .arg(format!("--redefine-sym=fn_0000={HIDDEN}"))
            .args([&target("functions.c", &["-O0"]), &program])
            .status()
            .unwrap();
        assert!(status.success(), "objcopy failed");
        Self { folder, program }
    }

    /// A probe on that function, with the hidden characters written as escapes, in quotes.
    fn probe(&self) -> String {
        format!("\"{}\":/^fn.\\[/", self.program.display().to_string().escape_default())
    }

    fn label(&self) -> String {
        format!("{}:{HIDDEN}", self.program.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The lines of a command's output, which are JSON and contain nothing that a terminal would act on.
#[track_caller]
fn lines(finished: &Finished) -> Vec<Value> {
    let hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!finished.stdout.contains(hidden), "{:?}", finished.stdout);
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Check that every command's `--json` escapes terminal control sequences, as events do, and that the names
/// can be recovered intact.
#[test]
fn json_of_every_command_has_no_hidden_characters() {
    let evil = Evil::new();
    let (probe, label) = (evil.probe(), evil.label());

    let list = lines(&faultline(["list", "--json", &probe]).run().succeeded());
    assert_eq!(list[0]["function"], HIDDEN, "{list:?}");

    let planned = faultline(["trace", "--json", "--dry-run", &probe]).run().succeeded();
    let planned = lines(&planned);
    assert_eq!(
        (&planned[0]["type"], &planned[0]["probe"]),
        (&"planned".into(), &label.clone().into())
    );
    assert_eq!(planned[0]["file"], evil.program.to_str().unwrap());

    for command in ["count", "latency", "trace"] {
        let run = format!("'{}' 5", evil.program.display());
        let found = lines(&faultline([command, "--json", &probe, "-c", &run]).run().succeeded());
        let is_own = |line: &&Value| line["probe"] == *label;
        assert!(found.iter().any(|line| is_own(&line)), "{command}: {found:?}");
        assert_eq!(found.last().unwrap()["hits"], if command == "latency" { 10 } else { 5 });
    }

    let doctor = faultline(["doctor", "--json", evil.program.to_str().unwrap()]).run().succeeded();
    let target = lines(&doctor).into_iter().find(|line| line["feature"] == "target").unwrap();
    assert!(target["means"].as_str().unwrap().contains(evil.program.to_str().unwrap()), "{target}");
}

/// Check the same of the daemon's API and of `ctl`, which prints its answers.
#[test]
fn json_of_the_daemon_has_no_hidden_characters() {
    let evil = Evil::new();
    let daemon = Daemon::start("", "");
    let attached = daemon.ctl(&["attach", "evil", &evil.probe(), "--json"]).succeeded();
    assert_eq!(lines(&attached)[0]["added"][0]["name"], "evil");
    let list = lines(&daemon.ctl(&["list", "--json"]).succeeded()).remove(0);
    let listed = &list["probes"][0];
    assert_eq!(listed["files"][0], evil.program.to_str().unwrap(), "{list}");
    assert_eq!(listed["probe"], evil.probe(), "{list}");
    let request = "GET /v1/probes HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = daemon.raw_control(request);
    let hidden = |c: char| !"\r\n".contains(c) && (c.is_control() || c == '\u{202e}');
    assert!(!answer.contains(hidden), "{answer:?}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body, list);
    daemon.stop();
}
