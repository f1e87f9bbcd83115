//! `dist`: the Debian package, and an archive with the same files for everyone else.
//!
//! tracer/Cargo.toml and deploy/debian define what is in the package; this file only runs the steps:
//! build, write the manual, pack. `--test` then installs the package and removes it.

mod installed;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Needed};
use crate::command::{cargo, note, quiet, shown, user_command};
use crate::{build, setup, tools, versions, workspace};

const FOR_DIST: &[Needed] = &[
    Needed { command: "dpkg-deb", packages: &["dpkg"], why: "reads Debian packages" },
    Needed { command: "dpkg-shlibdeps", packages: &["dpkg-dev"], why: "finds needed libraries" },
    Needed { command: "strip", packages: &["binutils"], why: "takes debug information away" },
    Needed { command: "gzip", packages: &["gzip"], why: "makes the archive" },
];

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let is_test = match args {
        [] => false,
        [arg] if arg == "--test" => true,
        _ => bail!("usage: cargo xtask dist [--test]"),
    };
    let built = build()?;
    println!("{}\n{}", built.package.display(), built.archive.display());
    if is_test { installed::check(&built) } else { Ok(()) }
}

/// What was made.
pub(crate) struct Built {
    pub(crate) package: PathBuf,
    pub(crate) archive: PathBuf,
}

/// Builds, writes the manual, packs.
///
/// # Errors
/// If a tool is missing and cannot be installed, or one fails.
pub(crate) fn build() -> Result<Built> {
    setup::for_build()?;
    apt::ensure(FOR_DIST)?;
    let cargo_deb = tools::ensure_cargo_deb()?;
    shown(&mut build::release_build())?;
    manual(&folder().join("manual"))?;
    let package = package(&cargo_deb)?;
    let archive = archive(&package)?;
    Ok(Built { package, archive })
}

/// Where everything goes.
fn folder() -> PathBuf {
    workspace::target().join("dist")
}

/// Manual pages and completions, as the program's own definition of its arguments has them.
fn manual(folder: &Path) -> Result<()> {
    // Or the pages of a command that no longer exists would be packed too.
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    note("dist", "writing manual pages and completions");
    shown(
        cargo(versions::STABLE)
            .args(["run", "--quiet", "--release", "--locked", "--package", "faultline"])
            .args(["--example", "manual", "--"])
            .arg(folder),
    )
}

/// Has cargo-deb pack what was built; the package.
fn package(cargo_deb: &Path) -> Result<PathBuf> {
    note("dist", "packing");
    // Through `rustup run`, because it calls cargo to learn about the workspace. It prints the
    // path of the package.
    let output = quiet(
        user_command("rustup")
            .args(["run", versions::STABLE])
            .arg(cargo_deb)
            .args(["--no-build", "--locked", "--package", "faultline", "--output"])
            .arg(folder())
            // Some of the paths in its configuration are relative to where it runs.
            .current_dir(workspace::root().join("tracer"))
            .env("CARGO_TARGET_DIR", workspace::target()),
    )?;
    let package = output.lines().last().map(|line| PathBuf::from(line.trim()));
    package.filter(|file| file.is_file()).context("cargo-deb did not print the path of its package")
}

/// The package's files as a tar archive, to be unpacked at the root of a file system.
fn archive(package: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("faultline-{version}-{}-linux.tar.gz", std::env::consts::ARCH);
    let archive = folder().join(name);
    let context = || format!("failed to write {}", archive.display());
    let mut tar = user_command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start dpkg-deb")?;
    let stdout = tar.stdout.take().context("dpkg-deb has no output")?;
    let zipped = user_command("gzip")
        .args(["-9", "-n"])
        .stdin(stdout)
        .stdout(File::create(&archive).with_context(context)?)
        .status()
        .with_context(context)?;
    let unpacked = tar.wait().with_context(context)?;
    if !zipped.success() || !unpacked.success() {
        bail!("{}: dpkg-deb {unpacked}, gzip {zipped}", context());
    }
    Ok(archive)
}
