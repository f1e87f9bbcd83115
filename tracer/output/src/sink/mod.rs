//! Events to text.
//!
//! A [`Sink`] takes an [`Event`] and appends its line to a buffer; it does no I/O: the buffer and
//! the file behind it belong to the [`EventWriter`]. And it must be fast, because a
//! reader that is slower than the probes loses events: what is the same in each line of a probe
//! is put together once, and an event costs some copies and its digits.
//!
//! - [`JsonSink`]: one object a line, for programs; its fields are a contract.
//! - [`TextSink`]: one line an event, for people.
//! - [`EventWriter`]: from records to an [`Output`], with a [`Tally`] of what became of each.
//! - [`count_table`], [`latency_table`] and their likes: what the kernel summed up.
//! - [`Summary`]: what a run counted, and where everything that is missing went.
//!
//! Whatever a traced process puts into its strings or its name, neither gives a control character
//! or an escape sequence to a terminal.

mod colour;
mod counts;
mod digits;
mod escape;
mod json;
mod latencies;
mod line;
mod output;
mod per_probe;
mod seen;
#[cfg(test)]
mod speed;
pub mod summary;
mod tally;
mod text;
mod time;
mod writer;

pub use self::{
    colour::Palette,
    counts::{count_table, json_counts},
    json::JsonSink,
    latencies::{json_latencies, latency_picture, latency_table},
    line::json_line,
    output::Output,
    summary::Summary,
    tally::{Outcome, Tally},
    text::TextSink,
    writer::{EventWriter, WriterEnd},
};
use faultline_engine::decode::Event;

/// Formats events. A sink remembers each probe that it has seen by its
/// [`ProbeId`](faultline_plan::ProbeId), so it serves one plan: a new plan wants a new sink.
pub trait Sink: Send {
    /// Appends the event's line, newline included, to `out`.
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>);
}
