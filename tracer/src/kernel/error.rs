//! What can go wrong between us and the kernel.

use std::{io, path::PathBuf};

use thiserror::Error;

/// A failed step of loading or attaching.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The object that this program carries is not what it was built with.
    #[error("the eBPF object has no {kind} `{name}`")]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The maps could not be created, or the object not be parsed.
    #[error("failed to create the eBPF maps: {0}")]
    Maps(#[source] Box<aya::EbpfError>),
    /// The kernel's verifier or JIT refused a program.
    #[error("failed to load the eBPF program `{program}`: {reason}")]
    Load {
        /// Its name.
        program: &'static str,
        /// The last line that the verifier said, and the errno.
        reason: String,
        /// The full log.
        #[source]
        source: Box<aya::programs::ProgramError>,
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
    /// A file's breakpoints were refused, all of them and for the same reason.
    #[error("failed to attach to {}: {source}", file.display())]
    Attach {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
