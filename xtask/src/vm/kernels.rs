//! The kernels that `vm` boots: which, where they come from, and their files below `target/vm`.
//!
//! A kernel is two files: the kernel itself and an archive of the modules that reach the machine's
//! disk and file system. Both are cut out of Debian's packages, which are then thrown away; the
//! packages of one kernel are four hundred megabytes of drivers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::initramfs;
use crate::command::note;
use crate::debian::{self, Suite};
use crate::workspace;

/// How long a kernel counts as the newest before its suite is asked again.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Brings the shell of the first moments after boot; links with nothing.
const BUSYBOX: &str = "busybox-static";

/// The modules that the guest needs, without what they depend on. One that is built into a kernel
/// is not among its files. (`crc32c_generic` is what `ext4` asks for by another name.)
const MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "crc32c_generic", "ext4", "overlay"];

/// A line of kernels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) suite: &'static str,
    /// The first two numbers of its kernels' versions; `None` where that moves.
    series: Option<&'static str>,
}

pub(crate) const LINES: &[Line] = &[
    Line { suite: "bookworm", series: Some("6.1") },
    Line { suite: "trixie", series: Some("6.12") },
    Line { suite: "sid", series: None },
];

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) suite: &'static str,
    /// What `uname -r` says, without the architecture: `6.12.107+deb13`.
    pub(crate) release: String,
    folder: PathBuf,
}

impl Kernel {
    fn at(suite: &'static str, release: &str) -> Self {
        let folder = workspace::target().join("vm").join(suite).join(release);
        Self { suite, release: release.to_owned(), folder }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// An archive of [`MODULES`]; named after them, so that another choice is not mistaken for it.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join(MODULES.join("+"))
    }

    fn is_complete(&self) -> bool {
        self.image().is_file() && self.modules().is_file()
    }

    /// The first two numbers of its version.
    pub(crate) fn series(&self) -> String {
        series(&self.release)
    }
}

/// The first two numbers of a release, which is how kernels are called: `6.12`.
pub(crate) fn series(release: &str) -> String {
    let numbers: Vec<String> = version(release).iter().take(2).map(u64::to_string).collect();
    numbers.join(".")
}

/// The line that a person means by `6.12`, `trixie`, or, for the one that moves, any newer version.
///
/// # Errors
/// If it is none of them.
pub(crate) fn line(name: &str) -> Result<&'static Line> {
    let named = |line: &&Line| line.suite == name || line.series == Some(name);
    if let Some(line) = LINES.iter().find(named) {
        return Ok(line);
    }
    let newest_fixed = LINES.iter().filter_map(|line| line.series).map(version).max();
    let moving = LINES.iter().find(|line| line.series.is_none());
    match moving {
        Some(line) if !version(name).is_empty() && Some(version(name)) > newest_fixed => Ok(line),
        _ => {
            let known: Vec<_> =
                LINES.iter().map(|line| line.series.unwrap_or(line.suite)).collect();
            bail!("no kernel `{name}` ({} are known)", known.join(", "))
        }
    }
}

/// The newest kernel of a line, downloaded if it is not there.
///
/// # Errors
/// If it cannot be had, and no older one is there either.
pub(crate) fn newest(line: &Line) -> Result<Kernel> {
    let known = known(line);
    if let Some(kernel) = &known {
        let age = kernel.folder.metadata().and_then(|folder| folder.modified());
        if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH)) {
            return Ok(kernel.clone());
        }
    }
    match (fetch(line), known) {
        (Ok(kernel), _) => Ok(kernel),
        (Err(error), Some(kernel)) => {
            note("vm", &format!("{error:#}"));
            note("vm", &format!("going on with {} of an earlier day", kernel.release));
            Ok(kernel)
        }
        (Err(error), None) => Err(error),
    }
}

/// The newest of those that are there.
fn known(line: &Line) -> Option<Kernel> {
    let folder = workspace::target().join("vm").join(line.suite);
    let releases = fs::read_dir(folder).ok()?.flatten();
    releases
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !version(name).is_empty())
        .map(|release| Kernel::at(line.suite, &release))
        .filter(Kernel::is_complete)
        .max_by_key(|kernel| version(&kernel.release))
}

fn fetch(line: &Line) -> Result<Kernel> {
    let suite = Suite::updated(line.suite)?;
    let names = suite.package_names("linux-")?;
    let Some((release, mut packages)) = newest_of(&names, line.series) else {
        bail!("Debian {} has no kernel for amd64", line.suite);
    };
    let kernel = Kernel::at(line.suite, &release);
    if kernel.is_complete() {
        // Still the newest. The time of the folder says when that was found out.
        let marker = kernel.folder.join("checked");
        let _ = fs::remove_file(&marker);
        fs::write(&marker, "").with_context(|| format!("failed to write {}", marker.display()))?;
        return Ok(kernel);
    }
    packages.push(BUSYBOX.to_owned());
    let files = suite.download(&packages)?;
    let unpacked = kernel.folder.with_file_name("unpacked");
    remove(&unpacked)?;
    debian::unpack(&files, &unpacked)?;
    install(&kernel, &unpacked)?;
    remove(&unpacked)?;
    files
        .iter()
        .try_for_each(|file| fs::remove_file(file).context("failed to remove a package"))?;
    Ok(kernel)
}

