//! Writes the probes' counters, at each scrape.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};
use tracer_common::counter::Counter;

use faultline_engine::collect::catalog::{
    BUCKETS, Catalog, CpuFigures, Durations, Figures, Kind, Series, online_cpus,
};

use super::{
    Published,
    budget::{Budget, Shown},
};

/// The name under which probes without series of their own are summed up. No probe can have it,
/// and no function's label is without a colon.
const OTHER: &str = "other";

/// Reads the counters at each scrape.
#[derive(Debug)]
pub(super) struct ProbeCollector {
    pub(super) catalog: Arc<Published>,
    pub(super) budget: Arc<Mutex<Budget>>,
}

/// Gets one figure of a probe.
type Get = fn(&Figures) -> u64;

/// A counter of a probe.
struct ProbeCounter {
    name: &'static str,
    help: &'static str,
    /// The label that distinguishes its samples.
    label: Option<&'static str>,
    /// The values of that label, each with what it counts; one without a label.
    samples: &'static [(&'static str, Get)],
    /// Whether a probe has it.
    of: fn(&Series) -> bool,
}

fn counted(counter: Counter) -> impl Fn(&Figures) -> u64 {
    move |figures| figures.counters.get(counter)
}

macro_rules! kernel {
    ($counter:ident) => {
        |figures| counted(Counter::$counter)(figures)
    };
}

const PROBE_COUNTERS: &[ProbeCounter] = &[
    ProbeCounter {
        name: "faultline_probe_hits",
        help: "Times that the probe's breakpoint was hit",
        label: None,
        samples: &[("", Figures::hits)],
        of: |_| true,
    },
    ProbeCounter {
        name: "faultline_probe_events",
        help: "Events that were written",
        label: None,
        samples: &[("", |figures| figures.delivered)],
        of: |series| matches!(series.kind, Kind::Events { .. }),
    },
    ProbeCounter {
        name: "faultline_probe_withheld",
        help: "Hits left out by the probe's own where, sample and rate",
        label: Some("reason"),
        samples: &[
            ("filtered", kernel!(Filtered)),
            ("sampled_out", kernel!(SampledOut)),
            ("throttled", kernel!(Throttled)),
        ],
        of: |series| series.withholds,
    },
    ProbeCounter {
        name: "faultline_probe_lost",
        help: "Hits of which the event or duration was lost",
        label: Some("cause"),
        samples: &[
            ("ring_full", kernel!(RingFull)),
            ("no_entry", kernel!(NoEntry)),
            ("output", |figures| figures.output_lost),
        ],
        of: |series| matches!(series.kind, Kind::Events { .. }),
    },
    ProbeCounter {
        name: "faultline_probe_calls_lost",
        help: "Calls of which the duration was lost",
        label: Some("cause"),
        samples: &[
            ("no_return", kernel!(CallsLost)),
            ("no_memory", |figures| {
                counted(Counter::NoMemory)(figures) + counted(Counter::NoEntry)(figures)
            }),
        ],
        of: |series| series.kind == Kind::Latency,
    },
    ProbeCounter {
        name: "faultline_probe_reads",
        help: "Reads of memory for arguments, by how they ended",
        label: Some("outcome"),
        samples: &[
            ("resident", kernel!(ReadResident)),
            ("faulted", kernel!(ReadFaulted)),
            ("truncated", kernel!(ReadTruncated)),
            ("failed", |figures| {
                [Counter::ReadEfault, Counter::ReadEinval, Counter::ReadEagain]
                    .into_iter()
                    .map(|counter| counted(counter)(figures))
                    .sum()
            }),
        ],
        of: |series| matches!(series.kind, Kind::Events { reads: true }),
    },
];

/// How many time series a probe has.
pub(super) fn series_of(series: &Series) -> usize {
    let counters = PROBE_COUNTERS.iter().filter(|counter| (counter.of)(series));
    let counters: usize = counters.map(|counter| counter.samples.len()).sum();
    // A histogram has its buckets, its sum and its count.
    counters + if series.kind == Kind::Latency { BUCKETS + 2 } else { 0 }
}

