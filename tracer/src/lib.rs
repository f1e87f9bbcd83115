//! The program `faultline`: a command line and a daemon on one engine.
//!
//! Data flows one way, and each stage is a crate:
//!
//! ```text
//! request ──spec──▶ ProbeSpec ──resolve──▶ functions, places ──plan──▶ AttachPlan ──engine──▶ probes
//! eBPF programs ──rings, maps──▶ engine ──▶ events, tables ──output──▶ text | NDJSON | Prometheus
//! ```
//!
//! - [`faultline_spec`]: the grammar: text to [`faultline_spec::ProbeSpec`]; pure.
//! - [`faultline_resolve`]: targets, ELF symbols, processes, debug files: a spec to functions.
//! - [`faultline_plan`]: where each breakpoint goes and what each probe reads; pure.
//! - [`faultline_engine`]: loads, attaches, limits, releases, collects; the only crate that makes a
//!   bpf(2) call.
//! - [`faultline_output`]: events, tables and summaries to text, JSON and Prometheus metrics.
//! - [`cli`]: flags to requests, and a terminal.
//! - [`daemon`]: a configuration, discovery and an API to requests.

pub mod cli;
pub mod daemon;
mod signals;
