//! Probe syntax: text in, [`ProbeSpec`] out. Pure: no I/O, nothing about this machine.
//!
//! `TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]`

/// One probe as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSpec {
    /// Path, library name or command, as written.
    pub target: String,
    /// Which functions of the target.
    pub function: FunctionPattern,
    /// Bytes past the function's first instruction; 0 is the entry.
    pub offset: u64,
    /// Arguments by position in the platform's calling convention.
    pub args: Vec<ArgSpec>,
    /// The return value's type: present if the return is probed too.
    pub ret: Option<ValueType>,
}

/// How the function part selects symbols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionPattern {
    /// Exactly this name (raw, demangled, or demangled without its parameters).
    Name(String),
    /// A glob over names: `*`, `?`, `[a-z]`.
    Glob(String),
    /// A regular expression over names, written between slashes.
    Regex(String),
}

/// One argument position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgSpec {
    /// `_`: the position is not read.
    Skip,
    /// `name: type`.
    Read {
        /// Unique among the probe's arguments.
        name: String,
        /// How its value is read and shown.
        ty: ValueType,
    },
}

/// What a value is and how it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    /// `i8…i64`, `u8…u64`, `x8…x64`.
    Int {
        /// 1, 2, 4 or 8.
        width_bytes: u8,
        /// How the number is shown, and whether its sign bit counts.
        format: IntFormat,
    },
    /// One byte; 0 is false.
    Bool,
    /// One byte, shown as a character.
    Char,
    /// A pointer, shown in hex.
    Ptr,
    /// A NUL-terminated string behind a pointer.
    Str {
        /// At most so many bytes, terminator not counted; the planner's default where absent.
        max: Option<u32>,
    },
    /// A byte range behind a pointer.
    Bytes(BytesLen),
}

/// How an integer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntFormat {
    /// `iN`
    Signed,
    /// `uN`
    Unsigned,
    /// `xN`: unsigned, in hex.
    Hex,
}

/// The length of a byte range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BytesLen {
    /// `bytes[16]`
    Const(u32),
    /// `bytes[count]`: the value of another argument: its index in [`ProbeSpec::args`].
    Arg(usize),
}
