//! Why a function is not probed although the user named it.

use thiserror::Error;

use faultline_resolve::SkipReason;

/// A function that is left out of the plan, or refused by the kernel.
#[derive(Debug, Clone)]
pub struct NotPlanned {
    /// `FILE:SYMBOL[+0xOFFSET]`.
    pub label: std::sync::Arc<str>,
    /// Why.
    pub obstacle: Obstacle,
}

/// Why it is left out.
#[derive(Debug, Clone, Error)]
pub enum Obstacle {
    /// It cannot be probed at all.
    #[error("{0}")]
    NotProbeable(SkipReason),
    /// A return probe past the entry: the kernel would replace whatever then lies on top of the
    /// stack, which is not the return address.
    #[error(
        "a return can only be traced from the function's first instruction, not with `+OFFSET`"
    )]
    ReturnInside,
    /// A function such as `setjmp`, `longjmp` or `__cxa_throw`, for which a return address is more
    /// than a place to return to.
    #[error(
        "it uses return addresses in its own way, and a return probe could kill the program \
         (trace it without `-> TYPE`)"
    )]
    ReturnsOddly,
    /// A return probe in a program that unwinds its stack.
    #[error(
        "an exception or panic that passes through a function whose return is traced ends a C++ \
         or Rust program (trace it without `-> TYPE`, or with --force if none does)"
    )]
    Unwinds,
    /// A return probe in a Go program.
    #[error(
        "Go moves the stacks of its programs, and with them the return address that the kernel keeps \
         for a return probe: that can crash it (trace it without `-> TYPE`; --force does it all the \
         same)"
    )]
    MovesStacks,
    /// A return probe on a kernel that ends programs with a seccomp filter for it.
    #[error(
        "on this kernel a return probe ends a program whose seccomp filter does not know the \
         `uretprobe` system call, and there is such a filter, or may be (trace it without `-> TYPE`, or \
         with -p processes that have none; --force does it all the same)"
    )]
    KillsFiltered,
    /// A nop of five bytes inside a function, on a kernel that writes below the stack pointer there.
    #[error(
        "on this kernel a probe on a five-byte nop inside a function overwrites what the function may \
         keep below its stack pointer (probe another instruction; --force does it all the same)"
    )]
    RedZone,
    /// The code around the offset could not be read from the file.
    #[error("the code at this offset could not be read, so it is not known to be an instruction")]
    CodeUnreadable,
    /// The offset is not where an instruction begins.
    #[error("no instruction begins at this offset; a breakpoint there would crash the program")]
    InsideInstruction,
    /// A vector instruction that the kernel takes for another one.
    #[error(
        "it begins with a vector instruction that the kernel would take for another one, and the \
         program would go wrong (probe its caller, or an instruction after it with `+OFFSET`)"
    )]
    Misread,
    /// An argument that is passed on the stack, with a breakpoint past the entry.
    #[error("arguments on the stack can only be read at the function's first instruction")]
    StackInside,
    /// The strings and ranges do not fit into a record together.
    #[error(
        "its strings and ranges come to {bytes} bytes a call; at most {most} fit (name smaller limits)"
    )]
    ReadsTooMuch {
        /// What the probe asks for.
        bytes: u64,
        /// What fits.
        most: u64,
    },
    /// The condition names what this probe does not have.
    #[error("the condition is not about it: {0}")]
    ConditionAbsent(String),
    /// The kernel refused the breakpoint.
    #[error("the kernel refused the breakpoint: {0}")]
    Refused(String),
}

impl Obstacle {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotProbeable(reason) => reason.hint(),
            _ => None,
        }
    }
}
