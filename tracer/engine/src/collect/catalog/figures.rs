//! One reading of everything that is counted.

use tracer_common::counter::LOST;

use super::super::{Outcome, Tally};
use super::{Catalog, CpuFigures, Durations, Series};
use crate::kernel::CounterSnapshot;
use faultline_plan::ProbeId;

/// The figures of a probe.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// By the kernel side.
    pub counters: CounterSnapshot,
    /// Events that were written.
    pub delivered: u64,
    /// Events that could not be written.
    pub output_lost: u64,
    /// An estimate of what its hits cost the traced programs.
    pub cost_ns: u64,
    /// Its calls' durations.
    pub durations: Option<Box<Durations>>,
}

impl Figures {
    /// Reads the figures of a probe in a source.
    pub fn read(source: &super::Source, id: ProbeId) -> Self {
        let mut figures = Self::default();
        for cpu in 0..source.counters.cpus() {
            figures.counters.add(&source.counters.read(cpu, id));
        }
        figures.cost_ns = figures.counters.estimated_cost_ns(source.costs_of(id));
        if let Some(tally) = &source.tally {
            figures.delivered = tally.of_probe(id, Outcome::Delivered);
            figures.output_lost = lost(tally, id);
        }
        figures
    }

    /// Adds another probe's figures.
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.delivered += other.delivered;
        self.output_lost += other.output_lost;
        self.cost_ns += other.cost_ns;
        if let Some(durations) = &other.durations {
            self.add_durations(durations);
        }
    }

    /// Adds durations.
    pub fn add_durations(&mut self, other: &Durations) {
        self.durations.get_or_insert_default().add(other);
    }

    /// What was counted since `before`, an earlier reading of the same figures.
    pub fn since(&self, before: &Self) -> Self {
        let durations = self.durations.as_ref().map(|now| match &before.durations {
            Some(before) => Box::new(now.since(before)),
            None => now.clone(),
        });
        Self {
            counters: self.counters.since(&before.counters),
            delivered: self.delivered.saturating_sub(before.delivered),
            output_lost: self.output_lost.saturating_sub(before.output_lost),
            cost_ns: self.cost_ns.saturating_sub(before.cost_ns),
            durations,
        }
    }

    /// Hits.
    pub fn hits(&self) -> u64 {
        self.counters.hits()
    }

    /// Events, calls and durations that were lost.
    pub fn lost(&self) -> u64 {
        self.counters.total(&LOST) + self.output_lost
    }
}

fn lost(tally: &Tally, id: ProbeId) -> u64 {
    [Outcome::OutputLost, Outcome::AfterLimit, Outcome::Undecodable]
        .into_iter()
        .map(|outcome| tally.of_probe(id, outcome))
        .sum()
}

/// Everything, read once.
#[derive(Debug, Default)]
pub struct Reading {
    /// By index of [`Catalog::series`].
    pub series: Vec<Figures>,
    /// By CPU.
    pub cpus: Vec<CpuFigures>,
    /// Records whose probe is not known.
    pub undecodable: u64,
}

impl Reading {
    pub(super) fn of(catalog: &Catalog) -> Self {
        let mut reading = Self { cpus: catalog.retired.cpus.clone(), ..Self::default() };
        let sources: Vec<_> = catalog
            .sources
            .iter()
            .map(|source| {
                let probes = source.counters.probes();
                let mut figures = vec![Figures::default(); probes];
                let cpus = source.counters.cpus();
                if reading.cpus.len() < cpus {
                    reading.cpus.resize(cpus, CpuFigures::default());
                }
                for (cpu, of_cpu) in reading.cpus.iter_mut().enumerate().take(cpus) {
                    let mut sum = CounterSnapshot::default();
                    for (index, figures) in figures.iter_mut().enumerate() {
                        let counters = source.counters.read(cpu, ProbeId(index as u32));
                        figures.counters.add(&counters);
                        sum.add(&counters);
                        let costs = source.costs_of(ProbeId(index as u32));
                        let cost_ns = counters.estimated_cost_ns(costs);
                        figures.cost_ns += cost_ns;
                        of_cpu.cost_ns += cost_ns;
                    }
                    of_cpu.add(&sum, source.tally.as_deref(), cpu);
                }
                if let Some(tally) = &source.tally {
                    for (index, figures) in figures.iter_mut().enumerate() {
                        let id = ProbeId(index as u32);
                        figures.delivered = tally.of_probe(id, Outcome::Delivered);
                        figures.output_lost = lost(tally, id);
                    }
                    reading.undecodable += tally.unknown();
                }
                source.each_durations(|id, durations| {
                    if let Some(figures) = figures.get_mut(id.0 as usize) {
                        figures.add_durations(durations);
                    }
                });
                figures
            })
            .collect();
        let of_series = |series: &Series| {
            let mut sum = series.retired.as_deref().cloned().unwrap_or_default();
            for (source, id) in &series.parts {
                if let Some(part) = sources.get(*source).and_then(|all| all.get(id.0 as usize)) {
                    sum.add(part);
                }
            }
            sum
        };
        reading.series = catalog.series.iter().map(of_series).collect();
        reading
    }
}
