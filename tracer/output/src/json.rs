//! Events as JSON, one object a line, for programs.
//!
//! The fields and their order are a contract: `type`, `time`, `probe`, `kind`, `pid`, `tid`,
//! `comm`, `cpu`, then `args` of an entry, or `ret` (if the probe has a type for it) and
//! `duration_ns` of a return. A value that is not simply what was read is named in
//! `unread`, `truncated` or `escaped`; the return value is named `ret`, and the task's name
//! `comm`. (An argument that is itself called `comm` is `args.comm` in `escaped`: no argument's
//! name has a dot.)

mod line;
mod table;

use std::io;

pub use self::line::{json_line, json_text};
use crate::{
    Sink, Summary, Table,
    digits::push_decimal,
    escape::{push_json, push_json_text},
    per_probe::PerProbe,
    time::{TimeText, utc},
};
use faultline_engine::collect::decode::{Errno, Event, EventKind};
use faultline_plan::PlannedProbe;
use faultline_spec::types::{Show, Value};

/// Writes events as JSON.
#[derive(Debug)]
pub struct JsonSink {
    time: TimeText<20>,
    /// The name that the user gave each probe; none if empty.
    names: Vec<std::sync::Arc<str>>,
    probes: PerProbe<ProbeText>,
}

/// What is the same in each line of a probe.
#[derive(Debug)]
struct ProbeText {
    /// From the end of the time to the process's number.
    entry: Vec<u8>,
    ret: Vec<u8>,
    /// `"name":` of each argument; all but the first with a comma before.
    names: Vec<Vec<u8>>,
}

/// Remarks on the values of one event: in each set, one bit per slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Remarks {
    unread: u32,
    truncated: u32,
    escaped: u32,
    comm_escaped: bool,
}

impl Default for JsonSink {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonSink {
    /// A new sink.
    #[must_use]
    pub fn new() -> Self {
        Self::with_names(Vec::new())
    }

