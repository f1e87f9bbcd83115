//! Reading the memory of a traced program on the real kernel. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

mod cold;
mod edges;
mod stuck;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use support::{Finished, faultline, number, sum};

/// A file on a real disk, where pages can be dropped from the page cache.
fn disk_file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("files");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// `PROGRAM ARGS…` as one command line.
fn command_line(program: &Path, args: &[&str]) -> String {
    shlex::try_join([program.to_str().unwrap()].into_iter().chain(args.iter().copied())).unwrap()
}

/// Traces a command with these probes of it (`FUNCTION(ARGS)`), as JSON. Kernels without multi links
/// have to be forced to fault pages in; on others that changes nothing.
fn trace_command(program: &Path, args: &[&str], probes: &[&str]) -> Finished {
    let probes = probes.iter().map(|probe| format!("{}:{probe}", program.display()));
    let options = ["trace", "--json", "--force", "-c"].map(str::to_owned).into_iter();
    faultline(options.chain([command_line(program, args)]).chain(probes)).run().succeeded()
}

/// How one value of an event was read.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Whole(String),
    Truncated(String),
    Unread(String),
}

use Read::{Truncated, Unread, Whole};

impl Read {
    /// Of the argument `name` (or `ret`) of an event.
    fn of(event: &Value, name: &str) -> Self {
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

fn whole(text: &str) -> Read {
    Whole(text.to_owned())
}

fn truncated(text: &str) -> Read {
    Truncated(text.to_owned())
}

fn unread(errno: &str) -> Read {
    Unread(errno.to_owned())
}

// Cold pages

/// What a summary says of reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reads {
    resident: u64,
    faulted: u64,
    truncated: u64,
    failed: u64,
}

/// Asserts what became of the reads, and that each failure has its errno.
#[track_caller]
fn assert_reads(summary: &Value, expected: Reads) {
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

// Edges
