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
//! - [`plan`]: where each breakpoint goes and what each probe reads; pure.
//! - [`kernel`]: loads, attaches, counts; the only stage that talks bpf(2).
//! - [`drain`]: records out of the ring buffer, to the output, and what became of each.
//! - [`decode`]: a raw record and the plan: an event.
//! - [`aggregate`]: what the kernel side sums up, as figures a probe.
//! - [`sink`]: an event to text or JSON; the summary of a run.
//! - [`guard`]: watches that tracing hurts nobody.
//! - [`cli`]: the command line.

pub mod aggregate;
pub mod cli;
pub mod daemon;
pub mod decode;
pub mod drain;
pub mod guard;
pub mod kernel;
pub mod metrics;
pub mod plan;
pub mod resolve;
pub mod sink;
pub mod spec;
