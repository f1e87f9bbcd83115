//! Everything that is attached, and what it has counted.
//!
//! The owner of the probes publishes a [`Catalog`] whenever it changes. Whoever shows figures reads it
//! without asking anybody: counters are read out of memory that is shared with the kernel.

mod cpus;
mod durations;
mod figures;

use std::sync::{Arc, Mutex, PoisonError};

pub use self::{
    cpus::{CpuFigures, online as online_cpus},
    durations::{BUCKETS, Durations},
    figures::{Figures, Reading},
};
use super::Tally;
use crate::kernel::{Counters, Latencies};
use faultline_plan::{BreakpointCosts, ProbeId};

/// The programs of a set of probes, and what they count.
#[derive(Debug)]
pub struct Source {
    /// What the kernel side counts.
    pub counters: Counters,
    /// What their breakpoints cost, by probe; empty where that is not known.
    pub costs: Vec<BreakpointCosts>,
    /// What became of the records; only for events.
    pub tally: Option<Arc<Tally>>,
    /// The durations of calls; only for latencies.
    pub latencies: Option<Mutex<Latencies>>,
}

/// What is told of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its hits.
    Count,
    /// The durations of its calls.
    Latency,
    /// What became of its events.
    Events {
        /// And of its reads.
        reads: bool,
    },
}

/// One function of a named probe, wherever its code lies.
#[derive(Debug, Clone)]
pub struct Series {
    /// The probe's name.
    pub name: Arc<str>,
    /// `FILE:FUNCTION`.
    pub probe: Arc<str>,
    /// What is told of it.
    pub kind: Kind,
    /// Hits may be left out by the user's own wish.
    pub withholds: bool,
    /// Where it is counted: an index into [`Catalog::sources`], and the probe there.
    pub parts: Vec<(usize, ProbeId)>,
    /// What was counted where it is not attached any more.
    pub retired: Option<Arc<Figures>>,
}

/// What is not attached any more, over all probes.
#[derive(Debug, Clone, Default)]
pub struct Retired {
    /// By CPU.
    pub cpus: Vec<CpuFigures>,
}

/// Everything that is attached.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The programs, those that are being released among them.
    pub sources: Vec<Arc<Source>>,
    /// The functions.
    pub series: Vec<Series>,
    /// What is gone.
    pub retired: Retired,
    /// Named probes that are attached.
    pub probes_attached: usize,
    /// Named probes whose target is not there, or cannot be probed.
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

    /// The durations of every probe that was called, in parts: a probe may be seen several times.
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
}
