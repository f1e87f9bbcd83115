//! What can go wrong with a whole spec. A problem with one function is a
//! [`SkipReason`](super::SkipReason).
//!
//! An error names the file and the reason, and ends with a hint in parentheses where there is one.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::process::Pid;

/// Why a spec could not be resolved at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The process does not exist, or ended while it was inspected.
    #[error("no process {pid}")]
    NoSuchProcess {
        /// As given.
        pid: Pid,
    },
    /// `/proc` does not let this user inspect the process.
    #[error(
        "no permission to inspect process {pid} (`{}` needs root, or the same user and CAP_SYS_PTRACE)",
        path.display()
    )]
    ProcessDenied {
        /// As given.
        pid: Pid,
        /// What could not be read.
        path: PathBuf,
    },
    /// `/proc` could not be read for another reason.
    #[error("failed to read `{}` of process {pid}", path.display())]
    Process {
        /// As given.
        pid: Pid,
        /// What could not be read.
        path: PathBuf,
        /// As the system gave it.
        source: io::Error,
    },
    /// No file goes by the target's name.
    #[error("no {kind} `{target}`{hint}")]
    NoSuchTarget {
        /// As written.
        target: String,
        /// What kind of name it is.
        kind: TargetKind,
        /// A similar name, or where it was searched for.
        hint: Hint,
    },
    /// The file exists but could not be opened or read.
    #[error("failed to read `{}`", path.display())]
    Unreadable {
        /// As the view sees it.
        path: PathBuf,
        /// As the system gave it.
        source: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("`{}` is a {kind}, not a program or library", path.display())]
    NotAFile {
        /// As the view sees it.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A script: there is no machine code in it.
    #[error(
        "`{}` is a script, run by `{interpreter}` (probe the interpreter, with -p to trace one run)",
        path.display()
    )]
    Script {
        /// As the view sees it.
        path: PathBuf,
        /// The rest of its `#!` line.
        interpreter: String,
    },
    /// The file does not begin as an ELF file does.
    #[error("`{}` is not an ELF file", path.display())]
    NotElf {
        /// As the view sees it.
        path: PathBuf,
    },
    /// ELF, but nothing in it can be probed on this machine.
    #[error("`{}` cannot be probed: {reason}", path.display())]
    WrongKind {
        /// As the view sees it.
        path: PathBuf,
        /// 32-bit, another machine's, relocatable, …
        reason: String,
    },
    /// ELF that is inconsistent or truncated.
    #[error("`{}` is corrupt: {reason}", path.display())]
    Corrupt {
        /// As the view sees it.
        path: PathBuf,
        /// The first inconsistency found.
        reason: String,
    },
    /// The pattern is invalid.
    #[error("`{pattern}` is not a valid {kind}: {reason}")]
    BadPattern {
        /// As written.
        pattern: String,
        /// `glob` or `regular expression`.
        kind: &'static str,
        /// In one line.
        reason: String,
    },
    /// Matching the pattern would take too long.
    #[error("finding functions {what} would take too long (use fewer and shorter repetitions)")]
    TooComplex {
        /// The pattern as the user would recognise it, quoted.
        what: String,
    },
    /// The file is fine, but has no such function.
    #[error("no function {what} in {file}{hint}")]
    NoSuchFunction {
        /// The pattern as the user would recognise it, quoted.
        what: String,
        /// The file's base name.
        file: String,
        /// A near name, and what is known about missing symbols.
        hint: Hint,
    },
}

/// What a target's text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// A path: it has a slash.
    File,
    /// A library's name.
    Library,
    /// Any other name.
    Command,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Library => "library",
            Self::Command => "command",
        })
    }
}

/// What the user may have meant. It prints as the end of an error message; an empty one prints nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint {
    /// A name that exists and is similar to the one given.
    pub near: Option<String>,
    /// Another remark, as a phrase.
    pub note: Option<String>,
}

impl Hint {
    pub(super) fn near(name: impl Into<String>) -> Self {
        Self { near: Some(name.into()), note: None }
    }

    pub(super) fn note(note: impl Into<String>) -> Self {
        Self { near: None, note: Some(note.into()) }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(near) = &self.near {
            write!(f, "; did you mean `{near}`?")?;
        }
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a suggestion reads on and that any other hint stands in parentheses.
    #[test]
    fn hints_are_worded() {
        let error = |hint| ResolveError::NoSuchFunction {
            what: "`SSL_wirte`".to_owned(),
            file: "libssl.so.3".to_owned(),
            hint,
        };
        assert_eq!(
            error(Hint::near("SSL_write")).to_string(),
            "no function `SSL_wirte` in libssl.so.3; did you mean `SSL_write`?"
        );
        assert_eq!(
            error(Hint::note("stripped")).to_string(),
            "no function `SSL_wirte` in libssl.so.3 (stripped)"
        );
    }
}
