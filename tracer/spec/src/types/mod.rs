//! What values are: one file a kind of value.
//!
//! A kind says in its file all that other stages ask about it: how the grammar names it, how a probe
//! reads it, how a condition compares it, how it is shown. Nothing outside of this folder knows which
//! kinds there are. A new one is a file with an implementation of `Kind`, its `mod` below and its
//! line in `kinds!`. (Only how to *read* a value is not open to it: see [`Read`].)

mod bytes;
mod character;
mod integer;
mod pointer;
mod string;
mod truth;

use std::fmt::{self, Display, Formatter};

use super::ArgSpec;

pub use self::{
    bytes::{Bytes, BytesLen},
    character::Char,
    integer::{Int, IntFormat},
    pointer::Ptr,
    string::Str,
    truth::Bool,
};

/// What one kind of value says about itself.
trait Kind: Sized {
    /// Its types as they are written, the most common first: `str`, `str[MAX]`.
    const SPELLINGS: &'static [&'static str];

    /// The same in short, for a list of all types.
    const SUMMARY: &'static str;

    /// What a word is as a type of this kind.
    fn from_word(word: &str) -> Option<Word>;

    /// Which spelling is meant by the name of a type in C, C++, Rust or Go, on a 64-bit platform.
    fn from_elsewhere(name: &str) -> Option<&'static str>;

    /// Writes it so that parsing gives it back. A length that is an argument is written as its name.
    fn write(&self, f: &mut Formatter<'_>, args: &[ArgSpec]) -> fmt::Result;

    /// How a probe reads it.
    fn read(&self) -> Read;

    /// How a condition compares it.
    fn compared(&self) -> Compared;

    /// The shape of its number, if it can be the length of a byte range.
    fn as_length(&self) -> Option<IntShape> {
        None
    }

    /// Shows what was read.
    fn show(&self, raw: Raw<'_>, to: &mut impl Show);

    /// Any type of the kind; none that has the length of another argument.
    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self>;
}

/// Makes the list of kinds an enum, and passes questions on to the kind.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident,)+) => {
        /// What a value is.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum ValueType {
            $($(#[$doc])* $kind($kind),)+
        }

        $(impl From<$kind> for ValueType {
            fn from(kind: $kind) -> Self {
                Self::$kind(kind)
            }
        })+

        /// What a word of the grammar is as a type.
        pub(crate) fn from_word(word: &str) -> Option<Word> {
            None$(.or_else(|| $kind::from_word(word)))+
        }

        /// Which spelling is meant by the name of a type in another language.
        pub(crate) fn from_elsewhere(name: &str) -> Option<&'static str> {
            None$(.or_else(|| $kind::from_elsewhere(name)))+
        }

        /// Every type as it is written.
        pub(crate) fn spellings() -> impl Iterator<Item = &'static str> {
            [$($kind::SPELLINGS),+].into_iter().flatten().copied()
        }

        /// All types in short: `i8…i64`, `u8…u64`, …, by kind.
        #[must_use]
        pub fn type_summaries() -> &'static [&'static str] {
            &[$($kind::SUMMARY),+]
        }

        impl ValueType {
            /// How a probe reads it.
            #[must_use]
            pub fn read(&self) -> Read {
                match self {
                    $(Self::$kind(kind) => kind.read(),)+
                }
            }

            /// The shape of its number, if it can be the length of a byte range.
            #[must_use]
            pub fn as_length(&self) -> Option<IntShape> {
                match self {
                    $(Self::$kind(kind) => kind.as_length(),)+
                }
            }

            pub(crate) fn compared(&self) -> Compared {
                match self {
                    $(Self::$kind(kind) => kind.compared(),)+
                }
            }

            pub(crate) fn write(&self, f: &mut Formatter<'_>, args: &[ArgSpec]) -> fmt::Result {
                match self {
                    $(Self::$kind(kind) => kind.write(f, args),)+
                }
            }

            #[inline]
            fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
                match self {
                    $(Self::$kind(kind) => kind.show(raw, to),)+
                }
            }

            /// Any type but one that has the length of another argument.
            #[cfg(test)]
            pub(crate) fn any() -> impl proptest::strategy::Strategy<Value = Self> {
                use proptest::strategy::{Strategy, Union};
                Union::new([$($kind::any().prop_map(Self::$kind).boxed()),+])
            }
        }
    };
}

