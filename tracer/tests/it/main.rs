//! The program as its user sees it, on the real kernel. Needs root.
//!
//! These tests run beside each other in one program. So a test that traces every process has a copy
//! of its target to itself (`support::live::private_copy`). What cannot run beside others is in
//! `tests/alone`; what needs more of a system than a kernel is in `tests/daemon`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

mod attach;
mod costs;
mod filters;
mod lifecycle;
mod memory;
mod placement;
mod programs;
mod returns;
mod summed;
#[path = "../support/mod.rs"]
mod support;
