//! What can go wrong with a whole spec ([`ResolveError`]) and with one function ([`SkipReason`]).
//!
//! An error names the file and the reason, and ends with a hint in parentheses where there is one.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::address::ElfAddr;
use super::process::Pid;

/// Why a spec could not be resolved at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The process does not exist, or it ended while it was being looked at.
    #[error("no process {pid}")]
    NoSuchProcess {
        /// As given.
        pid: Pid,
    },
    /// `/proc` does not let this user look at the process.
    #[error(
        "not allowed to look at process {pid} (`{}` needs root, or the same user and CAP_SYS_PTRACE)",
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
    #[error("no {kind} `{target}`{}", Hint(hint))]
    NoSuchTarget {
        /// As written.
        target: String,
        /// What it was looked for as.
        kind: &'static str,
        /// A near name, or where it was looked for.
        hint: Option<String>,
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
    /// ELF that contradicts itself, or ends early.
    #[error("`{}` is corrupt: {reason}", path.display())]
    Corrupt {
        /// As the view sees it.
        path: PathBuf,
        /// The first contradiction that was met.
        reason: String,
    },
    /// The pattern is not one.
    #[error("`{pattern}` is not a valid {kind}: {reason}")]
    BadPattern {
        /// As written.
        pattern: String,
        /// `glob` or `regular expression`.
        kind: &'static str,
        /// In one line.
        reason: String,
    },
    /// The file is fine, but has no such function.
    #[error("no function {what} in {file}{}", Hint(hint))]
    NoSuchFunction {
        /// The pattern as the user would recognise it, quoted.
        what: String,
        /// The file's base name.
        file: String,
        /// `; did you mean …?`, and what is known about missing symbols.
        hint: Option<String>,
    },
}

/// Appends a hint: `; did you mean …` reads on, anything else goes in parentheses.
struct Hint<'a>(&'a Option<String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(hint) if hint.starts_with(';') => f.write_str(hint),
            Some(hint) => write!(f, " ({hint})"),
        }
    }
}

/// Why one function that a spec names cannot be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The file calls the function but another file has its code.
    Imported {
        /// The library that defines it, where it could be found.
        library: Option<String>,
    },
    /// The symbol is a resolver that runs once, at load, and picks an implementation.
    IfuncResolver {
        /// The implementations' names, where the file's symbols have them.
        implementations: Vec<String>,
        /// Whether the file's local symbols are available: if not, they would show more.
        has_local_symbols: bool,
    },
    /// A variable.
    Data,
    /// The address has no code in the file.
    NotExecutable {
        /// Of the instruction that was to be probed.
        address: ElfAddr,
    },
    /// A part that the compiler split off a function, reached by a jump and not by a call.
    Fragment {
        /// The function that it belongs to.
        function: String,
    },
    /// `+OFFSET` is not inside the function.
    OffsetBeyondFunction {
        /// As written.
        offset: u64,
        /// The function's size.
        size: u64,
    },
    /// A return probe where no return address is on top of the stack: it would break the target.
    NoReturnAddress {
        /// Why there is none.
        why: &'static str,
    },
}

impl SkipReason {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Imported { library: Some(library) } => {
                Some(format!("probe it in the library that defines it: `{library}`"))
            }
            Self::Imported { library: None } => {
                Some("probe it in the library that defines it".to_owned())
            }
            Self::IfuncResolver { implementations, .. } if !implementations.is_empty() => {
                Some(format!("probe what it picks from: {}", quoted(implementations)))
            }
            Self::IfuncResolver { has_local_symbols: false, .. } => Some(
                "installing the file's debug symbols would show the implementations".to_owned(),
            ),
            Self::Fragment { function } => Some(format!("probe `{function}`")),
            Self::OffsetBeyondFunction { size, .. } => Some(match size.checked_sub(1) {
                Some(last) => format!("the last byte is at +{last:#x}"),
                None => "only +0 can be probed".to_owned(),
            }),
            Self::IfuncResolver { .. }
            | Self::Data
            | Self::NotExecutable { .. }
            | Self::NoReturnAddress { .. } => None,
        }
    }
}

/// The names in backquotes, shortened after a few.
fn quoted(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text =
        names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(SHOWN).filter(|&more| more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imported { .. } => f.write_str("imported: its code is in another file")?,
            Self::IfuncResolver { .. } => {
                f.write_str("an indirect function: its code is picked when the file is loaded")?;
            }
            Self::Data => f.write_str("a variable, not a function")?,
            Self::NotExecutable { address } => {
                write!(f, "there is no code in the file at address {address}")?;
            }
            Self::Fragment { .. } => {
                f.write_str("a cold part of a function, which is jumped to and not called")?;
            }
            Self::OffsetBeyondFunction { offset, size } => {
                write!(f, "offset {offset:#x} is beyond the function's {size:#x} bytes")?;
            }
            Self::NoReturnAddress { why } => {
                write!(f, "a return probe would break the program here: {why}")?;
            }
        }
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
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
        let error = |hint: &str| ResolveError::NoSuchFunction {
            what: "`SSL_wirte`".to_owned(),
            file: "libssl.so.3".to_owned(),
            hint: Some(hint.to_owned()),
        };
        assert_eq!(
            error("; did you mean `SSL_write`?").to_string(),
            "no function `SSL_wirte` in libssl.so.3; did you mean `SSL_write`?"
        );
        assert_eq!(
            error("stripped").to_string(),
            "no function `SSL_wirte` in libssl.so.3 (stripped)"
        );
    }

    /// Check that a reason carries its hint, and a long list is cut.
    #[test]
    fn reasons_carry_hints() {
        let reason = SkipReason::Imported { library: Some("libc.so.6".to_owned()) };
        assert_eq!(
            reason.to_string(),
            "imported: its code is in another file (probe it in the library that defines it: `libc.so.6`)"
        );
        let reason = SkipReason::IfuncResolver {
            implementations: (0..8).map(|n| format!("f{n}")).collect(),
            has_local_symbols: true,
        };
        assert!(reason.to_string().ends_with("`f5` and 2 more)"), "{reason}");
    }
}
