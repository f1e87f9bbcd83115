//! The first file system of a guest: an archive with busybox, some modules and [`INIT`].
//!
//! It only makes the machine's own file system the guest's, so that programs, libraries and debug
//! information are there under their own paths, and the tests notice nothing. What a module needs is
//! asked of modprobe; cpio makes the archive.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::apt::Needed;
use crate::command::{quiet, user_command};

pub(crate) const NEEDED: &[Needed] = &[
    Needed { command: "modprobe", packages: &["kmod"], why: "knows what kernel modules need" },
    Needed { command: "cpio", packages: &["cpio"], why: "makes a guest's first file system" },
    Needed { command: "xz", packages: &["xz-utils"], why: "unpacks kernel modules" },
];

/// What runs first. The kernel's command line gives it `scratch=`, the folder that is on the guest's
/// disk, and `run=`, the script to continue with.
const INIT: &str = r#"#!/bin/busybox sh
# If this fails, the kernel panics because its first process ended, and QEMU ends.
set -e
/bin/busybox mkdir -p /proc /host
/bin/busybox mount -t proc proc /proc
scratch= run=
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in scratch=*|run=*) eval "$word" ;; esac
done
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module.ko"
done
# cache=loose: the machine's files do not change meanwhile, and mapped files need the cache.
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host
/bin/busybox mount -t devtmpfs dev /host/dev
/bin/busybox mkdir -p /host/dev/pts /host/dev/shm
/bin/busybox mount -t devpts devpts /host/dev/pts
/bin/busybox mount -t tmpfs tmpfs /host/dev/shm
for fd in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    /bin/busybox ln -s "${fd#*:}" "/host/dev/${fd%%:*}"
done
/bin/busybox mount -t sysfs sys /host/sys
/bin/busybox mount -t tmpfs tmpfs /host/tmp
/bin/busybox mount -t tmpfs tmpfs /host/run
/bin/busybox mount -t tmpfs tmpfs /host/var/cache
/bin/busybox mount -t ext4 /host/dev/vda "/host$scratch"
/bin/busybox ifconfig lo 127.0.0.1 up
/bin/busybox umount /proc
/bin/busybox mount -t proc proc /host/proc
exec /bin/busybox switch_root /host /bin/sh "$run"
"#;

/// For a guest with a disk of its own: makes that its file system and starts its init.
const INIT_OF_DISK: &str = r#"#!/bin/busybox sh
set -e
/bin/busybox mkdir -p /disk
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module.ko"
done
/bin/busybox mount -t ext4 /dev/vda /disk
/bin/busybox mount --move /dev /disk/dev
exec /bin/busybox switch_root /disk /sbin/init
"#;

/// What is to be the guest's file system.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Root {
    /// This machine's own files.
    Host,
    /// A disk.
    Disk,
}

/// The files of these modules and of all that they depend on, in the order in which they load.
/// `folder` is `lib/modules` of some system. What is built into the kernel has no file.
///
/// # Errors
/// If depmod fails or modprobe cannot be started.
pub(crate) fn modules(folder: &Path, release: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    // Both look for lib/modules below a folder.
    let lib = folder.parent().context("modules lie below a folder")?;
    let base = lib.parent().context("modules lie below lib")?;
    quiet(user_command("depmod").arg("-b").arg(base).arg(release))?;
    let mut modules: Vec<PathBuf> = Vec::new();
    for name in names {
        let output = user_command("modprobe")
            .args(["--show-depends", "--set-version", release, "--dirname"])
            .args([base.as_os_str(), name.as_ref()])
            .output()
            .context("failed to start modprobe")?;
        // modprobe fails for what has no file: without modules.builtin, which not every package of a
        // kernel has, it does not know that it is built in.
        let loads = String::from_utf8_lossy(&output.stdout);
        // `insmod FILE [OPTIONS]`, or `builtin NAME`.
        let files = loads.lines().filter_map(|line| line.strip_prefix("insmod "));
        for file in files.filter_map(|rest| rest.split_whitespace().next()).map(PathBuf::from) {
            if !modules.contains(&file) {
                modules.push(file);
            }
        }
    }
    Ok(modules)
}

/// Fills a folder with what goes into the archive of a kernel: busybox and modules.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn fill(folder: &Path, busybox: &Path, modules: &[PathBuf]) -> Result<()> {
    let context = || format!("failed to fill {}", folder.display());
    let mut order = String::new();
    fs::create_dir_all(folder.join("modules")).with_context(context)?;
    fs::create_dir_all(folder.join("bin")).with_context(context)?;
    fs::copy(busybox, folder.join("bin/busybox")).with_context(context)?;
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let copy = folder.join("modules").join(&*name);
        fs::copy(module, &copy).with_context(context)?;
        if name.ends_with(".xz") {
            quiet(user_command("xz").arg("-d").arg(&copy))?;
        }
        order += name.trim_end_matches(".xz").trim_end_matches(".ko");
        order.push('\n');
    }
    fs::write(folder.join("modules/order"), order).with_context(context)
}

/// Packs such a folder, with what runs first, into an archive that the kernel unpacks.
///
/// # Errors
/// If cpio fails.
pub(crate) fn pack(folder: &Path, root: Root, archive: &Path) -> Result<()> {
    let context = || format!("failed to write {}", archive.display());
    let init = match root {
        Root::Host => INIT,
        Root::Disk => INIT_OF_DISK,
    };
    let file = folder.join("init");
    fs::write(&file, init)
        .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o755)))
        .with_context(context)?;
    let names = quiet(user_command("find").args([".", "-mindepth", "1"]).current_dir(folder))?;
    let mut cpio = user_command("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(File::create(archive).with_context(context)?)
        .spawn()
        .context("failed to start cpio")?;
    let written = cpio.stdin.take().context("cpio has no input")?.write_all(names.as_bytes());
    let status = cpio.wait().with_context(context)?;
    if !status.success() {
        bail!("{}: cpio {status}", context());
    }
    written.with_context(context)
}
