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
use tracer_common::counter::{
    Counter, TABLE,
    metric::{self, Metric},
};

use faultline_engine::{
    collect::catalog::{BUCKETS, Catalog, CpuFigures, Durations, Figures, Kind, Series},
    kernel::online_cpus,
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

/// A counter of a probe.
struct ProbeCounter {
    metric: Metric,
    /// What user space knows beside the counters that the metric shows: a value of its label, and a
    /// number.
    beside: Option<(&'static str, Get)>,
    /// Whether a probe has it.
    of: fn(&Series) -> bool,
}

/// Takes a number out of what is known about a probe.
type Get = fn(&Figures) -> u64;

/// What the counters of a metric add up to, for each value of its label.
type Samples = Vec<(&'static str, Vec<Counter>)>;

fn has_events(series: &Series) -> bool {
    matches!(series.kind, Kind::Events { .. })
}

const PROBE_COUNTERS: &[ProbeCounter] = &[
    ProbeCounter { metric: metric::HITS, beside: Some(("", Figures::hits)), of: |_| true },
    ProbeCounter {
        metric: metric::EVENTS,
        beside: Some(("", |figures| figures.delivered)),
        of: has_events,
    },
    ProbeCounter { metric: metric::WITHHELD, beside: None, of: |series| series.withholds },
    ProbeCounter {
        metric: metric::LOST,
        beside: Some(("output", |figures| figures.output_lost)),
        of: has_events,
    },
    ProbeCounter {
        metric: metric::CALLS_LOST,
        beside: None,
        of: |series| series.kind == Kind::Latency,
    },
    ProbeCounter {
        metric: metric::READS,
        beside: None,
        of: |series| matches!(series.kind, Kind::Events { reads: true }),
    },
];

/// How many time series a probe has.
pub(super) fn series_of(series: &Series) -> usize {
    let counters = PROBE_COUNTERS.iter().filter(|counter| (counter.of)(series));
    let samples = |counter: &ProbeCounter| {
        samples_of(&counter.metric).len() + usize::from(counter.beside.is_some())
    };
    let counters: usize = counters.map(samples).sum();
    // A histogram has its buckets, its sum and its count.
    counters + if series.kind == Kind::Latency { BUCKETS + 2 } else { 0 }
}

/// The samples of a metric that the table of counters names, in its order.
fn samples_of(metric: &Metric) -> Samples {
    let mut samples: Samples = Vec::new();
    for row in &TABLE {
        for (_, label) in row.samples.iter().filter(|(name, _)| *name == metric.name) {
            match samples.iter_mut().find(|(known, _)| known == label) {
                Some((_, counters)) => counters.push(row.counter),
                None => samples.push((label, vec![row.counter])),
            }
        }
    }
    samples
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
        let children = catalog.children();
        out.outcomes(
            "faultline_children",
            "Children of probed processes",
            &[
                ("followed", children.followed),
                ("not_followed", children.unfollowed),
                ("inherited", children.forked),
            ],
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
        let Metric { name, help, .. } = self.metric;
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let samples = samples_of(&self.metric);
        for (index, figures) in shown.own.iter().filter(|(index, _)| has(index)) {
            let Some(series) = catalog.series.get(*index) else { continue };
            self.samples(&samples, &mut metric, (&series.name, &series.probe), figures)?;
        }
        match &shown.sum {
            Some(sum) if folded => self.samples(&samples, &mut metric, (OTHER, OTHER), sum),
            _ => Ok(()),
        }
    }

    fn samples(
        &self,
        samples: &Samples,
        metric: &mut MetricEncoder<'_>,
        (name, probe): (&str, &str),
        figures: &Figures,
    ) -> fmt::Result {
        let counted = samples.iter().map(|(value, of)| (*value, figures.counters.total(of)));
        let beside = self.beside.iter().map(|(value, get)| (*value, get(figures)));
        for (value, count) in counted.chain(beside) {
            match self.metric.label {
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
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count, NO_EXEMPLAR)
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
    let labels = [("name", name), ("probe", probe)];
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

    fn outcomes(&mut self, name: &str, help: &str, outcomes: &[(&str, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        outcomes
            .iter()
            .try_for_each(|(outcome, count)| sample(&mut metric, &[("outcome", outcome)], *count))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the metrics of a probe are those of the contract, with their labels in their order.
    #[test]
    fn metrics_of_a_probe() {
        let listed: Vec<String> = PROBE_COUNTERS
            .iter()
            .map(|ProbeCounter { metric, beside, .. }| {
                let counted = samples_of(metric);
                let counted =
                    counted.iter().map(|(value, counters)| format!("{value}={counters:?}"));
                let beside = beside.iter().map(|(value, _)| format!("{value}=beside"));
                let samples: Vec<_> = counted.chain(beside).collect();
                format!("{} {} {}", metric.name, metric.label.unwrap_or("-"), samples.join(" "))
            })
            .collect();
        let expected = [
            "faultline_probe_hits - =beside",
            "faultline_probe_events - =beside",
            "faultline_probe_withheld reason filtered=[Filtered] sampled_out=[SampledOut] \
             throttled=[Throttled]",
            "faultline_probe_lost cause ring_full=[RingFull] no_entry=[NoEntry] output=beside",
            "faultline_probe_calls_lost cause no_return=[CallsLost] no_memory=[NoEntry, NoMemory]",
            "faultline_probe_reads outcome resident=[ReadResident] faulted=[ReadFaulted] \
             truncated=[ReadTruncated] failed=[ReadEfault, ReadEinval, ReadEagain]",
        ];
        assert_eq!(listed, expected);
    }

    /// Emits a counter and a histogram whose labels need escaping.
    #[derive(Debug)]
    struct Special;

    impl Collector for Special {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let name = "a\"b\\c\nd";
            let mut counter = encoder.encode_descriptor("x", "x", None, MetricType::Counter)?;
            sample(&mut counter, &[("name", name)], 1)?;
            let mut other = encoder.encode_descriptor("y", "y", None, MetricType::Histogram)?;
            histogram(&mut other, name, name, None)
        }
    }

    /// Check that labels are escaped, and only once: a file may have quotes and backslashes in its name. They
    /// were once escaped here and by the library.
    #[test]
    fn labels_are_escaped_once() {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Special));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let name = r#"name="a\"b\\c\nd""#;
        assert!(text.contains(&format!("x_total{{{name}}} 1\n")), "{text}");
        let probe = name.replacen("name", "probe", 1);
        assert!(text.contains(&format!("y_count{{{name},{probe}}} 0\n")), "{text}");
    }

    /// Check that docs/metrics.md has these metrics, with the values of their labels.
    #[test]
    fn metrics_of_a_probe_are_documented() {
        let document = include_str!("../../../../docs/metrics.md");
        for ProbeCounter { metric, beside, .. } in PROBE_COUNTERS {
            let counted = samples_of(metric);
            let values = counted.iter().map(|(value, _)| *value);
            let values: Vec<_> = values
                .chain(beside.iter().map(|(value, _)| *value))
                .map(|value| format!("`{value}`"))
                .collect();
            let labels = match metric.label {
                Some(label) => format!("`{label}`: {} ", values.join(", ")),
                None => String::new(),
            };
            let line = format!("| `{}_total` | counter | {labels}|", metric.name);
            assert!(document.contains(&line), "{line}");
        }
    }
}
