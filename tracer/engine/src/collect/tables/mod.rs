//! The kernel side's sums as figures per probe: calls and durations.
//!
//! Takes a plan and the kernel's counters and histograms; gives [`Calls`] and [`Durations`], plain
//! data, most first. It must not format and must not wait.

mod calls;
mod durations;
mod seen;

pub use self::{
    calls::{Calls, calls},
    durations::{Bucket, Durations, durations},
    seen::Seen,
};
