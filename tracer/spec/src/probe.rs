//! A parsed probe. Plain data: any value can be built by hand, but only what [`str::parse`] returns is
//! guaranteed to survive printing and parsing.

use super::types::ValueType;

/// The most arguments that one probe may list, skipped ones included.
pub const MAX_ARGS: usize = 16;

/// The most bytes that one argument may ask for, in `str[MAX]` and `bytes[N]`.
pub const MAX_READ_BYTES: u32 = 32768;

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

impl ArgSpec {
    /// The argument's name, if the position is read.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Skip => None,
            Self::Read { name, .. } => Some(name),
        }
    }
}
