//! The output of a set of probes: events from the ring buffer, and sums made on the kernel side.
//!
//! - [`drain`]: takes records out of the ring buffer, on its own thread.
//! - [`decode`]: turns a record, given the plan, into an [`Event`](decode::Event).
//! - [`events`]: passes events from the drain to a handler, with a [`Tally`] of their outcomes.
//! - [`tables`]: calls and durations per probe, as plain figures.
//! - [`catalog`]: everything that is attached, and one [`Reading`](catalog::Reading) of what it counts.

pub mod catalog;
pub mod decode;
pub mod drain;
pub mod events;
pub mod tables;
mod tally;

pub use self::tally::{Outcome, Tally};
