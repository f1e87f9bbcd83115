//! Tests that cannot run in parallel with others. They run one at a time: each begins with [`alone`].
//!
//! - `bench` measures this machine, and `budget` and `budget_files` check shares of its CPU time
//! - `churn`, `descriptors`, `exchange` and `ring` attach from this process. If another test started a program at
//!   the same time, the child would hold copies of their links until it executes, and a link with a copy is
//!   not released. They also compare what this process holds before and after
//! - `stuck`, `stuck_budget` and `daemon_stuck` make a task hang inside a probe, and every release on this
//!   machine waits for it

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

mod bench;
mod budget;
mod budget_files;
mod churn;
mod daemon_stuck;
mod descriptors;
mod exchange;
mod ring;
mod stuck;
mod stuck_budget;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this program is running, and keeps others from starting.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
