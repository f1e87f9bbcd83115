//! Events, tables and summaries, in the formats that people and programs read.
//!
//! One file a format, each a room of its own:
//!
//! - [`text`]: for people. One line an event, tables, a summary in sentences.
//! - [`json`]: for programs. One object a line; its fields are a contract.
//! - [`prometheus`]: for a scrape. Counters read when they are asked for.
//!
//! A [`Format`] is what a run writes: it gives the [`Sink`] for events, tables and the summary. A new
//! format is a file with its sink, and a line in the list of formats.
//!
//! A [`Sink`] takes an [`Event`] and appends its line to a buffer. It does no I/O: the buffer and the
//! file behind it belong to the [`EventWriter`]. It must be fast, because a reader that is slower than
//! the probes loses events: what is the same in each line of a probe is prepared once, and an event
//! costs a few copies and its digits.
//!
//! The formats share: [`EventWriter`], from events to an [`Output`], with a
//! [tally](faultline_engine::collect::Tally) of what became of each; [`Table`], what an action has
//! summed up; [`Summary`], what a run counted and where every missing hit went; escapes, digits, times
//! and colours.
//!
//! Whatever a traced process puts into its strings or its name, no format sends a control character or
//! an escape sequence to a terminal.

mod digits;
mod escape;
mod format;
pub mod json;
mod output;
mod palette;
mod per_probe;
pub mod prometheus;
#[cfg(test)]
mod speed;
pub mod summary;
mod table;
pub mod text;
mod time;
mod writer;

pub use self::{
    format::Format,
    json::{JsonSink, json_line, json_text},
    output::{Output, survive_file_size_limit},
    palette::Palette,
    summary::Summary,
    table::{Cell, Table},
    text::TextSink,
    writer::{Batch, EventOutput, EventWriter, FileOutput, WriterEnd},
};
use std::io;

use faultline_engine::collect::decode::Event;

/// Writes what a run produces in one format. A sink remembers each probe it has seen by its
/// [`ProbeId`](faultline_plan::ProbeId), so it serves one plan.
pub trait Sink: Send {
    /// Appends the event's line, newline included, to `out`.
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>);

    /// Appends the table to `out`.
    ///
    /// # Errors
    ///
    /// None that a figure can cause.
    fn table(&self, table: &Table, out: &mut Vec<u8>) -> io::Result<()>;

    /// Appends the summary to `out`.
    ///
    /// # Errors
    ///
    /// None that a figure can cause.
    fn summary(&self, summary: &Summary, out: &mut Vec<u8>) -> io::Result<()>;
}