    /// A sink that also writes the user's name for each probe, by its id, as `name`.
    #[must_use]
    pub fn with_names(names: Vec<std::sync::Arc<str>>) -> Self {
        Self { time: TimeText::new(utc), names, probes: PerProbe::default() }
    }
}

impl Sink for JsonSink {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let probe = self.probes.get(event.id, || {
            let name = self.names.get(event.id.0 as usize).map(|name| &**name);
            ProbeText::new(event.probe, name)
        });
        let mut remarks = Remarks::default();
        out.extend_from_slice(br#"{"type":"event","time":""#);
        self.time.push::<9>(event.time, out);
        out.extend_from_slice(match event.kind {
            EventKind::Entry => &probe.entry,
            EventKind::Return { .. } => &probe.ret,
        });
        push_decimal(event.pid, out);
        out.extend_from_slice(br#","tid":"#);
        push_decimal(event.tid, out);
        out.extend_from_slice(br#","comm":""#);
        remarks.comm_escaped = push_json(event.comm, out);
        out.extend_from_slice(br#"","cpu":"#);
        push_decimal(event.cpu, out);
        match event.kind {
            EventKind::Entry => {
                out.extend_from_slice(br#","args":{"#);
                for (slot, ((_, value), name)) in event.values().zip(&probe.names).enumerate() {
                    out.extend_from_slice(name);
                    push_value(slot, value, &mut remarks, out);
                }
                out.push(b'}');
            }
            EventKind::Return { duration_ns } => {
                if let Some(value) = event.ret() {
                    out.extend_from_slice(br#","ret":"#);
                    push_value(0, value, &mut remarks, out);
                }
                out.extend_from_slice(br#","duration_ns":"#);
                push_decimal(duration_ns, out);
            }
        }
        if remarks != Remarks::default() {
            remarks.push(event, out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn table(&self, table: &Table, out: &mut Vec<u8>) -> io::Result<()> {
        table::push_table(table, out)
    }

    fn summary(&self, summary: &Summary, out: &mut Vec<u8>) -> io::Result<()> {
        json_line(summary, out)
    }
}

impl ProbeText {
    fn new(probe: &PlannedProbe, own_name: Option<&str>) -> Self {
        let head = |kind: &str| {
            let mut text = br#"Z","probe":""#.to_vec();
            push_json_text(&probe.label, &mut text);
            if let Some(name) = own_name {
                text.extend_from_slice(br#"","name":""#);
                push_json_text(name, &mut text);
            }
            text.extend_from_slice(br#"","kind":""#);
            text.extend_from_slice(kind.as_bytes());
            text.extend_from_slice(br#"","pid":"#);
            text
        };
        let name = |(slot, name): (usize, &str)| {
            let mut text = if slot == 0 { Vec::new() } else { b",".to_vec() };
            push_name(name, &mut text);
            text.push(b':');
            text
        };
        Self {
            entry: head("entry"),
            ret: head("return"),
            names: probe.args.iter().map(|arg| &*arg.name).enumerate().map(name).collect(),
        }
    }
}

fn push_name(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    push_json_text(name, out);
    out.push(b'"');
}

/// Appends a value as JSON, and notes what cannot be seen in it.
#[inline]
fn push_value(
    slot: usize,
    value: Result<Value<'_>, Errno>,
    remarks: &mut Remarks,
    out: &mut Vec<u8>,
) {
    match value {
        Ok(value) => value.show(&mut Json { slot, remarks, out }),
        Err(_) => {
            out.extend_from_slice(b"null");
            remarks.unread |= bit(slot);
        }
    }
}

/// Values for programs.
struct Json<'a> {
    slot: usize,
    remarks: &'a mut Remarks,
    out: &'a mut Vec<u8>,
}

impl Show for Json<'_> {
    #[inline]
    fn plain(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    #[inline]
    fn word(&mut self, text: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }

    #[inline]
    fn character(&mut self, byte: u8) {
        self.text(&[byte], false);
    }

    #[inline]
    fn text(&mut self, bytes: &[u8], truncated: bool) {
        self.out.push(b'"');
        if push_json(bytes, self.out) {
            self.remarks.escaped |= bit(self.slot);
        }
        self.out.push(b'"');
        if truncated {
            self.remarks.truncated |= bit(self.slot);
        }
    }
}

/// A probe reads at most 16 values.
const fn bit(slot: usize) -> u32 {
    1_u32.wrapping_shl(slot as u32)
}

impl Remarks {
    fn push(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        if self.unread != 0 {
            out.extend_from_slice(br#","unread":{"#);
            let mut comma = Comma::default();
            for (_, name, value) in named(event, self.unread) {
                let Err(errno) = value else { continue };
                comma.push(out);
                push_name(name, out);
                out.extend_from_slice(br#":""#);
                out.extend_from_slice(errno.name().as_bytes());
                out.push(b'"');
            }
            out.push(b'}');
        }
        if self.truncated != 0 {
            out.extend_from_slice(br#","truncated":["#);
            let mut comma = Comma::default();
            for (_, name, _) in named(event, self.truncated) {
                comma.push(out);
                push_name(name, out);
            }
            out.push(b']');
        }
        if self.escaped != 0 || self.comm_escaped {
            out.extend_from_slice(br#","escaped":["#);
            let mut comma = Comma::default();
            if self.comm_escaped {
                comma.push(out);
                push_name("comm", out);
            }
            for (_, name, _) in named(event, self.escaped) {
                comma.push(out);
                push_name(if name == "comm" { "args.comm" } else { name }, out);
            }
            out.push(b']');
        }
    }
}

/// The values in `slots`, with the names that remarks give them.
fn named<'a>(
    event: &Event<'a>,
    slots: u32,
) -> impl Iterator<Item = (usize, &'a str, Result<Value<'a>, Errno>)> + use<'a> {
    let ret = event.ret().map(|value| ("ret", value));
    let values = event.values().chain(ret).enumerate();
    values
        .map(|(slot, (name, value))| (slot, name, value))
        .filter(move |(slot, ..)| slots & bit(*slot) != 0)
}

/// Writes a comma, but not the first time.
#[derive(Default)]
struct Comma(bool);

impl Comma {
    fn push(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.0, true) {
            out.push(b',');
        }
    }
}

#[cfg(test)]
mod tests;
