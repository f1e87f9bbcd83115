//! `bool`: one byte; 0 is false, anything else true.

use std::fmt::{self, Formatter};

use super::{ArgSpec, Compared, Kind, Raw, Read, Show, ValueType, Word};

/// A truth value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bool;

impl Kind for Bool {
    const SPELLINGS: &'static [&'static str] = &["bool"];
    const SUMMARY: &'static str = "bool";

    fn from_word(word: &str) -> Option<Word> {
        (word == "bool").then_some(Word::Whole(ValueType::Bool(Self)))
    }

    fn from_elsewhere(name: &str) -> Option<&'static str> {
        matches!(name, "_Bool" | "boolean").then_some("bool")
    }

    fn write(&self, f: &mut Formatter<'_>, _: &[ArgSpec]) -> fmt::Result {
        f.write_str("bool")
    }

    fn read(&self) -> Read {
        Read::Register
    }

    fn compared(&self) -> Compared {
        Compared::Truth
    }

    #[inline]
    fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
        to.plain(if raw.register() & 0xff == 0 { "false" } else { "true" });
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        Just(Self).boxed()
    }
}
