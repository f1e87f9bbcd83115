//! Pages that are not resident: only on disk, or evicted again while they are read.

use std::{path::Path, process::Command};

use super::{
    Read, Reads, assert_reads, command_line, disk_file,
    support::{number, target},
    trace_command, unread, whole,
};

/// Check that a string on each of 64 pages that are only on disk is read, and that each is counted as
/// faulted in; and that a bpftrace is given the same pages for comparison.
#[test]
fn cold_pages_are_read() {
    let program = target("cold_pages.c", &[]);
    let path = disk_file("cold_pages");
    let run = trace_command(&program, &[path.to_str().unwrap()], &["take(text: str)"]);
    assert!(run.stderr.contains("cold 64\n"), "the pages were not cold: {}", run.stderr);
    let texts: Vec<_> = run.events().iter().map(|event| Read::of(event, "text")).collect();
    let expected: Vec<_> = (0..64).map(cold_string).map(Read::Whole).collect();
    assert_eq!(texts, expected);
    let summary = run.summary();
    assert_eq!(number(&summary, "hits"), 64);
    assert_reads(&summary, Reads { faulted: 64, ..Reads::default() });
    assert_eq!(number(&summary["faults"], "count"), 64);

    let right = cold_pages_that_bpftrace_reads(&program);
    println!("cold pages read: faultline 64 of 64, bpftrace {right} of 64");
}

fn cold_string(page: usize) -> String {
    format!("the string of page {page}")
}

/// How many of the 64 strings bpftrace shows, given the same pages.
fn cold_pages_that_bpftrace_reads(program: &Path) -> usize {
    let peers = std::env::var_os("FAULTLINE_PEERS")
        .expect("FAULTLINE_PEERS names no folder with bpftrace (run `cargo xtask test`)");
    let path = disk_file("cold_pages_bpftrace");
    let script = format!("uprobe:{}:take {{ printf(\"<%s>\\n\", str(arg0)); }}", program.display());
    let run = Command::new(Path::new(&peers).join("bpftrace"))
        .args(["-c", &command_line(program, &[path.to_str().unwrap()]), "-e", &script])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "bpftrace: {}", String::from_utf8_lossy(&run.stderr));
    assert!(output.contains("cold 64\n"), "the pages were not cold: {output}");
    let shown: Vec<_> = output.lines().filter(|line| line.starts_with('<')).collect();
    assert_eq!(shown.len(), 64, "bpftrace did not see every call: {output}");
    shown
        .iter()
        .enumerate()
        .filter(|(page, line)| **line == format!("<{}>", cold_string(*page)))
        .count()
}

/// Check strings on pages that another thread keeps evicting: each is right, or unread with a reason; never
/// empty, never truncated. (Bug: an evicted page was blamed on the next one, which may not even be mapped:
/// EFAULT.)
#[test]
fn evicted_pages() {
    const CALLS: usize = 5000;
    let program = target("evicted.c", &[]);
    let path = disk_file("evicted");
    let probes = ["within(text: str)", "across(text: str)"];
    let run = trace_command(&program, &[path.to_str().unwrap(), &CALLS.to_string()], &probes);
    for (function, text) in
        [("within", "a string within a page"), ("across", "a string across two pages")]
    {
        let label = format!("evicted:{function}");
        let events: Vec<_> =
            run.events().into_iter().filter(|event| event["probe"] == label.as_str()).collect();
        assert_eq!(events.len(), CALLS);
        for event in events {
            let read = Read::of(&event, "text");
            // Never EFAULT: the memory stays mapped.
            assert!(read == whole(text) || read == unread("EAGAIN"), "{event}");
        }
    }
    let summary = run.summary();
    let reads = &summary["reads"];
    assert!(number(reads, "faulted") > 0, "nothing was thrown out: {reads}");
    let all = ["resident", "faulted", "truncated", "failed"].map(|name| number(reads, name));
    assert_eq!(all.iter().sum::<u64>(), 2 * CALLS as u64, "{reads}");
}
