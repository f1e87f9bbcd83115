//! Functions that the user named but that are not probed, with the reason.
//!
//! Every stage adds some: resolving finds names that are not functions, planning finds probes that would
//! be harmful, and the kernel refuses others. One enum has all reasons: a new one is a variant and its
//! arm in `SkipReason::parts`.

use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use super::address::ElfAddr;
use super::process::Pid;
use super::running::Difference;

/// A function that is not probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// `FILE:SYMBOL[+0xOFFSET]`, as output names a probe.
    pub label: Arc<str>,
    /// Why it is not probed.
    pub reason: SkipReason,
}

/// Why a function is not probed. It prints as `KIND DETAIL (HINT)`, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The file calls the function, but its code is in another file.
    Imported {
        /// The library that defines it, where it could be found.
        library: Option<String>,
    },
    /// The symbol is a resolver that runs once, at load time, and picks an implementation.
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
    /// A label that nothing shows to be code: it may be the name of a table between functions.
    Label,
    /// A return probe on a label that is reached by jumps: what is on top of the stack there need not be a
    /// return address.
    ReturnAtLabel,
    /// The code is in a segment that the program may write to: the kernel sets no breakpoints there.
    Writable,
    /// The loader changes the instruction, and the kernel would run it as the file has it.
    Relocated,
    /// The program puts a copy of its code in place of it, and with it copies of the breakpoints.
    CopiesItself,
    /// A process runs other code there than the file has.
    Differs {
        /// The process.
        pid: Pid,
        /// How.
        how: Difference,
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
    /// A return probe past the entry: the kernel would replace whatever is on top of the stack there,
    /// which is not the return address.
    ReturnInside,
    /// A return probe where a program starts: nothing called it, so there is no return address.
    ReturnAtStart,
    /// A return probe on a function such as `setjmp`, `longjmp` or `__cxa_throw`, for which a return
    /// address is more than a place to return to.
    HandlesReturns {
        /// Why its exits are not known, if the return could have been watched there.
        exits: Option<&'static str>,
    },
    /// A return probe in a program that unwinds its stack.
    Unwinds {
        /// See [`HandlesReturns`](Self::HandlesReturns).
        exits: Option<&'static str>,
    },
    /// A return probe in a Go program.
    MovesStacks {
        /// See [`HandlesReturns`](Self::HandlesReturns).
        exits: Option<&'static str>,
    },
    /// A return probe on a kernel that kills programs with a seccomp filter for it.
    KillsFiltered {
        /// See [`HandlesReturns`](Self::HandlesReturns).
        exits: Option<&'static str>,
    },
    /// A return probe on a function that may be left by other ways than its return.
    MayBeUnwound {
        /// What makes it so.
        why: &'static str,
        /// See [`HandlesReturns`](Self::HandlesReturns).
        exits: Option<&'static str>,
    },
    /// The return was to be watched at the function's exits, which are not all known.
    ExitsUnknown {
        /// Why.
        why: &'static str,
    },
    /// A five-byte nop inside a function, on a kernel that writes below the stack pointer there.
    RedZone,
    /// The code around the place could not be read from the file.
    CodeUnreadable,
    /// The offset is not where an instruction begins.
    InsideInstruction,
    /// A vector instruction that the kernel takes for another one.
    Misread,
    /// An argument that is passed on the stack, with a breakpoint past the entry.
    StackInside,
    /// The strings and byte ranges do not fit into one record.
    ReadsTooMuch {
        /// What the probe asks for.
        bytes: u64,
        /// What fits.
        most: u64,
    },
    /// The kernel supports no breakpoint on the instruction.
    Unsupported,
    /// The condition uses a name that this probe does not have.
    ConditionUses {
        /// As written.
        name: String,
        /// It is what a call returns or how long it takes, and the return is not traced.
        is_of_return: bool,
    },
    /// The condition makes no sense for this probe.
    ConditionWrong {
        /// In one line.
        why: String,
    },
    /// The kernel refused the breakpoint.
    Refused {
        /// As the kernel said it.
        why: String,
    },
}

/// Which reason it is, without its details: reports group by it. It prints what is true of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SkipKind {
    reason: Discriminant<SkipReason>,
    text: &'static str,
}

/// The text of a reason: its kind, what is specific to this function, and what the user can do.
struct Parts {
    kind: &'static str,
    detail: Option<String>,
    hint: Option<String>,
}

const fn parts(kind: &'static str) -> Parts {
    Parts { kind, detail: None, hint: None }
}

