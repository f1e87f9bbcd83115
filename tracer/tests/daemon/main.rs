//! The daemon and the files in deploy/.
//!
//! A separate program because it needs more than a guest of `cargo xtask vm` has: Prometheus, mounts,
//! systemd's tools, and a machine that is not emulated.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

mod changes;
mod churn;
#[cfg(target_arch = "x86_64")]
mod code;
mod containers;
mod deploy;
mod follow;
mod hardening;
mod hints;
mod prometheus;
mod service;
#[path = "../support/mod.rs"]
mod support;
mod workers;
