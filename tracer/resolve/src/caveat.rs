//! Why a probe sees fewer calls than its user expects, or none, or more.
//!
//! One enum has all of them, whichever stage finds them: symbols and debug information, the mappings of a
//! process, a run's own figures. Each prints itself as a sentence about a function, without a subject.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::process::Pid;

/// What a user has to know about a probe's hits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Caveat {
    /// The compiler made further functions of it, and these are not probed.
    Copies {
        /// As a probe can name them.
        names: Vec<Arc<str>>,
    },
    /// Other functions have the same code, so that their calls are hits, too.
    SameCode {
        /// As a probe can name them.
        names: Vec<Arc<str>>,
    },
    /// The compiler inlined it: these calls execute no code of the function.
    Inlined {
        /// In how many places.
        places: u64,
    },
    /// The program is statically linked, so it uses no library.
    Static {
        /// Its file.
        program: PathBuf,
    },
    /// The program uses another C library than the one that is probed.
    OtherLibc {
        /// Its file.
        program: PathBuf,
        /// The loader, which is that C library, too.
        loader: PathBuf,
    },
    /// The program does not ask for the library.
    NotLinked {
        /// Its file.
        program: PathBuf,
    },
    /// A process runs an older version of the file, which has been replaced.
    Replaced {
        /// The process.
        pid: Pid,
    },
    /// A process maps another file of the same name.
    OtherFile {
        /// The process.
        pid: Pid,
        /// The file, as the process names it.
        path: PathBuf,
    },
    /// None of the traced processes maps the file.
    NotMapped {
        /// One of them; `None` if every process was traced.
        pid: Option<Pid>,
    },
    /// A process maps the file, but not where the function is: something else has taken its place.
    Moved {
        /// The process.
        pid: Pid,
    },
    /// A traced process started others, which are not traced.
    Children {
        /// The process.
        pid: Pid,
    },
    /// Nothing else was found: it was not called.
    NotCalled {
        /// The process ran before the probe was attached.
        ran_before: bool,
    },
}

impl Caveat {
    /// Its name in JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Copies { .. } => "copies",
            Self::SameCode { .. } => "same_code",
            Self::Inlined { .. } => "inlined",
            Self::Static { .. } => "static",
            Self::OtherLibc { .. } => "other_libc",
            Self::NotLinked { .. } => "not_linked",
            Self::Replaced { .. } => "replaced",
            Self::OtherFile { .. } => "other_file",
            Self::NotMapped { .. } => "not_mapped",
            Self::Moved { .. } => "moved",
            Self::Children { .. } => "children",
            Self::NotCalled { .. } => "not_called",
        }
    }

    /// Whether it matters only if there were no hits.
    #[must_use]
    pub fn explains_no_hits(&self) -> bool {
        !matches!(self, Self::Copies { .. } | Self::SameCode { .. })
    }
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies { names } => write!(
                f,
                "the compiler made {} of it, whose calls are not seen: {} (probe {} too)",
                if names.len() == 1 { "a copy" } else { "copies" },
                Names(names),
                if names.len() == 1 { "it" } else { "them" },
            ),
            Self::SameCode { names } => {
                let (are, their) =
                    if names.len() == 1 { ("is", "its") } else { ("are", "their") };
                write!(f, "{} {are} the same code, so {their} calls count here", Names(names))
            }
            Self::Inlined { places } => write!(
                f,
                "the compiler inlined it in {places} {}, where its calls cannot be seen (probe what \
                 calls it)",
                if *places == 1 { "place" } else { "places" },
            ),
            Self::Static { program } => {
                let program = program.display();
                write!(
                    f,
                    "`{program}` is statically linked and has its own copy (probe \
                     `{program}:FUNCTION`)"
                )
            }
            Self::OtherLibc { program, loader } => {
                let loader = loader.display();
                write!(
                    f,
                    "`{}` uses another C library, {loader} (probe `{loader}:FUNCTION`)",
                    program.display()
                )
            }
            Self::NotLinked { program } => write!(
                f,
                "`{}` is not linked with the file; it would have to load it while it runs",
                program.display()
            ),
            Self::Replaced { pid } => write!(
                f,
                "process {pid} runs an older version of the file, which was replaced (restart it, or \
                 probe `/proc/{pid}/exe` if it is the program itself)"
            ),
            Self::OtherFile { pid, path } => write!(
                f,
                "process {pid} uses another file of that name, `{}` (use -p {pid})",
                path.display()
            ),
            Self::NotMapped { pid: Some(pid) } => {
                write!(f, "process {pid} does not use the file: it has not mapped it")
            }
            Self::NotMapped { pid: None } => f.write_str("no process has mapped the file"),
            Self::Moved { pid } => write!(
                f,
                "process {pid} does not run this code from the file: it was copied, as for huge pages, or \
                 unmapped"
            ),
            Self::Children { pid } => write!(
                f,
                "process {pid} started other processes, whose calls are not seen (use -f)"
            ),
            Self::NotCalled { ran_before: false } => {
                f.write_str("as far as can be told, there was no call")
            }
            Self::NotCalled { ran_before: true } => f.write_str(
                "as far as can be told, there was no call after the probe was attached; calls before that \
                 are not seen",
            ),
        }
    }
}

/// `a`, `a` and `b`, …: the first few.
struct Names<'n>(&'n [Arc<str>]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        for (index, name) in shown.iter().enumerate() {
            let is_last = index + 1 == self.0.len();
            let before = match index {
                0 => "",
                _ if is_last => " and ",
                _ => ", ",
            };
            write!(f, "{before}`{}`", name.escape_debug())?;
        }
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// Check the sentences whose number changes, and that a long list is cut.
    #[test]
    fn sentences() {
        let text = |caveat: Caveat| caveat.to_string();
        assert_eq!(
            text(Caveat::Copies { names: names(&["step.constprop.0"]) }),
            "the compiler made a copy of it, whose calls are not seen: `step.constprop.0` (probe it \
             too)"
        );
        assert_eq!(
            text(Caveat::SameCode { names: names(&["a", "b", "c"]) }),
            "`a`, `b` and `c` are the same code, so their calls count here"
        );
        let many: Vec<_> = (0..9).map(|n| format!("f{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let cut = text(Caveat::SameCode { names: names(&many) });
        assert!(cut.starts_with("`f0`, `f1`, `f2`, `f3`, `f4`, `f5` and 3 more are"), "{cut}");
        assert_eq!(
            text(Caveat::Inlined { places: 1 }),
            "the compiler inlined it in 1 place, where its calls cannot be seen (probe what calls it)"
        );
    }
}