kinds! {
    /// `i8…i64`, `u8…u64`, `x8…x64`.
    Int,
    /// One byte; 0 is false.
    Bool,
    /// One byte, shown as a character.
    Char,
    /// A NUL-terminated string behind a pointer.
    Str,
    /// A byte range behind a pointer.
    Bytes,
    // Last, because it claims whatever else other languages write with `*` or `&`.
    /// A pointer, shown in hex.
    Ptr,
}

impl ValueType {
    /// A whole register, as a number.
    pub const U64: Self = Self::Int(Int { width_bytes: 8, format: IntFormat::Unsigned });
    /// The type of C's `int`.
    pub const I32: Self = Self::Int(Int { width_bytes: 4, format: IntFormat::Signed });

    /// As it is written, in a probe with these arguments.
    pub(crate) fn text(&self, args: &[ArgSpec]) -> String {
        fmt::from_fn(|f| self.write(f, args)).to_string()
    }
}

/// What a word of the grammar names, and whether a length follows it in brackets.
pub(crate) enum Word {
    /// A type without a length.
    Whole(ValueType),
    /// A type that may have a length in bytes.
    MayHaveLength {
        /// Without one.
        bare: ValueType,
        /// With one.
        of: fn(u32) -> ValueType,
    },
    /// A type that has a length: a number of bytes, or an argument.
    HasLength(fn(BytesLen) -> ValueType),
}

/// How a probe reads a value. Each way is an instruction of the argument program that the eBPF side
/// runs; a way that is not here begins there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The register, or the slot of the stack, that the argument is passed in.
    Register,
    /// What the register points to, up to a NUL byte.
    Str {
        /// The most bytes, not counting the terminator; the planner's default if absent.
        max: Option<u32>,
    },
    /// A number of bytes of what the register points to.
    Bytes(BytesLen),
}

/// How a condition compares a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    /// As a number, by all comparisons.
    Number(IntShape),
    /// With `true` and `false`.
    Truth,
    /// With a time and its unit.
    Duration,
    /// With text, whole or how it begins.
    Str,
    /// The same, with bytes of a certain length.
    Bytes(BytesLen),
}

/// Which bits of a register are a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntShape {
    /// How many of the lowest bits.
    pub bits: u8,
    /// The highest of them is the sign.
    pub signed: bool,
}

impl IntShape {
    pub(crate) const fn unsigned(bits: u8) -> Self {
        Self { bits, signed: false }
    }

    /// The number in a register: what lies above its bits is whatever the caller left there.
    #[inline]
    #[must_use]
    pub fn of_register(self, register: u64) -> i128 {
        let unused_bits = 64_u32.saturating_sub(u32::from(self.bits)).min(63);
        let shifted = register << unused_bits;
        if self.signed {
            i128::from(shifted as i64 >> unused_bits)
        } else {
            i128::from(shifted >> unused_bits)
        }
    }
}

/// What a probe read for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw<'a> {
    /// For [`Read::Register`]: all its bits.
    Register(u64),
    /// For the others: what the pointer led to.
    Memory {
        /// Without the terminator.
        bytes: &'a [u8],
        /// There is more than was read.
        truncated: bool,
    },
}

impl<'a> Raw<'a> {
    #[inline]
    fn register(self) -> u64 {
        match self {
            Self::Register(register) => register,
            Self::Memory { .. } => 0,
        }
    }

    #[inline]
    fn memory(self) -> (&'a [u8], bool) {
        match self {
            Self::Memory { bytes, truncated } => (bytes, truncated),
            Self::Register(_) => (&[], false),
        }
    }
}

/// A value that was read, with its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    ty: &'a ValueType,
    raw: Raw<'a>,
}

/// What shows values: an output format. It knows no types, only these forms.
pub trait Show {
    /// A number, or `true`: nothing around it in any format.
    fn plain(&mut self, text: &str);
    /// What people read as it is, and programs as a string: `0x7f00`.
    fn word(&mut self, text: &str);
    /// One byte that is a character, in whatever encoding the program uses.
    fn character(&mut self, byte: u8);
    /// Bytes that are text more often than not, and whether there is more than these.
    fn text(&mut self, bytes: &[u8], truncated: bool);
}

impl<'a> Value<'a> {
    /// What was read for a value of this type, in the way that [`ValueType::read`] says.
    #[inline]
    #[must_use]
    pub fn new(ty: &'a ValueType, raw: Raw<'a>) -> Self {
        Self { ty, raw }
    }

