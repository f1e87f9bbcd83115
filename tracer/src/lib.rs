//! faultline: a production uprobe tracer for Linux.
//!
//! Data flows one way, and a folder is a stage:
//!
//! ```text
//! text ──spec──▶ ProbeSpec ──resolve──▶ ResolvedProbe ──plan──▶ AttachPlan ──kernel──▶ Attached
//! kernel programs ──ring buffer / per-CPU counters──▶ drain ──▶ decode ──▶ Event ──▶ sink
//! ```
//!
//! - [`spec`]: probe syntax to [`spec::ProbeSpec`]; pure, knows no file and no Linux.
//! - [`resolve`]: targets, ELF symbols, processes, debug files: a spec to the functions it names.

pub mod decode;
pub mod kernel;
pub mod plan;
pub mod resolve;
pub mod sink;
pub mod spec;
