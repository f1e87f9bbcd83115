//! Everything that is attached, and its counts.
//!
//! The owner of the probes publishes a [`Catalog`] whenever it changes. Figures are read from it without
//! involving the owner: counters live in memory shared with the kernel.

mod cpus;
mod durations;
mod figures;

use std::sync::{Arc, Mutex, PoisonError};

pub use self::{
    cpus::CpuFigures,
    durations::{BUCKETS, Durations},
    figures::{Figures, Reading},
};
use super::Tally;
use crate::{
    children::{ChildFigures, Children},
    kernel::{Counters, Latencies},
};
use faultline_plan::{BreakpointCosts, ProbeId};

/// The programs of a set of probes, and their counts.
#[derive(Debug)]
pub struct Source {
    /// What the kernel side counts.
    pub counters: Counters,
    /// What their breakpoints cost, by probe; empty if unknown.
    pub costs: Vec<BreakpointCosts>,
    /// The outcomes of records; only for events.
    pub tally: Option<Arc<Tally>>,
    /// The durations of calls; only for latencies.
    pub latencies: Option<Mutex<Latencies>>,
    /// What became of children of its processes.
    pub children: ChildFigures,
}

/// What a series reports about its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its hits.
    Count,
    /// The durations of its calls.
    Latency,
    /// The outcomes of its events.
    Events {
        /// Also report its reads.
        reads: bool,
    },
}

/// One function of a named probe, wherever its code is.
#[derive(Debug, Clone)]
pub struct Series {
    /// The probe's name.
    pub name: Arc<str>,
    /// `FILE:FUNCTION`.
    pub probe: Arc<str>,
    /// What it reports.
    pub kind: Kind,
    /// Whether hits may be left out because the user asked for that.
    pub withholds: bool,
    /// Where it is counted: an index into [`Catalog::sources`], and the probe in that source.
    pub parts: Vec<(usize, ProbeId)>,
    /// What was counted at places that are no longer attached.
    pub retired: Option<Arc<Figures>>,
}

/// The counts of what is no longer attached, over all probes.
#[derive(Debug, Clone, Default)]
pub struct Retired {
    /// By CPU.
    pub cpus: Vec<CpuFigures>,
    /// Children of processes.
    pub children: Children,
}

/// Everything that is attached.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The programs, including those that are being released.
    pub sources: Vec<Arc<Source>>,
    /// The functions.
    pub series: Vec<Series>,
    /// What was detached.
    pub retired: Retired,
    /// Named probes that are attached.
    pub probes_attached: usize,
    /// Named probes whose target is missing or cannot be probed.
    pub probes_waiting: usize,
    /// Functions that are probed now.
    pub functions: usize,
    /// Links.
    pub links: usize,
    /// Functions that cannot be probed.
    pub skipped: usize,
}

impl Source {
    /// What the breakpoints of a probe cost.
    pub(super) fn costs_of(&self, id: ProbeId) -> BreakpointCosts {
        self.costs.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// The durations of every probe that was called, in parts: a probe may be seen more than once.
    pub fn each_durations(&self, mut see: impl FnMut(ProbeId, &Durations)) {
        if let Some(latencies) = &self.latencies {
            let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.each(|id, histogram| see(id, &histogram.into()));
        }
    }
}

impl Catalog {
    /// Reads everything once.
    pub fn read(&self) -> Reading {
        Reading::of(self)
    }

    /// What became of children of the probed processes.
    pub fn children(&self) -> Children {
        let mut sum = self.retired.children;
        self.sources.iter().for_each(|source| sum += source.children.read());
        sum
    }
}