/// Puts a kernel's two files into place, out of its packages.
fn install(kernel: &Kernel, unpacked: &Path) -> Result<()> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|folder| fs::read_dir(unpacked.join(folder)).ok()?.flatten().next())
        .with_context(|| format!("the packages of {} hold no modules", kernel.release))?
        .path();
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = [modules.join("vmlinuz"), unpacked.join(format!("boot/vmlinuz-{release}"))];
    let image = image.iter().find(|file| file.is_file());
    let image = image.with_context(|| format!("the packages of {release} hold no vmlinuz"))?;
    let busybox = ["usr/bin/busybox", "bin/busybox"].map(|file| unpacked.join(file));
    let busybox = busybox.iter().find(|file| file.is_file());
    let busybox = busybox.with_context(|| format!("{BUSYBOX} holds no busybox"))?;

    let partial = kernel.folder.with_file_name("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial)
        .with_context(|| format!("failed to create {}", partial.display()))?;
    let archive = initramfs::modules(busybox, &initramfs::closure(&modules, MODULES)?)?;
    remove(&kernel.folder)?;
    fs::copy(image, partial.join("vmlinuz"))
        .and_then(|_| fs::write(partial.join(MODULES.join("+")), archive))
        .and_then(|()| fs::rename(&partial, &kernel.folder))
        .with_context(|| format!("failed to write {}", kernel.folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The newest release among a suite's packages, and the packages that it is made of.
fn newest_of(names: &[String], series: Option<&str>) -> Option<(String, Vec<String>)> {
    // Since 7.0 the kernel and its modules are packages of their own.
    let forms: [&[&str]; 2] = [&["linux-binary-", "linux-modules-"], &["linux-image-"]];
    let newest = |form: &&[&str]| {
        let releases = names.iter().filter_map(|name| {
            release(name.strip_prefix(form[0])?.strip_suffix("-amd64")?, series)
        });
        let release = releases.max_by_key(|release| version(release))?;
        let packages = form.iter().map(|prefix| format!("{prefix}{release}-amd64"));
        Some((release.to_owned(), packages.collect()))
    };
    forms.iter().find_map(newest)
}

/// The text, if it is the release of a kernel of the series, in its plain flavour (not `-cloud`).
fn release<'a>(text: &'a str, wanted: Option<&str>) -> Option<&'a str> {
    let is_number = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
    let fits = text.split('-').all(is_number) && wanted.is_none_or(|one| series(text) == one);
    fits.then_some(text)
}

/// The numbers in a version, to compare by.
pub(crate) fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Check that the newest signed kernel of the plain flavour is found by number, not by letter.
    #[test]
    fn newest_in_one_package() {
        let names = names(&[
            "linux-image-amd64",
            "linux-image-6.12.94+deb13-amd64",
            "linux-image-6.12.107+deb13-amd64",
            "linux-image-6.12.107+deb13-amd64-dbg",
            "linux-image-6.12.107+deb13-amd64-unsigned",
            "linux-image-6.12.108+deb13-cloud-amd64",
            "linux-image-6.18.1+deb13-amd64",
        ]);
        let (release, packages) = newest_of(&names, Some("6.12")).unwrap();
        assert_eq!(release, "6.12.107+deb13");
        assert_eq!(packages, ["linux-image-6.12.107+deb13-amd64"]);
    }

    /// Check that numbers of the binary interface, as in bookworm, are told apart.
    #[test]
    fn newest_with_abi_numbers() {
        let names = names(&["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-50-amd64"]);
        assert_eq!(newest_of(&names, Some("6.1")).unwrap().0, "6.1.0-50");
    }

    /// Check that a kernel in two packages is preferred over the empty one that depends on them.
    #[test]
    fn newest_in_two_packages() {
        let names = names(&[
            "linux-image-7.2.13+deb14-amd64",
            "linux-binary-7.2.13+deb14-amd64",
            "linux-binary-unsigned-7.2.14+deb14-amd64",
            "linux-modules-7.2.13+deb14-amd64",
        ]);
        let (release, packages) = newest_of(&names, None).unwrap();
        assert_eq!(release, "7.2.13+deb14");
        let expected = ["linux-binary-7.2.13+deb14-amd64", "linux-modules-7.2.13+deb14-amd64"];
        assert_eq!(packages, expected);
    }

    /// Check what names of kernels mean.
    #[test]
    fn names_of_lines() {
        assert_eq!(line("6.1").unwrap().suite, "bookworm");
        assert_eq!(line("trixie").unwrap().suite, "trixie");
        assert_eq!(line("7.2").unwrap().suite, "sid");
        let error = line("5.10").unwrap_err().to_string();
        assert_eq!(error, "no kernel `5.10` (6.1, 6.12, sid are known)");
        assert!(line("new").is_err());
    }
}
