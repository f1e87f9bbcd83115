//! The kernel: loads the eBPF programs, attaches and detaches, reads counters. The only stage that
//! names aya or makes a bpf(2) call.
//!
//! Takes an [`AttachPlan`](faultline_plan::AttachPlan); gives [`Programs`] that hold the plan's programs in
//! the kernel, [`Links`] that keep its breakpoints, and handles to what the programs share with us:
//! records, counters, tasks inside a fault.

mod attach;
pub mod bench;
mod btf;
mod calibrate;
mod children;
mod clock;
mod counters;
mod deaths;
mod descriptors;
mod diagnostics;
mod error;
mod exchange;
mod features;
mod handover;
mod holders;
mod latencies;
mod links;
mod mapped;
mod notices;
mod own_code;
mod pid_namespace;
mod pidfd;
mod privileges;
mod programs;
mod progress;
mod quirks;
mod records;
mod sys;
mod tasks;
mod trial;

pub use self::{
    attach::{AttachReport, Piece, SlowestFile, links_needed},
    children::ChildCounts,
    clock::monotonic_ns,
    counters::{CounterSnapshot, Counters, online_cpus},
    deaths::Deaths,
    diagnostics::Diagnostics,
    error::KernelError,
    features::Features,
    handover::Releaser,
    holders::{HeldLinks, Holding, LinkHolders, Releasing},
    latencies::Latencies,
    links::{DetachReport, Links},
    notices::ProcessNotices,
    pidfd::HeldProcess,
    privileges::{MissingPrivilege, missing_privilege},
    programs::{LoadOptions, Programs},
    progress::Progress,
    records::{Records, default_buffer_bytes},
    tasks::{Calls, Faults, StuckTask},
    trial::{Feature, Finding, probe_features},
};
pub(crate) use self::{
    btf::task_name_at, calibrate::measure_costs, clock::process_time,
    handover::be_releaser_if_asked, quirks::try_quirks,
};
