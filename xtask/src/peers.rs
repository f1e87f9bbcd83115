//! `peers`: the tools that faultline is compared with, in `target/peers/bin`.
//!
//! Today that is Debian sid's bpftrace. It runs with sid's own loader and libraries, so it works on
//! an older system too, and nothing is installed there.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command::{note, quiet, user_command};
use crate::{debian, no_args, workspace};

/// Finds its libraries relative to itself, so the folder can be moved.
const BPFTRACE: &str = r#"#!/bin/sh
# Written by `cargo xtask peers`: Debian sid's bpftrace with sid's own loader and libraries.
peers=$(dirname "$(dirname "$(readlink -f "$0")")")
for loader in "$peers"/sid/usr/lib/*-linux-gnu/ld-linux-*.so.*; do break; done
set -- "$loader" --library-path "$(dirname "$loader")" "$peers/sid/usr/bin/bpftrace" "$@"

# bpftrace reads tracefs even where it uses only uprobes. If the machine has not mounted it, it is
# mounted for this process alone; the machine stays as it is.
if [ "$(id -u)" = 0 ] && [ ! -e /sys/kernel/tracing/available_events ]; then
    exec unshare --mount sh -c 'mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"' sh "$@"
fi
exec "$@"
"#;

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    no_args("peers", args)?;
    ensure().map(drop)
}

/// The folder to put on `PATH` to find the peers; downloaded at the first call.
///
/// # Errors
/// If the packages cannot be downloaded.
pub(crate) fn ensure() -> Result<PathBuf> {
    let peers = workspace::target().join("peers");
    let (sid, bin) = (peers.join("sid"), peers.join("bin"));
    let bpftrace = bin.join("bpftrace");
    // It was unpacked elsewhere and moved here: if it exists, it is complete.
    if sid.exists() && fs::read(&bpftrace).is_ok_and(|script| script == BPFTRACE.as_bytes()) {
        return Ok(bin);
    }
    fs::create_dir_all(&bin).with_context(|| format!("failed to create {}", bin.display()))?;
    if !sid.exists() {
        debian::unpack_with_dependencies("sid", "bpftrace", &sid)?;
    }
    fs::write(&bpftrace, BPFTRACE)
        .and_then(|()| fs::set_permissions(&bpftrace, Permissions::from_mode(0o755)))
        .with_context(|| format!("failed to write {}", bpftrace.display()))?;
    let version = quiet(user_command(&bpftrace).arg("--version"))?;
    note("peers", &format!("{} is {}", bpftrace.display(), version.trim()));
    Ok(bin)
}
