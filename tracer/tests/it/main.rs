//! The program as its users see it, on the real kernel. Needs root.
//!
//! These tests run in parallel in one program. So a test that traces every process has a private copy of
//! its target (`support::live::private_copy`). Tests that cannot run in parallel are in `tests/alone`;
//! tests that need more of a system than a kernel are in `tests/daemon`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

mod attach;
mod children;
#[cfg(target_arch = "x86_64")]
mod code;
mod costs;
mod deaths;
#[cfg(target_arch = "x86_64")]
mod exits;
mod filters;
mod harmless;
mod hints;
mod lifecycle;
mod memory;
mod placement;
mod programs;
mod returns;
mod summed;
#[path = "../support/mod.rs"]
mod support;
