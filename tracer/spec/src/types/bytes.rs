//! `bytes[N]` and `bytes[ARGUMENT]`: a byte range behind a pointer.

use std::fmt::{self, Formatter};

use super::{ArgSpec, Compared, Kind, Raw, Read, Show, ValueType, Word};

/// A byte range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    /// How many.
    pub length: BytesLen,
}

/// The length of a byte range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BytesLen {
    /// `bytes[16]`
    Const(u32),
    /// `bytes[count]`: the value of another argument: its index in
    /// [`ProbeSpec::args`](crate::ProbeSpec::args).
    Arg(usize),
}

impl Kind for Bytes {
    const SPELLINGS: &'static [&'static str] = &["bytes[N]"];
    const SUMMARY: &'static str = "bytes[N], bytes[ARGUMENT]";

    fn from_word(word: &str) -> Option<Word> {
        (word == "bytes").then_some(Word::HasLength(|length| ValueType::Bytes(Self { length })))
    }

    fn from_elsewhere(name: &str) -> Option<&'static str> {
        let is_one = matches!(name, "bytes" | "buf" | "buffer" | "slice" | "[]byte" | "&[u8]");
        is_one.then_some("bytes[N]")
    }

    fn write(&self, f: &mut Formatter<'_>, args: &[ArgSpec]) -> fmt::Result {
        match self.length {
            BytesLen::Const(length) => write!(f, "bytes[{length}]"),
            BytesLen::Arg(index) => {
                // Only a probe made by hand can name an argument that is not there.
                let name = args.get(index).and_then(ArgSpec::name).unwrap_or("_");
                write!(f, "bytes[{name}]")
            }
        }
    }

    fn read(&self) -> Read {
        Read::Bytes(self.length)
    }

    fn compared(&self) -> Compared {
        Compared::Bytes(self.length)
    }

    #[inline]
    fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
        let (bytes, truncated) = raw.memory();
        to.text(bytes, truncated);
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        (1..=crate::MAX_READ_BYTES).prop_map(|n| Self { length: BytesLen::Const(n) }).boxed()
    }
}
