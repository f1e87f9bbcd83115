//! Runs other programs: with the user's own environment, with the pinned toolchain, and with
//! failures that say what was run, how it ended and what it printed last.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{tools, workspace};

/// How much of a failed program's output its error quotes.
const TAIL_LINES: usize = 20;

/// A command in the environment that the user has, not in the one that `cargo run` made for xtask:
/// its `RUSTUP_TOOLCHAIN`, `RUSTC`, `LD_LIBRARY_PATH` would bind another toolchain's cargo to the
/// default toolchain's compiler, and every program that faultline starts would inherit them.
pub(crate) fn user_command(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_set_by_cargo_run) {
            command.env_remove(name);
        }
    }
    match env::var_os("LD_LIBRARY_PATH").map(|path| user_library_path(&path)) {
        None => {}
        Some(None) => drop(command.env_remove("LD_LIBRARY_PATH")),
        Some(Some(path)) => drop(command.env("LD_LIBRARY_PATH", path)),
    }
    command
}

/// Whether a variable describes the xtask package or the toolchain that compiled it. Settings
/// such as `CARGO_HOME`, `CARGO_NET_*` and `RUSTFLAGS` are the user's and stay.
fn is_set_by_cargo_run(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_BUILD_TARGET",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_LINKS",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        // From `[env]` in .cargo/config.toml.
        "CARGO_TERM_QUIET",
        "OUT_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
        "RUSTUP_TOOLCHAIN_SOURCE",
        "RUST_RECURSION_COUNT",
    ];
    EXACT.contains(&name) || name.starts_with("CARGO_PKG_")
}

/// The library path without the folders of toolchains and of this checkout.
fn user_library_path(path: &OsString) -> Option<OsString> {
    let target = workspace::target();
    let kept: Vec<PathBuf> = env::split_paths(path)
        .filter(|folder| !folder.starts_with(&target) && !is_in_toolchain(folder))
        .collect();
    if kept.is_empty() { None } else { env::join_paths(kept).ok() }
}

/// Rustup keeps each toolchain in a folder `…/toolchains/NAME/lib`.
fn is_in_toolchain(folder: &Path) -> bool {
    let parts: Vec<_> = folder.iter().collect();
    parts.windows(3).any(|three| three[0] == "toolchains" && three[2] == "lib")
}

/// Cargo of a toolchain, in the checkout, building below its `target`, with the project's
/// bpf-linker even if another version is on `PATH`.
pub(crate) fn cargo(toolchain: &str) -> Command {
    let mut command = user_command("rustup");
    command
        .args(["run", toolchain, "cargo"])
        .current_dir(workspace::root())
        .env("CARGO_TARGET_DIR", workspace::target())
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", tools::bpf_linker());
    command
}

/// Runs to the end with the terminal as it is.
///
/// # Errors
/// If the program cannot be started or fails.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| start_failed(command))?;
    if !status.success() {
        bail!("`{}` {}", line(command), ended(status));
    }
    Ok(())
}

/// Runs to the end without showing its output; a failure quotes the end of it.
///
/// # Errors
/// If the program cannot be started or fails.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| start_failed(command))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let all = stdout + &String::from_utf8_lossy(&output.stderr);
        bail!("`{}` {}:\n{}", line(command), ended(output.status), tail(&all));
    }
    Ok(stdout)
}

/// Runs something that uses the network up to three times.
///
/// # Errors
/// The last attempt's.
pub(crate) fn retried<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for pause_s in [2, 10] {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => note(what, &format!("failed, trying again in {pause_s} s: {error:#}")),
        }
        sleep(Duration::from_secs(pause_s));
    }
    attempt().with_context(|| format!("{what} failed three times"))
}

/// Reports progress on stderr; stdout belongs to the program that is run.
pub(crate) fn note(task: &str, message: &str) {
    eprintln!("{task}: {message}");
}

/// Whether xtask runs as root. The owner of `/proc/self` is the effective user.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Where a program is on `PATH`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

fn start_failed(command: &Command) -> String {
    format!("failed to start `{}`", line(command))
}

/// The command as a person would type it, good enough to read.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("failed: {status}"),
    }
}

fn tail(output: &str) -> String {
    let mut last = VecDeque::with_capacity(TAIL_LINES);
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        if last.len() == TAIL_LINES {
            last.pop_front();
        }
        last.push_back(format!("    {line}"));
    }
    Vec::from(last).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that only the end of a long output is quoted, without blank lines.
    #[test]
    fn tail_keeps_the_last_lines() {
        let output: String = (0..100).map(|n| format!("{n}\n\n")).collect();
        let tail = tail(&output);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("    80\n") && tail.ends_with("    99"), "{tail}");
    }

    /// Check that cargo's additions to the library path are removed and the user's part is kept.
    #[test]
    fn library_path_is_the_users() {
        let target = workspace::target().join("debug/deps");
        let toolchain = PathBuf::from("/home/a/.rustup/toolchains/stable-x86_64/lib");
        let both = env::join_paths([&target, &toolchain]).unwrap();
        assert_eq!(user_library_path(&both), None);
        let mine = PathBuf::from("/opt/lib");
        let all = env::join_paths([&target, &mine, &toolchain]).unwrap();
        assert_eq!(user_library_path(&all), Some(mine.into_os_string()));
    }

    /// Check that an error contains the command, the exit code and the output.
    #[test]
    fn failure_is_reported_in_full() {
        let error = quiet(user_command("sh").args(["-c", "echo why; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo why; exit 3` failed with exit code 3:\n    why");
    }
}
