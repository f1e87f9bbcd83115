//! Tests that a kernel is too old for.
//!
//! A test may skip only where the kernel lacks something, named with the version that introduced it; on a
//! kernel that should have it, it fails instead. `cargo xtask vm` shows what was skipped.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    thread,
};

/// Whether the running test must end here because the kernel lacks `what`, which Linux `since` introduced.
///
/// # Panics
/// If the kernel is not older than that.
#[must_use]
#[track_caller]
pub fn skip_without(has: bool, what: &str, since: (u32, u32)) -> bool {
    if has {
        return false;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let reason = format!("needs {what}, since Linux {}.{}", since.0, since.1);
    assert!(version(&release) < since, "{reason}, but {} lacks it", release.trim());
    let test = thread::current().name().unwrap_or("a test").to_owned();
    match std::env::var_os("FAULTLINE_SKIPS") {
        Some(file) => {
            let mut file = OpenOptions::new().create(true).append(true).open(file).unwrap();
            file.write_all(format!("{test}: {reason}\n").as_bytes()).unwrap();
        }
        // Past the capture of the test harness, which shows only what failing tests print.
        None => {
            std::io::stderr().write_all(format!("skipped {test}: {reason}\n").as_bytes()).unwrap();
        }
    }
    true
}

/// The first two numbers of a release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}
