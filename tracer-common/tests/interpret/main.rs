//! The interpreters on the host: whatever program user space writes and whatever memory it meets, what
//! is decoded is what was there.
//!
//! - `simulated`: any memory of a traced program.
//! - `reads`: argument programs against what they say.
//! - `conditions`: conditions against what they say.
//! - `choices`: sample, rate limit, and which hits follow their entry.
//! - `exchanges`: a hit that meets two links counts once.
//! - `histograms`: durations and their buckets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test cannot do is a failed test")]

mod choices;
mod conditions;
mod exchanges;
mod histograms;
mod reads;
mod simulated;
