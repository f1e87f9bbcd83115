//! Packages of any Debian suite, as files: found with all that they depend on, downloaded, and
//! unpacked into a folder. Nothing is installed, and the machine's own apt is left alone.
//!
//! A private apt does it, with its own sources, lists and cache below `target/debian/SUITE`, and an
//! empty list of installed packages, so that it sees every dependency. The mirror is the one that
//! this machine is configured for, with another suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::command::{note, on_path, quiet, retried, user_command};
use crate::workspace;

/// Names an archive where apt's configuration does not: on a system that is not Debian.
const OVERRIDE: &str = "FAULTLINE_DEBIAN_MIRROR";

/// What Debian's archive is signed with; where it is missing, apt's own keys have to do.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Puts a package of a suite and all that it depends on into a folder.
///
/// # Errors
/// If apt fails three times, or the folder exists and is not empty.
pub(crate) fn unpack_with_dependencies(suite: &str, package: &str, folder: &Path) -> Result<()> {
    let suite = Suite::new(suite)?;
    let packages = suite.with_dependencies(package)?;
    unpack(&suite.download(&packages)?, folder)
}

/// A suite (`sid`, `trixie`, …) of Debian's archive.
pub(crate) struct Suite {
    name: String,
    config: PathBuf,
    archives: PathBuf,
}

impl Suite {
    /// # Errors
    /// If this machine has no apt, or its apt knows no Debian archive.
    pub(crate) fn new(name: &str) -> Result<Self> {
        if on_path("apt-get").is_none() || on_path("dpkg-deb").is_none() {
            bail!("packages of Debian {name} need apt-get and dpkg-deb, which this machine lacks");
        }
        let folder = workspace::target().join("debian").join(name);
        let archives = folder.join("packages");
        create_folder(&folder.join("lists/partial"))?;
        create_folder(&folder.join("partial"))?;
        write(&folder.join("debian.list"), &source(name)?)?;
        write(&folder.join("status"), "")?;
        let config = folder.join("apt.conf");
        write(&config, &configuration(&folder))?;
        Ok(Self { name: name.to_owned(), config, archives })
    }

    /// A package and everything it depends on, by today's list, without what is only recommended.
    ///
    /// # Errors
    /// If apt fails three times.
    pub(crate) fn with_dependencies(&self, package: &str) -> Result<Vec<String>> {
        retried(&format!("resolving {package} in Debian {}", self.name), || {
            self.update()?;
            Ok(installed_by(&quiet(self.apt().args(["install", "--simulate", package]))?))
        })
    }

    /// Downloads these packages, without their dependencies. Gives the `.deb` files, in a folder
    /// that the next download empties.
    ///
    /// # Errors
    /// If apt fails three times.
    pub(crate) fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let what = format!("downloading {} from Debian {}", packages.join(" "), self.name);
        note("debian", &what);
        retried(&what, || {
            // Files of an earlier day must not be mixed with those of today.
            remove_folder(&self.archives)?;
            create_folder(&self.archives)?;
            self.update()?;
            quiet(self.apt().arg("download").args(packages).current_dir(&self.archives))
        })?;
        let context = || format!("failed to list {}", self.archives.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.archives).with_context(context)? {
            files.push(entry.with_context(context)?.path());
        }
        files.sort();
        Ok(files)
    }

    /// sid changes every day, and an old list names files that no longer exist.
    fn update(&self) -> Result<()> {
        quiet(self.apt().arg("update")).map(drop)
    }

    fn apt(&self) -> Command {
        let mut command = user_command("apt-get");
        command.arg("--config-file").arg(&self.config).env("LC_ALL", "C.UTF-8");
        command
    }
}

/// The packages that apt says it would install.
fn installed_by(simulation: &str) -> Vec<String> {
    let lines = simulation.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|rest| rest.split(' ').next().map(str::to_owned)).collect()
}

/// Unpacks packages one over the other. The folder appears only when it is complete.
///
/// # Errors
/// If a package cannot be unpacked, or the folder exists and is not empty.
pub(crate) fn unpack(packages: &[PathBuf], folder: &Path) -> Result<()> {
    let partial = folder.with_extension("partial");
    remove_folder(&partial)?;
    create_folder(&partial)?;
    for package in packages {
        quiet(user_command("dpkg-deb").arg("-x").arg(package).arg(&partial))?;
    }
    fs::rename(&partial, folder)
        .with_context(|| format!("failed to move {} into place", partial.display()))
}

/// The line of a `sources.list` for a suite: see sources.list(5).
///
/// # Errors
/// If this machine's apt knows no Debian archive.
pub(crate) fn source(suite: &str) -> Result<String> {
    let archive = archive()?;
    let signed_by =
        if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    Ok(format!("deb {signed_by}{archive} {suite} main\n"))
}

/// Where this machine's apt has Debian's packages from.
fn archive() -> Result<String> {
    if let Ok(archive) = std::env::var(OVERRIDE) {
        return Ok(archive);
    }
    let ask = || -> Result<Option<String>> {
        let listed = quiet(user_command("apt-get").args([
            "indextargets",
            "--format=$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
            "Label: Debian",
            "Component: main",
        ]))?;
        Ok(listed.lines().next().map(str::to_owned))
    };
    if let Some(archive) = ask()? {
        return Ok(archive);
    }
    // Without package lists, as on a new machine, apt cannot tell which archive is Debian's.
    apt::update("to find Debian's archive")?;
    ask()?.with_context(|| {
        format!("apt's sources name no Debian archive (set {OVERRIDE} to the address of one)")
    })
}

/// Debian's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Read after the machine's own configuration, so that a proxy set there stays in force. The
/// machine's hooks are cleared: they are meant for its own apt and may need root. apt's own retries
/// take minutes, and are done here.
fn configuration(folder: &Path) -> String {
    let (folder, architecture) = (folder.display(), architecture());
    format!(
        r##"Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}";
Dir::Etc::sourcelist "{folder}/debian.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "{architecture}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Retries "0";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Languages "none";
Debug::NoLocking "true";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
"##
    )
}

fn remove_folder(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))
}

fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that names are taken from apt's simulation, each once.
    #[test]
    fn simulated_installation() {
        let simulation = "\
Reading package lists...
The following NEW packages will be installed:
  busybox linux-image-6.12.117+deb13-amd64
Inst busybox (1:1.37.0-6 Debian:13/stable [amd64])
Inst linux-image-6.12.117+deb13-amd64 (6.12.117-1 Debian:13/stable [amd64])
Conf busybox (1:1.37.0-6 Debian:13/stable [amd64])
";
        let expected = ["busybox", "linux-image-6.12.117+deb13-amd64"];
        assert_eq!(installed_by(simulation), expected);
    }
}
