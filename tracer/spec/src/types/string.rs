//! `str` and `str[MAX]`: a NUL-terminated string behind a pointer.

use std::fmt::{self, Formatter};

use super::{ArgSpec, Compared, Kind, Raw, Read, Show, ValueType, Word};

/// A string as C has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Str {
    /// The most bytes, not counting the terminator; the planner's default if absent.
    pub max: Option<u32>,
}

impl Kind for Str {
    const SPELLINGS: &'static [&'static str] = &["str", "str[MAX]"];
    const SUMMARY: &'static str = "str, str[MAX]";

    fn from_word(word: &str) -> Option<Word> {
        (word == "str").then_some(Word::MayHaveLength {
            bare: ValueType::Str(Self { max: None }),
            of: |max| ValueType::Str(Self { max: Some(max) }),
        })
    }

    fn from_elsewhere(name: &str) -> Option<&'static str> {
        let is_one = matches!(
            name,
            "char*" | "string" | "String" | "&str" | "cstr" | "cstring" | "CStr" | "text"
        );
        is_one.then_some("str")
    }

    fn write(&self, f: &mut Formatter<'_>, _: &[ArgSpec]) -> fmt::Result {
        match self.max {
            None => f.write_str("str"),
            Some(max) => write!(f, "str[{max}]"),
        }
    }

    fn read(&self) -> Read {
        Read::Str { max: self.max }
    }

    fn compared(&self) -> Compared {
        Compared::Str
    }

    #[inline]
    fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
        let (bytes, truncated) = raw.memory();
        to.text(bytes, truncated);
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        prop::option::of(1..=crate::MAX_READ_BYTES).prop_map(|max| Self { max }).boxed()
    }
}
