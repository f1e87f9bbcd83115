//! Programs and headers that come from the operating system.

use anyhow::{Context as _, Result, bail};

use crate::command::{is_root, note, on_path, quiet, user_command};

/// A command, the Debian packages that provide it, and what it is for.
pub(crate) struct Needed {
    pub(crate) command: &'static str,
    pub(crate) packages: &'static [&'static str],
    pub(crate) why: &'static str,
}

/// Installs the packages of those commands that are not on `PATH`. One look at the folders of
/// `PATH` when there is nothing to do.
///
/// # Errors
/// If something is missing and this is no Debian-like system, if it may not be installed without
/// asking, or if apt fails. The error names the packages.
pub(crate) fn ensure(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&Needed> =
        needed.iter().filter(|one| on_path(one.command).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        missing.iter().map(|one| format!("{} ({})", one.command, one.why)).collect();
    let list = list.join(", ");
    if on_path("apt-get").is_none() {
        bail!("this machine lacks {list} (install with its package manager and try again)");
    }
    let packages: Vec<&str> = missing.iter().flat_map(|one| one.packages.iter().copied()).collect();
    note("setup", &format!("installing {} with apt-get for {list}", packages.join(" ")));
    install(&packages)?;
    match missing.iter().find(|one| on_path(one.command).is_none()) {
        None => Ok(()),
        Some(one) => bail!(
            "apt-get installed {}, but `{}` is still not on PATH",
            one.packages.join(" "),
            one.command
        ),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let attempt = || apt_get(&["install", "--yes", "--no-install-recommends"], packages);
    let Err(first) = attempt() else { return Ok(()) };
    // A new machine has no package lists, an old one has outdated ones.
    update(&format!("because: {first:#}"))?;
    attempt()
        .with_context(|| format!("(install by hand: `apt-get install {}`)", packages.join(" ")))
}

/// Updates the lists of packages of this machine's apt.
///
/// # Errors
/// If apt fails.
pub(crate) fn update(why: &str) -> Result<()> {
    note("setup", &format!("updating apt's package lists, {why}"));
    apt_get(&["update"], &[])
}

fn apt_get(args: &[&str], packages: &[&str]) -> Result<()> {
    // Through `env`, because sudo does not pass variables on; `-n`, because the password prompt of
    // a command whose output is captured could not be seen.
    let mut command = if is_root() {
        user_command("env")
    } else {
        let mut sudo = user_command("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    command.arg("DEBIAN_FRONTEND=noninteractive").arg("apt-get").args(args).args(packages);
    quiet(&mut command).map(drop)
}
