#!/usr/bin/env bash
# tokio does not see a signal whose handler ran on a thread with a file descriptor table of its own.
#
# Expected: a signal for the process wakes whoever awaits `tokio::signal::unix::Signal::recv`, whichever thread
# of the process the kernel has run the handler on.
# Seen with tokio 1.54.1 on Linux 6.18, x86-64: the handler notes the signal and then wakes the runtime by a write
# to a descriptor. A thread that has called `unshare(CLONE_FILES)` and closed what it does not need has no such
# descriptor, the failed write is ignored, and the future stays pending. The signal is not forgotten: the next one
# of any kind that a thread with the shared table handles delivers both. The kernel prefers the main thread, but
# a thread that is just starting looks for signals too, so that whoever starts such threads loses one now and then.
# Blocking signals in them is the way out.
#
# Needs: cargo, on Linux. Builds pinned packages in a temporary folder. Exits with 0 as long as it is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "seen"
version = "0.0.0"
edition = "2021"

[dependencies]
tokio = { version = "=1.54.1", features = ["rt", "signal", "time", "macros"] }
libc = "=0.2.191"
TOML
cat > src/main.rs <<'RUST'
use std::{sync::mpsc, thread, time::Duration};

use tokio::{
    signal::unix::{signal, SignalKind},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_millis(500);

/// Sends this thread a signal; its handler has run when this returns.
fn raise(number: i32) {
    assert_eq!(unsafe { libc::raise(number) }, 0);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut first = signal(SignalKind::user_defined1()).unwrap();
    let mut second = signal(SignalKind::user_defined2()).unwrap();

    thread::spawn(|| raise(libc::SIGUSR1)).join().unwrap();
    let shared = timeout(PATIENCE, first.recv()).await.is_ok();
    println!("handled by a thread with the shared table: received {shared}");

    let (ask, asked) = mpsc::channel();
    let alone = thread::spawn(move || {
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        asked.recv().unwrap();
        raise(libc::SIGUSR1);
    });
    ask.send(()).unwrap();
    alone.join().unwrap();
    let own = timeout(PATIENCE, first.recv()).await.is_ok();
    println!("handled by a thread with a table of its own: received {own}");

    raise(libc::SIGUSR2);
    let other = timeout(PATIENCE, second.recv()).await.is_ok();
    let late = timeout(PATIENCE, first.recv()).await.is_ok();
    println!("after another signal: received {other}, and the first one {late}");
    assert_eq!((shared, own, other, late), (true, false, true, true));
}
RUST
cargo run --quiet
