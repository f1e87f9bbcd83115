//! What comes out of a set of probes: events from the ring buffer, and what the kernel side sums up.
//!
//! - [`drain`]: records out of the ring buffer, on a thread of its own.
//! - [`decode`]: a record and the plan: an [`Event`](decode::Event).
//! - [`events`]: from the drain to whoever handles events, with a [`Tally`] of what became of each.
//! - [`tables`]: calls and durations a probe, as plain figures.
//! - [`catalog`]: everything that is attached, and one [`Reading`](catalog::Reading) of what it counts.

pub mod catalog;
pub mod decode;
pub mod drain;
pub mod events;
pub mod tables;
mod tally;

pub use self::tally::{Outcome, Tally};
