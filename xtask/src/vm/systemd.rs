//! `vm --systemd`: Debian's releases with their own systemd and the package installed.
//! [`CHECK`] starts, reloads, hangs, kills, stops and purges the service there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::initramfs::{self, Root};
use super::kernels::{self, Kernel};
use super::qemu;
use crate::apt::{self, Needed};
use crate::command::{is_root, note, quiet, user_command};
use crate::{debian, dist, setup, workspace};

/// One with a systemd from before `notify-reload`, and the first with a later one.
const SUITES: &[&str] = &["bookworm", "trixie"];

/// The line of kernels for all of them: bookworm's own is too old for faultline.
const KERNEL: &str = "trixie";

/// Added to what every Debian has.
const PACKAGES: &str = "systemd-sysv,dbus,adduser,libselinux1";

/// A kernel that patches its own code while it boots sometimes panics on two emulated CPUs. That is
/// QEMU's fault, and happens only before our code runs.
const BOOTS: usize = 3;

/// Runs in the guest, as its last service.
const CHECK: &str = include_str!("systemd/check.sh");

const CHECK_UNIT: &str = "\
[Unit]
After=systemd-user-sessions.service dbus.service
[Service]
Type=exec
ExecStart=/usr/local/sbin/check
[Install]
WantedBy=multi-user.target
";

const FOR_IMAGE: &[Needed] = &[
    Needed { command: "mmdebstrap", packages: &["mmdebstrap"], why: "makes a Debian system" },
    Needed { command: "mke2fs", packages: &["e2fsprogs"], why: "makes the guest's disk" },
];

/// # Errors
/// If the guest cannot be made, or one of its checks fails.
pub(crate) fn run() -> Result<()> {
    if !is_root() {
        bail!("`cargo xtask vm --systemd` makes a system whose files are root's: run it as root");
    }
    setup::for_build()?;
    qemu::ensure()?;
    apt::ensure(FOR_IMAGE)?;
    let kernel = kernels::newest(kernels::line(KERNEL)?)?;
    let package = dist::build()?.package;
    for suite in SUITES {
        let folder = workspace::target().join("vm/systemd").join(suite);
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        let image = image(&folder, suite, &package)?;
        note("vm", &format!("systemd of Debian {suite}, on {}", kernel.release));
        boot_until_checked(&folder, &kernel, &image)
            .with_context(|| format!("Debian {suite} with systemd"))?;
    }
    Ok(())
}

/// A disk with a Debian system that has the package and the check.
fn image(folder: &Path, suite: &str, package: &Path) -> Result<PathBuf> {
    let (root, image) = (folder.join("root"), folder.join("disk.img"));
    if root.exists() {
        fs::remove_dir_all(&root)
            .with_context(|| format!("failed to remove {}", root.display()))?;
    }
    write(&folder.join("check"), CHECK)?;
    write(&folder.join("check.service"), CHECK_UNIT)?;
    note("vm", &format!("installing Debian {suite} and the package into {}", root.display()));
    let hook = |text: String| format!("--customize-hook={text}");
    let shown = |file: &Path| file.display().to_string();
    quiet(
        user_command("mmdebstrap")
            .args(["--mode=root", "--variant=apt", "--aptopt=APT::Install-Recommends \"false\""])
            .arg(format!("--include={PACKAGES}"))
            .arg(hook(format!("cp '{}' \"$1/faultline.deb\"", shown(package))))
            .arg(hook("chroot \"$1\" dpkg --install /faultline.deb".to_owned()))
            .arg(hook(format!(
                "install -m 755 '{}' \"$1/usr/local/sbin/check\"",
                shown(&folder.join("check"))
            )))
            .arg(hook(format!(
                "install -m 644 '{}' \"$1/etc/systemd/system/check.service\"",
                shown(&folder.join("check.service"))
            )))
            .arg(hook("chroot \"$1\" systemctl enable check.service".to_owned()))
            .arg(suite)
            .arg(&root)
            .arg(debian::source(suite)?.trim_end()),
    )?;
    if image.exists() {
        fs::remove_file(&image).with_context(|| format!("failed to remove {}", image.display()))?;
    }
    quiet(
        user_command("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
            .args([&root, &image])
            .arg("1G"),
    )?;
    fs::remove_dir_all(&root).with_context(|| format!("failed to remove {}", root.display()))?;
    Ok(image)
}

fn boot_until_checked(folder: &Path, kernel: &Kernel, image: &Path) -> Result<()> {
    for _ in 0..BOOTS {
        if boot(folder, kernel, image)? {
            return Ok(());
        }
        note("vm", "the guest ended before its first check");
    }
    bail!(
        "the guest failed to boot {BOOTS} times in a row (the last console is in {})",
        folder.display()
    )
}

/// Whether the checks have run, and all is good.
fn boot(folder: &Path, kernel: &Kernel, image: &Path) -> Result<bool> {
    let archive = folder.join("initramfs");
    initramfs::pack(&kernel.modules(), Root::Disk, &archive)?;
    let mut command = qemu::machine(kernel, &archive, "console=ttyS0 loglevel=5 panic=-1");
    let console = folder.join("console.log");
    command
        .arg("-drive")
        .arg(format!("file={},format=raw,if=virtio,snapshot=on", image.display()))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"]);
    let (mut checks, mut failed, mut is_done) = (0, Vec::new(), false);
    qemu::each_line(&mut command, |line| {
        println!("{line}");
        if let Some(what) = line.strip_prefix("check: FAILED  ") {
            failed.push(what.to_owned());
        }
        checks += usize::from(line.starts_with("check: ok") || line.starts_with("check: FAILED"));
        is_done |= line == "check: done";
        !is_done
    })
    .with_context(|| format!("the guest's console is in {}", console.display()))?;
    if checks == 0 {
        return Ok(false);
    }
    if !is_done {
        bail!("the guest ended after {checks} checks (its console is in {})", console.display());
    }
    if !failed.is_empty() {
        bail!("{} of {checks} checks under systemd failed: {}", failed.len(), failed.join("; "));
    }
    note("vm", &format!("{checks} checks under systemd passed"));
    Ok(true)
}

/// Whether these arguments of `vm` ask for this.
pub(crate) fn is_asked(args: &[OsString]) -> bool {
    matches!(args, [arg] if arg == "--systemd")
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}
