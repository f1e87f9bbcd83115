//! `ptr`: an address, shown in hex. What it points to is not read.

use std::fmt::{self, Formatter};

use super::{ArgSpec, Compared, IntShape, Kind, Raw, Read, Show, ValueType, Word};

/// A pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ptr;

impl Kind for Ptr {
    const SPELLINGS: &'static [&'static str] = &["ptr"];
    const SUMMARY: &'static str = "ptr";

    fn from_word(word: &str) -> Option<Word> {
        (word == "ptr").then_some(Word::Whole(ValueType::Ptr(Self)))
    }

    fn from_elsewhere(name: &str) -> Option<&'static str> {
        let is_named =
            matches!(name, "pointer" | "void" | "uintptr_t" | "uintptr" | "addr" | "address");
        let is_written = name.ends_with('*') || name.starts_with(['*', '&']);
        (is_named || is_written).then_some("ptr")
    }

    fn write(&self, f: &mut Formatter<'_>, _: &[ArgSpec]) -> fmt::Result {
        f.write_str("ptr")
    }

    fn read(&self) -> Read {
        Read::Register
    }

    fn compared(&self) -> Compared {
        Compared::Number(IntShape::unsigned(64))
    }

    #[inline]
    fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
        to.word(hex(raw.register(), &mut [0; 18]));
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        Just(Self).boxed()
    }
}

/// `0x` and a number in hex without leading zeros, in `buffer`. The formatting machinery of the
/// standard library takes several times as long.
#[inline]
pub(super) fn hex(number: u64, buffer: &mut [u8; 18]) -> &str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut rest = number;
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = DIGITS[(rest & 0xf) as usize];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    at -= 2;
    buffer[at..at + 2].copy_from_slice(b"0x");
    str::from_utf8(&buffer[at..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that hex has no leading zeros, and zero a digit.
    #[test]
    fn hex_digits() {
        for number in [0, 1, 0xf, 0x10, 0xdead_beef, u64::MAX] {
            assert_eq!(hex(number, &mut [0; 18]), format!("{number:#x}"));
        }
    }
}
