//! How values of events were read, and what a summary says about all reads.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use serde_json::Value;

use super::{number, sum};

/// How one value of an event was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Whole(String),
    Truncated(String),
    Unread(String),
}

pub use Read::{Truncated, Unread, Whole};

impl Read {
    /// The outcome for the argument `name` (or `ret`) of an event.
    pub fn of(event: &Value, name: &str) -> Self {
        let value = if name == "ret" { &event["ret"] } else { &event["args"][name] };
        let truncated = event["truncated"].as_array().is_some_and(|t| t.contains(&name.into()));
        match (value, event["unread"][name].as_str()) {
            (Value::Null, Some(errno)) => Unread(errno.to_owned()),
            (Value::String(text), None) if truncated => Truncated(text.clone()),
            (Value::String(text), None) => Whole(text.clone()),
            _ => panic!("`{name}` is neither read nor unread: {event}"),
        }
    }
}

pub fn whole(text: &str) -> Read {
    Whole(text.to_owned())
}

pub fn truncated(text: &str) -> Read {
    Truncated(text.to_owned())
}

pub fn unread(errno: &str) -> Read {
    Unread(errno.to_owned())
}

/// What a summary says about reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    pub resident: u64,
    pub faulted: u64,
    pub truncated: u64,
    pub failed: u64,
}

/// Asserts the outcomes of the reads, and that each failure has its errno.
#[track_caller]
pub fn assert_reads(summary: &Value, expected: Reads) {
    let reads = &summary["reads"];
    let found = Reads {
        resident: number(reads, "resident"),
        faulted: number(reads, "faulted"),
        truncated: number(reads, "truncated"),
        failed: number(reads, "failed"),
    };
    assert_eq!(found, expected, "{reads}");
    assert_eq!(found.failed, sum(&reads["failed_by_errno"]), "{reads}");
}
