//! Measures what probes cost on this host, on functions of our own: for `faultline bench`.
//!
//! - [`Bench::hit_costs`]: what a call takes, by the instruction under the breakpoint and by what
//!   the program does.
//! - [`Bench::throughput`]: how that scales with threads.
//! - [`Bench::batches`]: how long it takes to attach and to detach.
//!
//! Gives figures; how they are shown is the command's. Each case compares the calls made with the
//! hits that the kernel side counted, and has a [`Check`] that tells.

mod attached;
mod batches;
mod callers;
mod code;
mod cpu;
mod faulting;
mod hits;
mod host;
mod scaling;
mod spread;

use std::{
    fmt, ops,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

pub use self::{
    batches::{Batch, Batches, Faulting},
    code::{INSTRUCTIONS, Instruction, Role},
    hits::{HitCost, Work},
    host::Host,
    scaling::{Entry, Functions, Load, ThreadWork, Throughput},
    spread::Spread,
};
use super::Features;

/// Most threads that are measured: each has a function of its own.
pub const MAX_THREADS: usize = 256;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Some seconds.
    Quick,
    /// Half a minute at most.
    Full,
}

/// Hits that were counted, and those that the calls made should have led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What should have been counted.
    pub expected: u64,
    /// What was.
    pub hits: u64,
    /// Of the hits: those that had their effect. An event has arrived.
    pub delivered: u64,
    /// Of the hits: events that found no room.
    pub lost: u64,
}

impl Check {
    /// Whether each call was seen, and nothing went without being counted.
    #[must_use]
    pub fn holds(self) -> bool {
        self.expected == self.hits && self.hits == self.delivered + self.lost
    }
}

impl ops::Add for Check {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            expected: self.expected + other.expected,
            hits: self.hits + other.hits,
            delivered: self.delivered + other.delivered,
            lost: self.lost + other.lost,
        }
    }
}

impl ops::Sub for Check {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            expected: self.expected.saturating_sub(other.expected),
            hits: self.hits.saturating_sub(other.hits),
            delivered: self.delivered.saturating_sub(other.delivered),
            lost: self.lost.saturating_sub(other.lost),
        }
    }
}

/// The run was told to stop.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Stopped {}

/// Who watches a measurement, and may end it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Set: it is to stop.
    pub stop: &'a AtomicBool,
    /// Is told how much of a measurement is done, of how much.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// So much is done.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if it is to stop.
    fn step(&self, done: usize, of: usize) -> Result<(), Stopped> {
        (self.progress)(done, of);
        if self.stop.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }
}

/// What is measured on, and how thoroughly.
#[derive(Debug)]
pub struct Bench {
    features: Features,
    effort: Effort,
    /// The CPUs that we may use.
    cpus: Vec<usize>,
    /// Most threads.
    threads: usize,
}

impl Bench {
    /// Looks at what there is; `threads`: up to so many, instead of one a CPU.
    ///
    /// # Errors
    ///
    /// [`KernelError::Features`](super::KernelError::Features) without privileges.
    pub fn new(effort: Effort, threads: Option<usize>) -> anyhow::Result<Self> {
        let features = Features::probe()?;
        let cpus = cpu::allowed_cpus()?;
        let threads = threads.unwrap_or(cpus.len()).clamp(1, MAX_THREADS);
        Ok(Self { features, effort, cpus, threads })
    }

    /// The machine.
    #[must_use]
    pub fn host(&self) -> Host {
        Host::look(self.features, self.cpus.len())
    }

    /// What this kernel offers.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Most threads that are measured.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The CPU of the thread of this number.
    fn cpu(&self, thread: usize) -> usize {
        self.cpus.get(thread % self.cpus.len().max(1)).copied().unwrap_or(0)
    }

    fn is_quick(&self) -> bool {
        self.effort == Effort::Quick
    }
}
