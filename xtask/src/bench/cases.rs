//! What is measured: the cases, and which one each is compared with.

use std::fmt;

/// Who traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// With this subcommand.
    Faultline(&'static str),
    Bpftrace,
}

/// Which function of the target is called, and so which cases belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Number,
    Text,
    Return,
    Count,
    Latency,
    Threads,
}

impl Group {
    pub(super) const ALL: [Self; 6] =
        [Self::Number, Self::Text, Self::Return, Self::Count, Self::Latency, Self::Threads];

    /// The function of xtask/bench/hits.c.
    pub(super) fn function(self) -> &'static str {
        match self {
            Self::Number | Self::Count => "nop5",
            Self::Text => "text",
            Self::Return | Self::Latency => "back",
            Self::Threads => "both",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Number => "one u64 argument",
            Self::Text => "a string of 40 bytes, resident",
            Self::Return => "the return value",
            Self::Count => "the number of calls",
            Self::Latency => "a histogram of durations",
            Self::Threads => "one u64 argument, from two threads on two CPUs",
        }
    }
}

/// One way to run the target.
pub(super) struct Case {
    pub(super) group: Group,
    pub(super) name: &'static str,
    pub(super) what: What,
}

/// What is at the called function.
pub(super) enum What {
    Nothing,
    /// A tracer with its program; `PROG` stands for the target's path.
    Tracer {
        tool: Tool,
        program: &'static str,
        /// Kernel links that it holds when it is attached.
        links: usize,
        /// Lines that it should write a call.
        lines: u64,
    },
}

impl Case {
    /// Lines that the tracer should write a call.
    pub(super) fn lines(&self) -> u64 {
        match self.what {
            What::Nothing => 0,
            What::Tracer { lines, .. } => lines,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.group.title(), self.name)
    }
}

pub(super) const EMPTY: &str = "empty program";
pub(super) const FAULTLINE: &str = "faultline";
pub(super) const BPFTRACE: &str = "bpftrace";

pub(super) const CASES: &[Case] = &[
    Case { group: Group::Number, name: "no probe", what: What::Nothing },
    bpftrace(Group::Number, EMPTY, "uprobe:PROG:nop5 { }", 1, 0),
    faultline(Group::Number, "PROG:nop5(v: u64)", 1, 1),
    bpftrace(Group::Number, BPFTRACE, r#"uprobe:PROG:nop5 { printf("%lu\n", arg0) }"#, 1, 1),
    bpftrace(Group::Text, EMPTY, "uprobe:PROG:text { }", 1, 0),
    faultline(Group::Text, "PROG:text(s: str)", 1, 1),
    bpftrace(Group::Text, BPFTRACE, r#"uprobe:PROG:text { printf("%s\n", str(arg0)) }"#, 1, 1),
    bpftrace(Group::Return, EMPTY, "uretprobe:PROG:back { }", 1, 0),
    // It always prints entry and return, and the duration of the call.
    faultline(Group::Return, "PROG:back -> u64", 2, 2),
    bpftrace(Group::Return, BPFTRACE, r#"uretprobe:PROG:back { printf("%lu\n", retval) }"#, 1, 1),
    bpftrace(
        Group::Return,
        "bpftrace, entry and duration too",
        r#"uprobe:PROG:back { @begin[tid] = nsecs; printf("call\n") }
           uretprobe:PROG:back { printf("%lu %lu\n", retval, nsecs - @begin[tid]) }"#,
        2,
        2,
    ),
    bpftrace(Group::Count, EMPTY, "uprobe:PROG:nop5 { }", 1, 0),
    summed(Group::Count, "count", "PROG:nop5", 1),
    bpftrace(Group::Count, BPFTRACE, "uprobe:PROG:nop5 { @ = count(); }", 1, 0),
    bpftrace(Group::Latency, EMPTY, "uprobe:PROG:back { } uretprobe:PROG:back { }", 2, 0),
    summed(Group::Latency, "latency", "PROG:back", 2),
    bpftrace(
        Group::Latency,
        BPFTRACE,
        r#"uprobe:PROG:back { @begin[tid] = nsecs; }
           uretprobe:PROG:back { @ = hist(nsecs - @begin[tid]); delete(@begin, tid); }"#,
        2,
        0,
    ),
    bpftrace(Group::Threads, EMPTY, "uprobe:PROG:nop5 { }", 1, 0),
    faultline(Group::Threads, "PROG:nop5(v: u64)", 1, 1),
    bpftrace(Group::Threads, BPFTRACE, r#"uprobe:PROG:nop5 { printf("%lu\n", arg0) }"#, 1, 1),
];

const fn faultline(group: Group, program: &'static str, links: usize, lines: u64) -> Case {
    let what = What::Tracer { tool: Tool::Faultline("trace"), program, links, lines };
    Case { group, name: FAULTLINE, what }
}

const fn summed(group: Group, command: &'static str, program: &'static str, links: usize) -> Case {
    let what = What::Tracer { tool: Tool::Faultline(command), program, links, lines: 0 };
    Case { group, name: FAULTLINE, what }
}

const fn bpftrace(
    group: Group,
    name: &'static str,
    program: &'static str,
    links: usize,
    lines: u64,
) -> Case {
    Case { group, name, what: What::Tracer { tool: Tool::Bpftrace, program, links, lines } }
}

/// A process measured from its start to its end.
pub(super) struct Start {
    pub(super) name: &'static str,
    pub(super) tool: Tool,
    pub(super) args: &'static [&'static str],
}

pub(super) const MANY_FAULTLINE: &str = "faultline: 10,000 functions, no call";
pub(super) const MANY_BPFTRACE: &str = "bpftrace: 10,000 functions, no call";

pub(super) const STARTS: &[Start] = &[
    Start {
        name: "faultline: 1 probe, -c true",
        tool: Tool::Faultline("trace"),
        args: &["trace", "-c", "true", "PROG:nop5(v: u64)"],
    },
    Start {
        name: "bpftrace: 1 probe, -c true",
        tool: Tool::Bpftrace,
        args: &["-c", "/bin/true", "-e", r#"uprobe:PROG:nop5 { printf("%lu\n", arg0) }"#],
    },
    Start {
        name: "bpftrace: no probe, BEGIN { exit() }",
        tool: Tool::Bpftrace,
        args: &["-e", "BEGIN { exit() }"],
    },
    Start {
        name: MANY_FAULTLINE,
        tool: Tool::Faultline("count"),
        args: &["count", "-c", "true", "MANY:fn_*"],
    },
    Start {
        name: MANY_BPFTRACE,
        tool: Tool::Bpftrace,
        args: &["-c", "/bin/true", "-e", "uprobe:MANY:fn_* { @[func] = count(); }"],
    },
    Start {
        name: "faultline: the same, 200,000 calls",
        tool: Tool::Faultline("count"),
        args: &["count", "-c", "MANY 20", "MANY:fn_*"],
    },
    Start {
        name: "bpftrace: the same, 200,000 calls",
        tool: Tool::Bpftrace,
        args: &["-c", "MANY 20", "-e", "uprobe:MANY:fn_* { @[func] = count(); }"],
    },
];
