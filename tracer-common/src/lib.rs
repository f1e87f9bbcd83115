//! The ABI between faultline's eBPF programs and its user space.
//!
//! Everything here is `repr(C)` with fixed-width fields and explicit padding. Sizes are asserted at
//! compile time, and golden tests pin the bytes. Both sides always come from the same build, so the ABI
//! has no version.
//!
//! - [`program`]: what a probe reads, as data: user space writes it, the eBPF program interprets it.
//! - [`record`]: what the eBPF program writes into the ring buffer.
//! - [`counter`]: where each outcome is counted, per CPU and probe.
//! - [`condition`]: which hits match, also as data.
//! - [`death`]: what a process is about to die of.
//! - [`ring`]: the ring buffer itself.
//! - [`exchange`]: how a hit is counted once while two links hold its breakpoint.
//! - [`histogram`]: durations, aggregated in the kernel.
//! - [`task`]: what the kernel side remembers of a task: open calls, page faults in progress.
//! - [`interpret`]: the interpreters of what user space writes, as far as they are pure.

#![no_std]

#[cfg(feature = "testbed")]
extern crate std;

pub mod condition;
pub mod counter;
pub mod death;
pub mod exchange;
pub mod histogram;
pub mod interpret;
pub mod program;
pub mod record;
pub mod ring;
pub mod task;
#[cfg(feature = "testbed")]
pub mod testbed;

/// Marks a type as plain bytes for aya's maps (user space only).
#[cfg(feature = "user")]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is `repr(C)`, `Copy`, has no implicit padding and every bit
            // pattern is valid for each of its fields.
            unsafe impl aya::Pod for $t {}
        )+
    };
}
#[cfg(feature = "user")]
pod!(
    condition::Condition,
    condition::Text,
    death::Death,
    exchange::Marks,
    program::ReadOp,
    program::ProbeProgram,
    task::CallStack,
    task::FaultInProgress,
    histogram::Histogram,
    ring::Ends,
    ring::Segment,
    Control
);

/// What is done with a hit that matches.
#[repr(u8)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// A record of it is written.
    #[default]
    Events = 0,
    /// It is counted.
    Count = 1,
    /// The call's duration goes into a histogram.
    Latency = 2,
}

/// What user space sets while the eBPF programs run; index 0 of the map `CONTROL`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// Above 0: hits count. Set once every probe is attached, by user space or by the start of the traced
    /// command; [`Control::ENDED`] before the first probe is detached. So all probes of a run start and
    /// stop counting at the same moment.
    pub enabled: i64,
    /// Always 0, which the kernel's verifier cannot know. It checks a loop whose counter starts from this
    /// number once for all values, instead of once for each.
    pub zero: u64,
    /// Not 0 while links are exchanged: the number of the first new one (see [`exchange`]).
    pub exchange: u64,
    /// Links below this number may be retired.
    pub retired_below: u64,
    /// Hits that could not be marked during an exchange, and may have been counted twice.
    pub unmarked: u64,
    /// Children with a copy of its memory that traced processes have forked, if children are not followed.
    pub forked: u64,
    /// Children that are followed, or were while they lived.
    pub followed: u64,
    /// Children that could not be followed: there was no room for more.
    pub unfollowed: u64,
}

impl Control {
    /// Hits no longer count. The start of a command adds 1, which does not change that.
    pub const ENDED: i64 = i64::MIN;
}

const _: () = assert!(size_of::<Control>() == 64);
