//! Measures what probes cost on this host, on functions of our own: for `faultline bench`.
//!
//! - [`Bench::hit_costs`]: the cost of a call, by the instruction under the breakpoint and by what the
//!   program does.
//! - [`Bench::throughput`]: how that scales with threads.
//! - [`Bench::batches`]: how long attaching and detaching take.
//!
//! Gives figures; the command decides how to show them. Each case compares the calls made with the hits
//! that the kernel side counted, and carries the result as a [`Check`].

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

/// Maximum threads: each has its own function.
pub const MAX_THREADS: usize = 256;

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A few seconds.
    Quick,
    /// Half a minute at most.
    Full,
}

/// The hits that were counted, and the hits that the calls should have caused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The expected count.
    pub expected: u64,
    /// The actual count.
    pub hits: u64,
    /// Hits that had their effect: for events, the event arrived.
    pub delivered: u64,
    /// Hits whose events were lost because the buffer was full.
    pub lost: u64,
}

impl Check {
    /// Whether each call was seen and everything is accounted for.
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

/// The run was asked to stop.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Stopped {}

/// Observes a measurement and can stop it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Set to stop it.
    pub stop: &'a AtomicBool,
    /// Called with the progress: how much is done, and the total.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// Reports progress.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if it was asked to stop.
    fn step(&self, done: usize, of: usize) -> Result<(), Stopped> {
        (self.progress)(done, of);
        if self.stop.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }
}

/// The CPUs to measure on, and how thoroughly.
#[derive(Debug)]
pub struct Bench {
    features: Features,
    effort: Effort,
    /// The CPUs that we may use.
    cpus: Vec<usize>,
    /// Maximum number of threads.
    threads: usize,
}

impl Bench {
    /// Looks at the machine. `threads` is the maximum number of threads, instead of one per CPU.
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

    /// Maximum number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The CPU for the thread with this number.
    fn cpu(&self, thread: usize) -> usize {
        self.cpus.get(thread % self.cpus.len().max(1)).copied().unwrap_or(0)
    }

    fn is_quick(&self) -> bool {
        self.effort == Effort::Quick
    }
}
