//! Packages of any Debian suite, as files: downloaded, alone or with all that they depend on, and
//! unpacked into a folder. Nothing is installed, and the machine's own apt is not touched.
//!
//! A private apt does it, with its own sources, lists and cache below `target/debian/SUITE`, and an
//! empty list of installed packages, so that every dependency is downloaded. The mirror is the one
//! that this machine is configured for, with another suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt_sources::{self, Archive};
use crate::command::{note, on_path, quiet, retried, user_command};
use crate::workspace;

/// Downloads packages of a suite (`sid`, `trixie`, …) and their dependencies, without those that
/// are only recommended. Gives the `.deb` files.
///
/// # Errors
/// If this machine has no apt or names no Debian archive, or if apt fails three times.
pub(crate) fn download(suite: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let apt = PrivateApt::prepare(suite, &packages.join("+"))?;
    let what = format!("downloading {} of Debian {suite}", packages.join(" "));
    note("debian", &what);
    retried(&what, || {
        // Each time: sid moves, and yesterday's list names files that are gone.
        quiet(apt.get().arg("update"))?;
        quiet(apt.get().args(["install", "--yes", "--download-only"]).args(packages))
    })?;
    apt.downloaded()
}

/// A suite whose list of packages is of today.
pub(crate) struct Suite {
    name: String,
    apt: PrivateApt,
}

impl Suite {
    /// # Errors
    /// If this machine has no apt or names no Debian archive, or if apt fails three times.
    pub(crate) fn updated(name: &str) -> Result<Self> {
        let apt = PrivateApt::prepare(name, "alone")?;
        let what = format!("downloading the list of packages of Debian {name}");
        retried(&what, || quiet(apt.get().arg("update")))?;
        Ok(Self { name: name.to_owned(), apt })
    }

    /// The packages whose names begin like this.
    ///
    /// # Errors
    /// If apt fails.
    pub(crate) fn package_names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = quiet(self.apt.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads packages without what they depend on. Gives the `.deb` files.
    ///
    /// # Errors
    /// If apt fails three times.
    pub(crate) fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let what = format!("downloading {} of Debian {}", packages.join(" "), self.name);
        note("debian", &what);
        retried(&what, || {
            quiet(self.apt.get().arg("download").args(packages).current_dir(&self.apt.archives))
        })?;
        self.apt.downloaded()
    }
}

/// Unpacks packages one over the other. The folder appears only when it is complete.
///
/// # Errors
/// If a package cannot be unpacked or the folder exists and is not empty.
pub(crate) fn unpack(packages: &[PathBuf], folder: &Path) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("failed to remove {}", partial.display()))?;
    }
    create_folder(&partial)?;
    for package in packages {
        quiet(user_command("dpkg-deb").arg("-x").arg(package).arg(&partial))?;
    }
    fs::rename(&partial, folder)
        .with_context(|| format!("failed to move {} into place", partial.display()))
}

/// Debian's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An apt with its own state.
struct PrivateApt {
    config: PathBuf,
    archives: PathBuf,
}

impl PrivateApt {
    fn prepare(suite: &str, request: &str) -> Result<Self> {
        if on_path("apt-get").is_none() || on_path("dpkg-deb").is_none() {
            bail!("packages of Debian {suite} need apt-get and dpkg-deb, which this machine lacks");
        }
        let folder = workspace::target().join("debian").join(suite);
        let archives = folder.join(request);
        if archives.exists() {
            // Packages of an earlier day could be mixed with today's.
            fs::remove_dir_all(&archives)
                .with_context(|| format!("failed to remove {}", archives.display()))?;
        }
        create_folder(&archives.join("partial"))?;
        create_folder(&folder.join("lists/partial"))?;
        let archive = apt_sources::debian_archive()?;
        write(&folder.join("debian.sources"), &source(&archive, suite))?;
        write(&folder.join("status"), "")?;
        let config = folder.join("apt.conf");
        write(&config, &configuration(&folder, &archives))?;
        Ok(Self { config, archives })
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = user_command(program);
        command.arg("--config-file").arg(&self.config).env("LC_ALL", "C.UTF-8");
        command
    }

    fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let context = || format!("failed to list {}", self.archives.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.archives).with_context(context)? {
            let file = entry.with_context(context)?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                files.push(file);
            }
        }
        if files.is_empty() {
            bail!("apt-get reported success, but left no package in {}", self.archives.display());
        }
        files.sort();
        Ok(files)
    }
}

fn source(archive: &Archive, suite: &str) -> String {
    let signed_by = match &archive.signed_by {
        Some(key) => format!("Signed-By: {key}\n"),
        None => String::new(),
    };
    format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", archive.uri)
}

/// Read after the machine's own configuration, so that a proxy set there stays in force. The
/// machine's hooks are cleared: they are meant for its own apt and may need root. apt's own retries take minutes, and are done here.
fn configuration(folder: &Path, archives: &Path) -> String {
    let (folder, archives) = (folder.display(), archives.display());
    let architecture = architecture();
    format!(
        r##"Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{archives}";
Dir::Etc::sourcelist "{folder}/debian.sources";
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

fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}