impl Parts {
    fn detail(self, detail: String) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// Why the return is not watched at the function's exits.
    fn exits(self, why: Option<&'static str>) -> Self {
        let Some(why) = why else { return self };
        let before = self.detail.unwrap_or_default();
        let detail = format!("{before}; and it cannot be watched at its `ret`s, because {why}");
        Self { detail: Some(detail), ..self }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// How else to trace a function: `exits` says why it is not watched at its `ret`s, if that cannot be done.
fn otherwise(exits: Option<&str>, forced: &str) -> String {
    match exits {
        Some(_) => format!("trace it without `-> TYPE`, or {forced}"),
        None => format!("trace it with `--returns auto`, which does no harm, or {forced}"),
    }
}

impl SkipReason {
    /// Which reason it is.
    #[must_use]
    pub fn kind(&self) -> SkipKind {
        SkipKind { reason: discriminant(self), text: self.parts().kind }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.parts().hint
    }

    fn parts(&self) -> Parts {
        match self {
            Self::Imported { library } => {
                let library = library.as_ref().map(|library| format!(": `{library}`"));
                parts("imported: its code is in another file").hint(format!(
                    "probe it in the library that defines it{}",
                    library.unwrap_or_default()
                ))
            }
            Self::IfuncResolver { implementations, has_local_symbols } => {
                let parts =
                    parts("an indirect function: its code is chosen when the file is loaded");
                if !implementations.is_empty() {
                    parts.hint(format!("probe what it chooses from: {}", quoted(implementations)))
                } else if *has_local_symbols {
                    parts
                } else {
                    parts.hint("install the file's debug symbols to see the implementations")
                }
            }
            Self::Data => parts("a variable, not a function"),
            Self::NotExecutable { address } => {
                parts("there is no code in the file at its address").detail(format!(", {address}"))
            }
            Self::Label => parts(
                "a label that has no type and that no known function calls or jumps to: it may be \
                 data, which a breakpoint would change",
            )
            .hint("if it is code, use --force to attach anyway"),
            Self::ReturnAtLabel => parts(
                "a label that no known function calls: there may be no return address on the stack",
            )
            .hint("trace it without `-> TYPE`, or use --force if it is a function"),
            Self::Writable => parts(
                "its code is in a segment that the program may write to, and the kernel sets no \
                 breakpoints there",
            )
            .hint("use --force if the program makes it read-only before it is traced"),
            Self::Relocated => parts(
                "the loader changes its first instruction (a text relocation), but the kernel would \
                 run it as it is in the file",
            )
            .hint("link the file without text relocations, or probe another instruction with `+OFFSET`"),
            Self::CopiesItself => parts(
                "the program replaces its code by a copy when it starts (as for huge pages): \
                 breakpoints in the copy would end it with SIGTRAP",
            )
            .hint("trace it with -p once it runs, or use --force to attach anyway"),
            Self::Differs { pid, how } => differs(*pid, *how),
            Self::Fragment { function } => {
                parts("a cold part of a function, reached by a jump instead of a call")
                    .hint(format!("probe `{function}`"))
            }
            Self::OffsetBeyondFunction { offset, size } => {
                parts("the offset is beyond the end of the function")
                    .detail(format!(": {offset:#x} of {size:#x} bytes"))
                    .hint(match size.checked_sub(1) {
                        Some(last) => format!("the last byte is at +{last:#x}"),
                        None => "only +0 can be probed".to_owned(),
                    })
            }
            Self::ReturnInside => parts(
                "a return can only be traced from the function's first instruction, not from an \
                 offset",
            ),
            Self::ReturnAtStart => {
                parts("the program starts here, so there is no return to trace")
                    .hint("trace it without `-> TYPE`")
            }
            Self::HandlesReturns { exits } => parts(
                "it handles return addresses itself, and tracing its return could kill the program",
            )
            .exits(*exits)
            .hint("trace it without `-> TYPE`"),
            Self::Unwinds { exits } => parts(
                "an exception or panic that passes through a function whose return is traced by the \
                 kernel's return probe kills a C++ or Rust program",
            )
            .exits(*exits)
            .hint(otherwise(*exits, "use --force if none does")),
            Self::MovesStacks { exits } => parts(
                "Go moves the stacks of its programs, and with them the return address that the \
                 kernel keeps for a return probe: that can crash the program",
            )
            .exits(*exits)
            .hint(otherwise(*exits, "use --force to attach anyway")),
            Self::KillsFiltered { exits } => parts(
                "on this kernel a return probe kills a program whose seccomp filter does not know \
                 the `uretprobe` system call, and there is such a filter, or may be",
            )
            .exits(*exits)
            .hint(
                "trace it without `-> TYPE`, or with -p only processes that have none, or use \
                 --force to attach anyway",
            ),
            Self::MayBeUnwound { why, exits } => parts(
                "an exception, a cancelled thread or a switch of stacks inside a function whose \
                 return is traced by the kernel's return probe can kill the program",
            )
            .detail(format!(", and {why}"))
            .exits(*exits)
            .hint(otherwise(*exits, "use --force if that does not happen")),
            Self::ExitsUnknown { why } => {
                parts("it cannot be watched at its `ret`s")
                    .detail(format!(": {why}"))
                    .hint("trace it without `-> TYPE`; `--returns auto` says whether there is another way")
            }
            Self::RedZone => parts(
                "on this kernel a probe on a five-byte nop inside a function overwrites what the \
                 function may keep below its stack pointer",
            )
            .hint("probe another instruction, or use --force to attach anyway"),
            Self::CodeUnreadable => parts(
                "the code at this offset could not be read, so it is not known to be an instruction",
            ),
            Self::InsideInstruction => parts(
                "no instruction begins at this offset; a breakpoint there would crash the program",
            ),
            Self::Misread => parts(
                "it begins with a vector instruction that the kernel would mistake for another one, \
                 and the program would misbehave",
            )
            .hint("probe its caller, or an instruction after it with `+OFFSET`"),
            Self::Unsupported => parts("the kernel does not support a breakpoint on the instruction there")
                .hint("probe its caller, or an instruction after it with `+OFFSET`"),
            Self::StackInside => {
                parts("arguments on the stack can only be read at the function's first instruction")
            }
            Self::ReadsTooMuch { bytes, most } => {
                parts("its strings and byte ranges do not fit into one event")
                    .detail(format!(": {bytes} bytes, at most {most} fit"))
                    .hint("give them smaller limits")
            }
            Self::ConditionUses { name, is_of_return } => {
                let parts = parts("the condition uses a name that this probe does not have")
                    .detail(format!(": `{name}`"));
                if *is_of_return {
                    parts.hint("trace its return: add `-> TYPE`")
                } else {
                    parts
                }
            }
            Self::ConditionWrong { why } => {
                parts("the condition does not fit this probe").detail(format!(": {why}"))
            }
            Self::Refused { why } => {
                parts("the kernel refused the breakpoint").detail(format!(": {why}"))
            }
        }
    }
}

fn differs(pid: Pid, how: Difference) -> Parts {
    let parts = match how {
        Difference::Changed => parts(
            "its code was changed in memory (a hook, or a program that patches itself), and a \
             breakpoint would run it as it is in the file",
        ),
        Difference::Writable => parts(
            "its code is in memory that the process may write to, and the kernel sets no breakpoints \
             there",
        ),
        Difference::Replaced => parts(
            "a copy of its code has taken its place (as programs do for huge pages), and the kernel \
             sets no breakpoints there",
        ),
    };
    parts.detail(format!(": process {pid}"))
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { kind, detail, hint } = self.parts();
        f.write_str(kind)?;
        f.write_str(detail.as_deref().unwrap_or_default())?;
        match hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SkipKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// Skipped functions of one [`SkipKind`].
#[derive(Debug)]
pub struct SkippedAlike<'a> {
    /// In their original order; at least one.
    pub skipped: Vec<&'a Skipped>,
}

/// Groups skipped functions by the kind of reason, in order of first appearance.
#[must_use]
pub fn by_kind(skipped: &[Skipped]) -> Vec<SkippedAlike<'_>> {
    let mut groups: Vec<(SkipKind, SkippedAlike<'_>)> = Vec::new();
    for one in skipped {
        let kind = one.reason.kind();
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, group)) => group.skipped.push(one),
            None => groups.push((kind, SkippedAlike { skipped: vec![one] })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The reason they share, or only its kind if the details differ.
impl fmt::Display for SkippedAlike<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.skipped.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] if rest.iter().all(|other| other.reason == first.reason) => {
                first.reason.fmt(f)
            }
            [first, ..] => first.reason.kind().fmt(f),
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

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Check that functions are grouped by kind of reason, and that a group prints the details only if
    /// all share them.
    #[test]
    fn skipped_functions_are_grouped_by_kind() {
        let skipped = |label: &str, reason| Skipped { label: label.into(), reason };
        let beyond = |offset| SkipReason::OffsetBeyondFunction { offset, size: 0x10 };
        let all = [
            skipped("l:a", beyond(0x20)),
            skipped("l:b", SkipReason::Refused { why: "no space (ENOMEM)".to_owned() }),
            skipped("l:c", beyond(0x30)),
            skipped("l:d", SkipReason::Data),
            skipped("l:e", SkipReason::Data),
        ];
        let groups = by_kind(&all);
        let labels = |group: &SkippedAlike<'_>| {
            group.skipped.iter().map(|skipped| skipped.label.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            groups.iter().map(labels).collect::<Vec<_>>(),
            [vec!["l:a", "l:c"], vec!["l:b"], vec!["l:d", "l:e"]]
        );
        assert_eq!(
            groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "the offset is beyond the end of the function",
                "the kernel refused the breakpoint: no space (ENOMEM)",
                "a variable, not a function"
            ]
        );
    }
}
