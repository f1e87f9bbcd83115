//! The kernel: loads the eBPF programs, attaches and detaches, reads counters. The only stage that
//! names aya or makes a bpf(2) call.
//!
//! Takes an [`AttachPlan`](crate::plan::AttachPlan); gives [`Programs`] that hold the plan's
//! programs in the kernel, [`Links`] that keep its breakpoints, and handles on what the programs
//! share with us: records, counters, tasks inside a fault.

mod counters;
mod diagnostics;
mod error;
mod features;
mod handover;

mod links;
mod mapped;
mod privileges;
mod programs;
mod records;
mod sys;
mod tasks;

pub use self::{
    counters::{CounterSnapshot, Counters},
    diagnostics::Diagnostics,
    error::KernelError,
    features::{Feature, Finding, probe_features},
    handover::{Releaser, be_releaser_if_asked},
    links::{AttachReport, Links, Scope},
    privileges::{MissingPrivilege, missing_privilege},
    programs::{LoadOptions, Programs},
    records::Records,
    tasks::{Calls, Faults, StuckTask},
};
