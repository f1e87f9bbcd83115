//! `char`: one byte, shown as a character.

use std::fmt::{self, Formatter};

use super::{ArgSpec, Compared, IntShape, Kind, Raw, Read, Show, ValueType, Word};

/// A character of one byte, in whatever encoding the program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Char;

impl Kind for Char {
    const SPELLINGS: &'static [&'static str] = &["char"];
    const SUMMARY: &'static str = "char";

    fn from_word(word: &str) -> Option<Word> {
        (word == "char").then_some(Word::Whole(ValueType::Char(Self)))
    }

    fn from_elsewhere(_: &str) -> Option<&'static str> {
        None
    }

    fn write(&self, f: &mut Formatter<'_>, _: &[ArgSpec]) -> fmt::Result {
        f.write_str("char")
    }

    fn read(&self) -> Read {
        Read::Register
    }

    fn compared(&self) -> Compared {
        Compared::Number(IntShape::unsigned(8))
    }

    #[inline]
    fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
        to.character((raw.register() & 0xff) as u8);
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        Just(Self).boxed()
    }
}