    /// Its type.
    #[must_use]
    pub fn ty(&self) -> &'a ValueType {
        self.ty
    }

    /// What was read.
    #[must_use]
    pub fn raw(&self) -> Raw<'a> {
        self.raw
    }

    /// The number that it is, if it is one.
    #[must_use]
    pub fn number(&self) -> Option<i128> {
        match (self.ty.compared(), self.raw) {
            (Compared::Number(shape), Raw::Register(register)) => Some(shape.of_register(register)),
            _ => None,
        }
    }

    /// The bytes that it is, if it is a string or a range.
    #[must_use]
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.raw {
            Raw::Memory { bytes, .. } => Some(bytes),
            Raw::Register(_) => None,
        }
    }

    /// Shows it in an output format.
    #[inline]
    pub fn show(&self, to: &mut impl Show) {
        self.ty.show(self.raw, to);
    }
}

/// For messages and tests: text in quotes, with everything but printable ASCII escaped, and `…`
/// after it if there is more.
impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        struct Plain<'f, 'b>(&'f mut Formatter<'b>, fmt::Result);
        impl Show for Plain<'_, '_> {
            fn plain(&mut self, text: &str) {
                self.1 = self.0.write_str(text);
            }

            fn word(&mut self, text: &str) {
                self.plain(text);
            }

            fn character(&mut self, byte: u8) {
                self.1 = write!(self.0, "'{}'", byte.escape_ascii());
            }

            fn text(&mut self, bytes: &[u8], truncated: bool) {
                let more = if truncated { "…" } else { "" };
                self.1 = write!(self.0, "\"{}\"{more}", bytes.escape_ascii());
            }
        }
        let mut plain = Plain(f, Ok(()));
        self.show(&mut plain);
        plain.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ty: &str, raw: Raw<'_>) -> String {
        let Some(Word::Whole(ty) | Word::MayHaveLength { bare: ty, .. }) = from_word(ty) else {
            panic!("{ty} is no type")
        };
        Value::new(&ty, raw).to_string()
    }

    /// Check that the bytes above an integer's width are not looked at, and that only signed ones
    /// have a sign.
    #[test]
    fn numbers_have_their_width() {
        let raw = Raw::Register(0xdead_beef_8000_80ff);
        for (ty, text) in [
            ("i8", "-1"),
            ("u8", "255"),
            ("x16", "0x80ff"),
            ("i32", "-2147450625"),
            ("u32", "2147516671"),
            ("i64", "-2401053090464628481"),
            ("x64", "0xdeadbeef800080ff"),
            ("ptr", "0xdeadbeef800080ff"),
        ] {
            assert_eq!(shown(ty, raw), text, "{ty}");
        }
        assert_eq!(Value::new(&ValueType::I32, raw).number(), Some(-2_147_450_625));
        assert_eq!(Value::new(&ValueType::U64, raw).number(), Some(0xdead_beef_8000_80ff));
    }

    /// Check that booleans and characters are one byte of their register.
    #[test]
    fn bytes_of_a_register() {
        assert_eq!(shown("bool", Raw::Register(0x100)), "false");
        assert_eq!(shown("bool", Raw::Register(0x102)), "true");
        assert_eq!(shown("char", Raw::Register(0xff41)), "'A'");
    }

    /// Check that text is in quotes, and marked where it was cut.
    #[test]
    fn text() {
        assert_eq!(shown("str", Raw::Memory { bytes: b"a\"\n", truncated: false }), r#""a\"\n""#);
        assert_eq!(shown("str", Raw::Memory { bytes: b"ab", truncated: true }), "\"ab\"…");
    }

    /// Check that each spelling that is a word is a type and is written like that, and that no two
    /// kinds claim one.
    #[test]
    fn spellings_are_types() {
        let mut seen = std::collections::HashSet::new();
        for spelling in spellings() {
            assert!(seen.insert(spelling), "{spelling} is claimed twice");
            let word = spelling.split('[').next().unwrap_or_default();
            match from_word(word) {
                Some(Word::Whole(ty)) => assert_eq!(ty.text(&[]), spelling),
                Some(Word::MayHaveLength { bare, of }) => {
                    assert!(bare.text(&[]) == spelling || spelling.starts_with(word));
                    assert_eq!(of(3).text(&[]), format!("{word}[3]"));
                }
                Some(Word::HasLength(of)) => {
                    assert_eq!(of(BytesLen::Const(3)).text(&[]), format!("{word}[3]"));
                }
                None => panic!("{spelling} is no type"),
            }
        }
    }
}
