//! What a probe says, once its text is understood. Plain data: any value can be built by hand, and
//! only those that [`str::parse`] can give are promised to survive printing and parsing.

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

impl ValueType {
    /// The type that one bare word names: all but those with a length in brackets.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "bool" => return Some(Self::Bool),
            "char" => return Some(Self::Char),
            "ptr" => return Some(Self::Ptr),
            "str" => return Some(Self::Str { max: None }),
            _ => {}
        }
        let (format, bits) = match word.split_at_checked(1)? {
            ("i", bits) => (IntFormat::Signed, bits),
            ("u", bits) => (IntFormat::Unsigned, bits),
            ("x", bits) => (IntFormat::Hex, bits),
            _ => return None,
        };
        let width_bytes = match bits {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return None,
        };
        Some(Self::Int { width_bytes, format })
    }
}
