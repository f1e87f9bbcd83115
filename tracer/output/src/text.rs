//! Events as text, one line each, for people.
//!
//! ```text
//! TIME            PID/TID COMM            CALL
//! 03:04:05.000006 41/42   cat             libc.so.6:open(path="/etc/hostname", flags=0)
//! 03:04:05.000011 41/42   cat             libc.so.6:open → 3  5.12µs
//! ```

mod picture;
mod summary;
mod table;

use std::io;

use unicode_width::UnicodeWidthStr;

use crate::{
    Sink, Summary, Table,
    digits::push_decimal,
    escape::{Quotes, push_byte, push_text},
    palette::Palette,
    per_probe::PerProbe,
    time::{SecondText, TimeText, local_of_day},
};
use faultline_engine::collect::decode::{Errno, Event, EventKind};
use faultline_plan::PlannedProbe;
use faultline_spec::{
    types::{Show, Value},
    units::push_duration,
};

/// Most bytes that the kernel keeps of a task's name.
const COMM_COLUMNS: usize = 15;
/// Columns of the process id to begin with: the largest has seven digits.
const PID_COLUMNS: usize = 7;

/// Writes events as text, in local time.
#[derive(Debug)]
pub struct TextSink {
    palette: Palette,
    time: TimeText<9>,
    probes: PerProbe<ProbeText>,
    /// Columns of the process id; grows to the longest seen, so that lines stay aligned.
    pid_columns: usize,
}

/// What is the same in each line of a probe.
#[derive(Debug)]
struct ProbeText {
    /// `LABEL(`
    entry: Vec<u8>,
    /// `LABEL → `
    ret: Vec<u8>,
    /// `name=` of each argument; all but the first with a comma before.
    names: Vec<Vec<u8>>,
}

impl TextSink {
    /// A new sink; with `colour`, its lines contain escape sequences.
    #[must_use]
    pub fn new(colour: bool) -> Self {
        Self::with_time(colour, local_of_day)
    }

    fn with_time(colour: bool, text_of: SecondText<9>) -> Self {
        Self {
            palette: Palette::new(colour),
            time: TimeText::new(text_of),
            probes: PerProbe::default(),
            pid_columns: PID_COLUMNS,
        }
    }

    /// The line that names the columns, newline included.
    #[must_use]
    pub fn header(&self) -> String {
        let Palette { dim, reset, .. } = self.palette;
        let pid_columns = self.pid_columns;
        format!("{dim}{:<15} {:<pid_columns$} {:<15} CALL{reset}\n", "TIME", "PID/TID", "COMM")
    }
}

impl Sink for TextSink {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let palette = self.palette;
        let probe = self.probes.get(event.id, || ProbeText::new(event.probe, palette));
        push_str(palette.dim, out);
        self.time.push::<6>(event.time, out);
        push_str(palette.reset, out);
        out.push(b' ');
        let columns = push_pid(event, self.pid_columns, out);
        self.pid_columns = self.pid_columns.max(columns);
        push_comm(event.comm, out);
        match event.kind {
            EventKind::Entry => {
                out.extend_from_slice(&probe.entry);
                for ((_, value), name) in event.values().zip(&probe.names) {
                    out.extend_from_slice(name);
                    push_value(value, palette, out);
                }
                out.extend_from_slice(b")\n");
            }
            EventKind::Return { duration_ns } => {
                out.extend_from_slice(&probe.ret);
                if let Some(value) = event.ret() {
                    push_value(value, palette, out);
                    out.extend_from_slice(b"  ");
                }
                push_duration(duration_ns, out);
                out.push(b'\n');
            }
        }
    }

    fn table(&self, table: &Table, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(self.table_in(table, usize::MAX).as_bytes());
        if table.so_far {
            out.push(b'\n');
        }
        Ok(())
    }

    fn summary(&self, summary: &Summary, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(summary.text(self.palette).as_bytes());
        Ok(())
    }
}

impl ProbeText {
    fn new(probe: &PlannedProbe, palette: Palette) -> Self {
        let head = |then: &str| {
            let mut text = palette.probe.as_bytes().to_vec();
            push_text(probe.label.as_bytes(), Quotes::None, &mut text);
            push_str(palette.reset, &mut text);
            push_str(then, &mut text);
            text
        };
        let name = |(slot, name): (usize, &str)| {
            let mut text = if slot == 0 { Vec::new() } else { b", ".to_vec() };
            push_text(name.as_bytes(), Quotes::None, &mut text);
            text.push(b'=');
            text
        };
        Self {
            entry: head("("),
            ret: head(" → "),
            names: probe.args.iter().map(|arg| &*arg.name).enumerate().map(name).collect(),
        }
    }
}

fn push_str(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends `PID` or, for any but a process's first thread, `PID/TID`, filled up to `columns` and
/// a space. Returns how many it has without.
fn push_pid(event: &Event<'_>, columns: usize, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    push_decimal(event.pid, out);
    if event.tid != event.pid {
        out.push(b'/');
        push_decimal(event.tid, out);
    }
    let used = out.len() - start;
    fill(columns.saturating_sub(used) + 1, out);
    used
}

fn push_comm(comm: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    push_text(comm, Quotes::None, out);
    let text = &out[start..];
    let used = if text.is_ascii() {
        text.len()
    } else {
        std::str::from_utf8(text).map_or(text.len(), UnicodeWidthStr::width)
    };
    fill(COMM_COLUMNS.saturating_sub(used) + 1, out);
}

fn fill(columns: usize, out: &mut Vec<u8>) {
    const SPACES: &[u8; 32] = &[b' '; 32];
    out.extend_from_slice(&SPACES[..columns.min(SPACES.len())]);
}

#[inline]
fn push_value(value: Result<Value<'_>, Errno>, palette: Palette, out: &mut Vec<u8>) {
    match value {
        Ok(value) => value.show(&mut Text { palette, out }),
        Err(errno) => {
            push_str(palette.error, out);
            out.push(b'<');
            push_str(errno.name(), out);
            out.push(b'>');
            push_str(palette.reset, out);
        }
    }
}

/// Values for people.
struct Text<'a> {
    palette: Palette,
    out: &'a mut Vec<u8>,
}

impl Show for Text<'_> {
    #[inline]
    fn plain(&mut self, text: &str) {
        push_str(text, self.out);
    }

    #[inline]
    fn word(&mut self, text: &str) {
        push_str(text, self.out);
    }

    #[inline]
    fn character(&mut self, byte: u8) {
        push_str(self.palette.string, self.out);
        self.out.push(b'\'');
        push_char(byte, self.out);
        self.out.push(b'\'');
        push_str(self.palette.reset, self.out);
    }

    #[inline]
    fn text(&mut self, bytes: &[u8], truncated: bool) {
        push_str(self.palette.string, self.out);
        self.out.push(b'"');
        push_text(bytes, Quotes::Double, self.out);
        self.out.push(b'"');
        push_str(self.palette.reset, self.out);
        if truncated {
            push_str("…", self.out);
        }
    }
}

fn push_char(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'\'' => out.extend_from_slice(br"\'"),
        // A byte that is not ASCII is not a character by itself.
        0x80.. => push_byte(byte, out),
        _ => push_text(&[byte], Quotes::None, out),
    }
}

#[cfg(test)]
mod tests;
