//! What can go wrong between us and the kernel.

use std::{io, path::PathBuf};

use thiserror::Error;

use faultline_resolve::{Pid, process::ForeignProc};
use faultline_spec::units::grouped;

/// A failed step of loading or attaching.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The embedded eBPF object is not the one this program was built with.
    #[error("the eBPF object has no {kind} `{name}`")]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The maps could not be created, or the object could not be parsed.
    #[error("failed to create the eBPF maps")]
    Maps(#[source] Box<aya::EbpfError>),
    /// The kernel's verifier or JIT refused a program.
    #[error(
        "failed to load the eBPF program `{program}`: {reason} (FAULTLINE_LOG=debug shows the \
         verifier's log)"
    )]
    Load {
        /// Its name.
        program: &'static str,
        /// The verifier's last line, and the errno.
        reason: String,
    },
    /// A map operation failed.
    #[error("failed to {action} the map `{map}`: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// All of a file's breakpoints were refused, for the same reason.
    #[error("failed to attach to {}", file.display())]
    Attach {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's features could not be determined.
    #[error("failed to determine what this kernel supports")]
    Features {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Where the kernel keeps what following children needs could not be determined.
    #[error("children cannot be followed: the kernel's type information lacks what is needed")]
    Layout {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system cannot start another thread.
    #[error("failed to start a thread")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `/proc` belongs to another PID namespace than the one that faultline runs in.
    #[error(transparent)]
    ForeignProc(#[from] ForeignProc),
    /// A process runs in a PID namespace inside faultline's.
    #[error(
        "process {pid} runs in a PID namespace inside faultline's, so its calls cannot be attributed to it \
         (run faultline on the host, or in that namespace)"
    )]
    NestedNamespace {
        /// The process.
        pid: Pid,
    },
    /// The PID namespace of a process could not be read.
    #[error("failed to read the PID namespace of process {pid}")]
    PidNamespace {
        /// The process.
        pid: Pid,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Each link takes an open file; before Linux 6.6, each breakpoint takes a link.
    #[error(
        "attaching {} {} needs a limit of {} open files, and the limit is {} (ulimit -n)",
        grouped(*probes as u64),
        if *probes == 1 { "probe" } else { "probes" },
        grouped(*needed),
        grouped(*limit),
    )]
    TooManyLinks {
        /// Probes to attach.
        probes: usize,
        /// The limit that would be enough: the links, the files already open, and some to spare.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
}
