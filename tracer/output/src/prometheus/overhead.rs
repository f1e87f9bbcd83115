//! The state of the overhead budget, as its owner publishes it.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use faultline_engine::limiter::OverheadStatus;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Writes it.
#[derive(Debug)]
pub(super) struct OverheadCollector(pub(super) Arc<RwLock<Option<OverheadStatus>>>);

impl Collector for OverheadCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(status) = status else { return Ok(()) };
        for (name, help, value) in [
            (
                "faultline_overhead_limit_ratio",
                "Share of all CPUs that probes may take",
                status.limit,
            ),
            (
                "faultline_overhead_detached_functions",
                "Functions that the overhead budget has detached now",
                status.away as f64,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            (
                "faultline_overhead_hits_seconds",
                "CPU time that hits have cost the traced programs, estimated",
                status.figures.hits.as_secs_f64(),
            ),
            (
                "faultline_overhead_work_seconds",
                "CPU time of attaching and detaching for the overhead budget",
                status.figures.work.as_secs_f64(),
            ),
            (
                "faultline_overhead_attached_seconds",
                "Time in which probes were attached, not paused by the duty cycle",
                status.attached.as_secs_f64(),
            ),
            (
                "faultline_overhead_exceeded",
                "Times that the overhead budget was exceeded and something was done",
                status.figures.exceeded as f64,
            ),
            (
                "faultline_overhead_detached",
                "Functions that the overhead budget has detached, each time that it has",
                status.figures.detached as f64,
            ),
            (
                "faultline_overhead_attached",
                "Functions that were attached again after that",
                status.figures.attached_again as f64,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}
