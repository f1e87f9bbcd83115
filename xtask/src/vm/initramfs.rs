//! The first file system of a guest: an archive with busybox, some modules and [`INIT`].
//!
//! All that it does is to make the machine's own file system the guest's, so that programs,
//! libraries and debug information are there under their own paths, and the tests notice nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command::user_command;

/// What runs first. The command line of the kernel tells it `scratch=`, the folder that is on the
/// guest's disk, and `run=`, the script to go on with.
const INIT: &str = r#"#!/bin/busybox sh
# If this fails, the kernel panics for want of a first process, and QEMU ends.
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
# Loosely cached: nobody changes the machine's files meanwhile, and mapped files need the cache.
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

/// For a guest with a disk of its own: makes that its file system, and starts what is its init.
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

/// A kernel module, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Module {
    name: String,
    bytes: Vec<u8>,
}

/// These modules and all that they depend on, in the order in which they load.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn closure(folder: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find_modules(&folder.join("kernel"), &mut files)?;
    let mut loaded = Vec::new();
    for name in names {
        add(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, loaded: &mut Vec<Module>) -> Result<()> {
    // What has no file is built in.
    let Some(file) = files.get(name) else { return Ok(()) };
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let bytes = read_module(file)?;
    for needed in dependencies(&bytes) {
        add(&needed, files, loaded)?;
    }
    loaded.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// Every module below a folder, by the name that the kernel knows it by.
fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let context = || format!("failed to list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if let Some((name, _)) =
            path.file_name().and_then(|name| name.to_str()?.split_once(".ko"))
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    let context = || format!("failed to read {}", file.display());
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(context);
    }
    let output = user_command("xz").arg("-dc").arg(file).output().with_context(context)?;
    if !output.status.success() {
        bail!("{}: {}", context(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// What a module says that it needs, in its section of `name=value` strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    let depends = module.split(|&byte| byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// The archive without [`INIT`]: what stays the same as long as the kernel does.
///
/// # Errors
/// If busybox cannot be read.
pub(crate) fn modules(busybox: &Path, modules: &[Module]) -> Result<Vec<u8>> {
    let busybox =
        fs::read(busybox).with_context(|| format!("failed to read {}", busybox.display()))?;
    let mut archive = Archive::default();
    archive.folder("bin");
    archive.file("bin/busybox", &busybox);
    archive.folder("modules");
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("modules/{}.ko", module.name), &module.bytes);
        order += &format!("{}\n", module.name);
    }
    archive.file("modules/order", order.as_bytes());
    // The kernel gives the first process its console as this file.
    archive.folder("dev");
    archive.entry("dev/console", 0o020_600, &[], (5, 1));
    Ok(archive.finish())
}

/// An archive of [`INIT`] alone. The kernel unpacks archives one after another out of one file.
pub(crate) fn init() -> Vec<u8> {
    only_init(INIT)
}

/// The same for a guest with a disk of its own.
pub(crate) fn init_of_disk() -> Vec<u8> {
    only_init(INIT_OF_DISK)
}

fn only_init(script: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("init", script.as_bytes());
    archive.finish()
}

/// An archive in cpio's `newc` format: see Documentation/driver-api/early-userspace/
/// buffer-format.rst of the kernel.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[], (0, 0));
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content, (0, 0));
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        // A file of 4 GiB would not fit; none of ours comes near.
        let size = content.len() as u32;
        let name_size = name.len() as u32 + 1;
        let (major, minor) = device;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check the layout: magic number, thirteen fields, name and content aligned to four bytes.
    #[test]
    fn archive_layout() {
        let mut archive = Archive::default();
        archive.file("init", b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[94..102], b"00000005");
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.len() % 4 == 0 && bytes.ends_with(b"TRAILER!!!\0\0\0\0"), "{bytes:?}");
    }

    /// Check that dependencies are found among a module's strings, under their names in the kernel.
    #[test]
    fn module_dependencies() {
        let module = b"\x7fELF\0license=GPL\0depends=mbcache,jbd2,crc32c-intel\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["mbcache", "jbd2", "crc32c_intel"]);
        assert!(dependencies(b"depends=\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }
}
