//! `dist --test`: installs the package on this machine, looks at it as a user would, and purges it.
//!
//! Refuses where faultline is installed already. What it leaves is what dpkg always leaves: lines
//! in its log.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::Built;
use crate::apt::{self, Needed};
use crate::command::{is_root, note, on_path, quiet, user_command};

const MAN: Needed = Needed { command: "man", packages: &["man-db"], why: "reads manual pages" };

/// What a user looks for, and its mode.
const FILES: &[(&str, u32)] = &[
    ("/usr/bin/faultline", 0o755),
    ("/etc/faultline/faultline.toml", 0o644),
    ("/usr/lib/systemd/system/faultline.service", 0o644),
    ("/usr/share/man/man1/faultline.1.gz", 0o644),
    ("/usr/share/man/man1/faultline-trace.1.gz", 0o644),
    ("/usr/share/man/man1/faultline-daemon.1.gz", 0o644),
    ("/usr/share/bash-completion/completions/faultline", 0o644),
    ("/usr/share/zsh/vendor-completions/_faultline", 0o644),
    ("/usr/share/fish/vendor_completions.d/faultline.fish", 0o644),
    ("/usr/share/doc/faultline/copyright", 0o644),
    ("/usr/share/doc/faultline/docs/deploy.md", 0o644),
    ("/usr/share/doc/faultline/examples/prometheus/faultline.rules.yml", 0o644),
];

/// Removes the package however the test ends, and the user if it came with it.
struct Installed {
    had_user: bool,
}

impl Drop for Installed {
    fn drop(&mut self) {
        if is_known() {
            let _ = quiet(root("dpkg").args(["--purge", "faultline"]));
        }
        if !self.had_user && has_user() {
            // Its group goes with it.
            let _ = quiet(root("userdel").arg("faultline"));
        }
    }
}

/// Installs, looks, removes, purges.
///
/// # Errors
/// What is not as it should be, or what keeps the test from being done here.
pub(crate) fn check(built: &Built) -> Result<()> {
    if is_known() || Path::new("/etc/faultline").exists() {
        bail!("faultline is installed on this machine, and the test would remove it");
    }
    apt::ensure(&[MAN])?;
    check_contents(built)?;

    let guard = Installed { had_user: has_user() };
    note("dist", "installing the package");
    install(&built.package)?;
    check_files()?;
    check_program()?;
    check_service()?;
    // As an upgrade would: over itself.
    install(&built.package)?;
    check_service()?;

    note("dist", "removing the package");
    quiet(root("dpkg").args(["--remove", "faultline"]))?;
    ensure!(!Path::new("/usr/bin/faultline").exists(), "/usr/bin/faultline was not removed");
    ensure!(
        Path::new("/etc/faultline/faultline.toml").exists(),
        "a removal took the configuration (only a purge may)"
    );
    quiet(root("dpkg").args(["--purge", "faultline"]))?;
    for (file, _) in FILES {
        ensure!(!Path::new(file).exists(), "{file} is still there after a purge");
    }
    for folder in ["/etc/faultline", "/usr/share/doc/faultline", "/var/log/faultline"] {
        ensure!(!Path::new(folder).exists(), "{folder} is still there after a purge");
    }
    ensure!(!is_known(), "dpkg still knows faultline after a purge");
    drop(guard);
    note("dist", "installed, used, removed and purged without a problem");
    Ok(())
}

fn install(package: &Path) -> Result<()> {
    let mut command = root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "dpkg", "--install"]).arg(package);
    quiet(&mut command).map(drop)
}

/// The archive has the same files as the package, and all belong to root.
fn check_contents(built: &Built) -> Result<()> {
    let names = |listing: &str| -> BTreeSet<String> {
        let files = listing.lines().filter(|line| !line.starts_with('d'));
        files.filter_map(|line| line.split_whitespace().nth(5).map(str::to_owned)).collect()
    };
    let in_package = quiet(user_command("dpkg-deb").arg("--contents").arg(&built.package))?;
    let in_archive = quiet(user_command("tar").arg("-tvzf").arg(&built.archive))?;
    for line in in_package.lines() {
        ensure!(line.contains(" 0/0 "), "does not belong to root: {line}");
    }
    ensure!(names(&in_package) == names(&in_archive), "archive and package differ in their files");
    let control =
        quiet(user_command("dpkg-deb").arg("--info").arg(&built.package).arg("conffiles"))?;
    ensure!(control.trim() == "/etc/faultline/faultline.toml", "conffiles are {control:?}");
    Ok(())
}

fn check_files() -> Result<()> {
    for (file, mode) in FILES {
        let metadata = fs::metadata(file).with_context(|| format!("no {file} was installed"))?;
        let (has, owner) = (metadata.mode() & 0o7777, (metadata.uid(), metadata.gid()));
        ensure!(has == *mode && owner == (0, 0), "{file} has mode {has:o} and owner {owner:?}");
    }
    ensure!(has_user(), "there is no user `faultline`");
    Ok(())
}

fn check_program() -> Result<()> {
    let program = "/usr/bin/faultline";
    let version = quiet(user_command(program).arg("--version"))?;
    let expected = concat!("faultline ", env!("CARGO_PKG_VERSION"));
    ensure!(version.trim() == expected, "`faultline --version` says {version:?}");
    // What is installed is a configuration that the program takes.
    quiet(user_command(program).args(["daemon", "--check"]))?;
    let traced = quiet(root(program).args(["count", "libc:getenv", "--json", "-c", "sh -c true"]))?;
    ensure!(traced.contains("\"type\":\"summary\""), "`faultline count` says {traced:?}");
    for page in ["faultline", "faultline-trace", "faultline-daemon"] {
        let text = quiet(user_command("man").args(["-P", "cat", page]).env("MANWIDTH", "80"))?;
        ensure!(text.contains("SYNOPSIS"), "the manual page {page} reads {text:?}");
    }
    // A shell takes the completions, and they complete.
    let script = ". /usr/share/bash-completion/completions/faultline; \
                  COMP_WORDS=(faultline tr) COMP_CWORD=1; _faultline faultline tr faultline; \
                  echo \"${COMPREPLY[*]}\"";
    let completed = quiet(user_command("bash").args(["-c", script]))?;
    ensure!(completed.trim() == "trace", "`faultline tr` is completed to {completed:?}");
    Ok(())
}

/// Installed, and neither enabled nor started.
fn check_service() -> Result<()> {
    if on_path("systemctl").is_none() {
        return Ok(());
    }
    let enabled = user_command("systemctl").args(["is-enabled", "faultline"]).output()?;
    let enabled = String::from_utf8_lossy(&enabled.stdout).trim().to_owned();
    ensure!(enabled == "disabled", "the service is {enabled}");
    Ok(())
}

fn is_known() -> bool {
    quiet(user_command("dpkg-query").args(["--show", "--showformat", "${Status}", "faultline"]))
        .is_ok_and(|status| !status.contains("not-installed"))
}

fn has_user() -> bool {
    quiet(user_command("getent").args(["passwd", "faultline"])).is_ok()
}

fn root(program: &str) -> Command {
    if is_root() {
        return user_command(program);
    }
    let mut command = user_command("sudo");
    command.args(["-n", program]);
    command
}