impl Collector for ProbeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let catalog = self.catalog.get();
        let reading = catalog.read();
        let (cpus, undecodable) = (reading.cpus.clone(), reading.undecodable);
        let shown = {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.decide(&catalog, reading)
        };
        for counter in PROBE_COUNTERS {
            counter.encode(&catalog, &shown, &mut encoder)?;
        }
        latencies(&catalog, &shown, &mut encoder)?;
        per_cpu(&cpus, &mut encoder)?;
        let mut out = Plain(encoder);
        out.counter(
            "faultline_undecodable_records",
            "Records that could not be decoded",
            undecodable,
        )?;
        out.gauge(
            "faultline_metrics_series",
            "Time series of probes with labels of their own",
            shown.series as f64,
        )?;
        out.gauge(
            "faultline_metrics_folded_probes",
            "Functions without series of their own, summed up under name=\"other\"",
            shown.folded as f64,
        )?;
        out.gauge("faultline_functions", "Functions that are probed", catalog.functions as f64)?;
        out.gauge(
            "faultline_functions_skipped",
            "Functions that match a probe and cannot be probed",
            catalog.skipped as f64,
        )?;
        out.gauge("faultline_links", "Links that hold the breakpoints", catalog.links as f64)?;
        out.states(
            "faultline_probes",
            "Named probes, by whether they are attached",
            &[("attached", catalog.probes_attached), ("waiting", catalog.probes_waiting)],
        )?;
        out.gauge(
            "faultline_cpu_imbalance_ratio",
            "Hits of the busiest CPU relative to the mean, since the start; 1 is balanced",
            imbalance(&cpus),
        )
    }
}

/// The busiest CPU, relative to the mean.
fn imbalance(cpus: &[CpuFigures]) -> f64 {
    let online = online_cpus().max(1);
    let total: u64 = cpus.iter().map(|cpu| cpu.hits).sum();
    let most = cpus.iter().map(|cpu| cpu.hits).max().unwrap_or(0);
    if total == 0 { 1.0 } else { most as f64 * online as f64 / total as f64 }
}

impl ProbeCounter {
    fn encode(
        &self,
        catalog: &Catalog,
        shown: &Shown,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let has = |index: &usize| catalog.series.get(*index).is_some_and(self.of);
        let folded = shown.sum.is_some() && catalog.series.iter().any(self.of);
        if !folded && !shown.own.iter().any(|(index, _)| has(index)) {
            return Ok(());
        }
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        for (index, figures) in shown.own.iter().filter(|(index, _)| has(index)) {
            let Some(series) = catalog.series.get(*index) else { continue };
            self.samples(&mut metric, &series.name, &series.probe, figures)?;
        }
        match &shown.sum {
            Some(sum) if folded => self.samples(&mut metric, OTHER, OTHER, sum),
            _ => Ok(()),
        }
    }

    fn samples(
        &self,
        metric: &mut MetricEncoder<'_>,
        name: &str,
        probe: &str,
        figures: &Figures,
    ) -> fmt::Result {
        for (value, get) in self.samples {
            let count = get(figures);
            match self.label {
                None => sample(metric, &[("name", name), ("probe", probe)], count)?,
                Some(label) => {
                    sample(metric, &[("name", name), ("probe", probe), (label, value)], count)?;
                }
            }
        }
        Ok(())
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

fn sample<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    count: u64,
) -> fmt::Result {
    // Labels come from the user: escape what would break the line.
    let escaped = labels.map(|(name, value)| (name, Escaped(value)));
    metric.encode_family(&escaped)?.encode_counter::<NoLabelSet, _, f64>(&count, NO_EXEMPLAR)
}

/// A label's value, which the library does not escape.
#[derive(Debug, Clone, Copy)]
struct Escaped<'a>(&'a str);

