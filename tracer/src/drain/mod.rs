//! From the ring buffer to the output: drains records, has them decoded and formatted, writes, and
//! counts what became of each.
//!
//! It runs on a thread of its own, because writing to a pipe may block; nothing else waits for it
//! longer than it wants to. It looks every few milliseconds instead of being woken: a wakeup would
//! cost the traced program more than all the rest of a hit.

mod output;
mod tally;
mod worker;

pub use self::{
    output::Output,
    tally::{Outcome, Tally},
    worker::{Drain, DrainEnd, DrainHandle},
};
