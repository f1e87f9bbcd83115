//! The kernels that `vm` boots: which, where they come from, and their files below `target/vm`.
//!
//! Of a kernel there is the kernel itself and a folder with the modules that reach the machine's disk
//! and file system. Both are cut out of Debian's packages, which are then thrown away; the packages
//! of one kernel are four hundred megabytes of drivers.

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

/// Depends on the newest kernel of its suite, in its plain flavour (not `-cloud`), signed.
const NEWEST: &str = "linux-image-amd64";

/// What a kernel consists of: since 7.0, the kernel and its modules are packages of their own.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// Provides the shell of the first moments after boot; statically linked.
const BUSYBOX: &str = "busybox-static";

/// The modules that the guest needs, without what they depend on.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "ext4", "overlay"];

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

    /// A folder with [`MODULES`]; named after them, so that another choice is not mistaken for it.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join(MODULES.join("+"))
    }

    fn is_complete(&self) -> bool {
        self.image().is_file() && self.modules().is_dir()
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

/// The newest kernel of a line, downloaded if necessary.
///
/// # Errors
/// If the download fails and there is no older one.
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
            note("vm", &format!("using {} of an earlier day", kernel.release));
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
    let suite = Suite::new(line.suite)?;
    let (release, mut packages) = parts(suite.with_dependencies(NEWEST)?)
        .with_context(|| format!("Debian {} has no kernel for amd64", line.suite))?;
    let kernel = Kernel::at(line.suite, &release);
    if kernel.is_complete() {
        // Still the newest. The time of the folder says when that was found out.
        let marker = kernel.folder.join("checked");
        let _ = fs::remove_file(&marker);
        fs::write(&marker, "").with_context(|| format!("failed to write {}", marker.display()))?;
        return Ok(kernel);
    }
    packages.push(BUSYBOX.to_owned());
    let unpacked = kernel.folder.with_file_name("unpacked");
    remove(&unpacked)?;
    let files = suite.download(&packages)?;
    debian::unpack(&files, &unpacked)?;
    install(&kernel, &unpacked)?;
    remove(&unpacked)?;
    for file in files {
        fs::remove_file(&file).with_context(|| format!("failed to remove {}", file.display()))?;
    }
    Ok(kernel)
}

/// Puts a kernel and its modules into place, out of its packages.
fn install(kernel: &Kernel, unpacked: &Path) -> Result<()> {
    let first = |files: &[&str]| {
        let mut files = files.iter().map(|file| unpacked.join(file));
        files
            .find(|file| file.exists())
            .with_context(|| format!("the packages of {} hold none of {files:?}", kernel.release))
    };
    let release = format!("{}-amd64", kernel.release);
    // Debian's folders of programs and libraries are moving below usr.
    let image = first(&[
        &format!("usr/lib/modules/{release}/vmlinuz"),
        &format!("boot/vmlinuz-{release}"),
    ])?;
    let modules = first(&["usr/lib/modules", "lib/modules"])?;
    let busybox = first(&["usr/bin/busybox", "bin/busybox"])?;

    let partial = kernel.folder.with_file_name("partial");
    remove(&partial)?;
    initramfs::fill(
        &partial.join(kernel.modules().file_name().unwrap_or_default()),
        &busybox,
        &initramfs::modules(&modules, &release, MODULES)?,
    )?;
    remove(&kernel.folder)?;
    fs::copy(image, partial.join("vmlinuz"))
        .and_then(|_| fs::rename(&partial, &kernel.folder))
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

/// Of the packages that are installed with the newest kernel: its release, and the packages that it
/// consists of.
fn parts(mut packages: Vec<String>) -> Option<(String, Vec<String>)> {
    let release = |name: &str| {
        let part = PARTS.iter().find_map(|part| name.strip_prefix(part))?;
        let release = part.strip_suffix("-amd64")?;
        release.starts_with(|first: char| first.is_ascii_digit()).then(|| release.to_owned())
    };
    packages.retain(|name| release(name).is_some());
    Some((release(packages.first()?)?, packages))
}

/// The numbers in a version, to compare by.
pub(crate) fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a kernel's packages are found among everything that is installed with it.
    #[test]
    fn packages_of_a_kernel() {
        let of = |names: &[&str]| parts(names.iter().map(|&name| name.to_owned()).collect());
        let one = of(&["kmod", "linux-base", "linux-image-6.1.0-50-amd64", "linux-image-amd64"]);
        assert_eq!(
            one.unwrap(),
            ("6.1.0-50".to_owned(), vec!["linux-image-6.1.0-50-amd64".to_owned()])
        );
        let names = [
            "linux-modules-7.2.13+deb14-amd64",
            "linux-base-7.2.13+deb14-amd64",
            "linux-binary-7.2.13+deb14-amd64",
            "linux-image-7.2.13+deb14-amd64",
        ];
        let (release, packages) = of(&names).unwrap();
        assert_eq!(release, "7.2.13+deb14");
        assert_eq!(packages, [names[0], names[2], names[3]]);
        assert_eq!(of(&["linux-base"]), None);
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