impl prometheus_client::encoding::EncodeLabelValue for Escaped<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> fmt::Result {
        use fmt::Write as _;
        if !self.0.contains(['\\', '"', '\n']) {
            return encoder.write_str(self.0);
        }
        for c in self.0.chars() {
            match c {
                '\\' => encoder.write_str("\\\\")?,
                '"' => encoder.write_str("\\\"")?,
                '\n' => encoder.write_str("\\n")?,
                c => encoder.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn latencies(catalog: &Catalog, shown: &Shown, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let has =
        |index: usize| catalog.series.get(index).is_some_and(|series| series.kind == Kind::Latency);
    let any_folded = shown.sum.as_ref().is_some_and(|sum| sum.durations.is_some());
    if !any_folded && !shown.own.iter().any(|(index, _)| has(*index)) {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(
        "faultline_probe_latency_seconds",
        "Durations of calls, from the function's entry to its return",
        None,
        MetricType::Histogram,
    )?;
    for (index, figures) in shown.own.iter().filter(|(index, _)| has(*index)) {
        let Some(series) = catalog.series.get(*index) else { continue };
        histogram(&mut metric, &series.name, &series.probe, figures.durations.as_deref())?;
    }
    match &shown.sum {
        Some(sum) if any_folded => histogram(&mut metric, OTHER, OTHER, sum.durations.as_deref()),
        _ => Ok(()),
    }
}

fn histogram(
    metric: &mut MetricEncoder<'_>,
    name: &str,
    probe: &str,
    durations: Option<&Durations>,
) -> fmt::Result {
    let none = Durations::default();
    let durations = durations.unwrap_or(&none);
    let labels = [("name", Escaped(name)), ("probe", Escaped(probe))];
    metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
        durations.sum_ns as f64 / 1e9,
        durations.count(),
        &durations.buckets(),
        None,
    )
}

fn per_cpu(cpus: &[CpuFigures], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Get = fn(&CpuFigures) -> u64;
    const COUNTERS: [(&str, &str, Get); 4] = [
        ("faultline_cpu_hits", "Hits of all probes on a CPU", |cpu| cpu.hits),
        ("faultline_cpu_events", "Events of hits on a CPU that were written", |cpu| cpu.events),
        ("faultline_cpu_lost", "Events and durations of hits on a CPU that were lost", |cpu| {
            cpu.lost
        }),
        ("faultline_cpu_faults", "Pages that were faulted in to read an argument", |cpu| {
            cpu.faults
        }),
    ];
    // Leave out CPUs that are not plugged in.
    let online = online_cpus();
    let shown = || {
        cpus.iter()
            .enumerate()
            .filter(move |(index, cpu)| *index < online || **cpu != CpuFigures::default())
    };
    if shown().next().is_none() {
        return Ok(());
    }
    for (name, help, get) in COUNTERS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (index, cpu) in shown() {
            sample(&mut metric, &[("cpu", &index.to_string())], get(cpu))?;
        }
    }
    const SECONDS: [(&str, &str, Get); 3] = [
        (
            "faultline_cpu_fault_wait_seconds",
            "Time that traced tasks waited for pages that an argument was on",
            |cpu| cpu.fault_wait_ns,
        ),
        (
            "faultline_cpu_handler_seconds",
            "Time in the programs that read, time and write, those waits aside; measured at some hits",
            |cpu| cpu.handler_ns,
        ),
        (
            "faultline_cpu_cost_seconds",
            "Time that hits took from the traced programs, the breakpoints included: an estimate",
            |cpu| cpu.cost_ns,
        ),
    ];
    for (name, help, get_ns) in SECONDS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (index, cpu) in shown() {
            let seconds = get_ns(cpu) as f64 / 1e9;
            let labels = [("cpu", index.to_string())];
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&seconds, NO_EXEMPLAR)?;
        }
    }
    Ok(())
}

/// Metrics with at most one label.
struct Plain<'a>(DescriptorEncoder<'a>);

impl Plain<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&value, NO_EXEMPLAR)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn states(&mut self, name: &str, help: &str, states: &[(&str, usize)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (state, value) in states {
            let labels = [("state", *state)];
            metric.encode_family(&labels)?.encode_gauge(&(*value as u64))?;
        }
        Ok(())
    }
}
