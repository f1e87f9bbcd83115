//! Events, tables and summaries as text, JSON and Prometheus metrics.

pub mod metrics;
pub mod sink;
