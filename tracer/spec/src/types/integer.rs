//! Integers: `i8…i64`, `u8…u64`, and `x8…x64`, which are shown in hex.

use std::fmt::{self, Formatter};

use super::{ArgSpec, Compared, IntShape, Kind, Raw, Read, Show, ValueType, Word, pointer::hex};

/// An integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int {
    /// 1, 2, 4 or 8.
    pub width_bytes: u8,
    /// How the number is shown, and whether its sign bit counts.
    pub format: IntFormat,
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

impl Int {
    fn shape(self) -> IntShape {
        IntShape { bits: self.width_bytes * 8, signed: self.format == IntFormat::Signed }
    }
}

impl Kind for Int {
    const SPELLINGS: &'static [&'static str] =
        &["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "x8", "x16", "x32", "x64"];
    const SUMMARY: &'static str = "i8…i64, u8…u64, x8…x64 (hex)";

    fn from_word(word: &str) -> Option<Word> {
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
        Some(Word::Whole(ValueType::Int(Self { width_bytes, format })))
    }

    fn from_elsewhere(name: &str) -> Option<&'static str> {
        Some(match name {
            "int" | "signed" | "signed int" | "int32" | "int32_t" | "__s32" | "s32" | "pid_t"
            | "rune" | "c_int" => "i32",
            "unsigned" | "unsigned int" | "uint" | "uint32" | "uint32_t" | "__u32" | "u_int"
            | "uid_t" | "gid_t" | "mode_t" | "socklen_t" | "dword" | "c_uint" => "u32",
            "long" | "long int" | "long long" | "long long int" | "int64" | "int64_t" | "__s64"
            | "s64" | "ssize_t" | "off_t" | "off64_t" | "time_t" | "ptrdiff_t" | "intptr_t"
            | "isize" | "c_long" => "i64",
            "unsigned long" | "unsigned long int" | "unsigned long long" | "ulong" | "uint64"
            | "uint64_t" | "__u64" | "size_t" | "usize" | "c_ulong" => "u64",
            "short" | "short int" | "int16" | "int16_t" | "__s16" | "s16" => "i16",
            "unsigned short" | "ushort" | "uint16" | "uint16_t" | "__u16" | "word" => "u16",
            "signed char" | "int8" | "int8_t" | "__s8" | "s8" => "i8",
            "unsigned char" | "uchar" | "uint8" | "uint8_t" | "__u8" | "byte" => "u8",
            "hex" => "x64",
            _ => return None,
        })
    }

    fn write(&self, f: &mut Formatter<'_>, _: &[ArgSpec]) -> fmt::Result {
        let letter = match self.format {
            IntFormat::Signed => 'i',
            IntFormat::Unsigned => 'u',
            IntFormat::Hex => 'x',
        };
        write!(f, "{letter}{}", u32::from(self.width_bytes) * 8)
    }

    fn read(&self) -> Read {
        Read::Register
    }

    fn compared(&self) -> Compared {
        Compared::Number(self.shape())
    }

    fn as_length(&self) -> Option<IntShape> {
        Some(self.shape())
    }

    #[inline]
    fn show(&self, raw: Raw<'_>, to: &mut impl Show) {
        let number = self.shape().of_register(raw.register());
        // Numbers of 128 bits are slow to write.
        match self.format {
            IntFormat::Signed => to.plain(itoa::Buffer::new().format(number as i64)),
            IntFormat::Unsigned => to.plain(itoa::Buffer::new().format(number as u64)),
            IntFormat::Hex => to.word(hex(number as u64, &mut [0; 18])),
        }
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let format =
            prop::sample::select(&[IntFormat::Signed, IntFormat::Unsigned, IntFormat::Hex][..]);
        let width = prop::sample::select(&[1_u8, 2, 4, 8][..]);
        (width, format).prop_map(|(width_bytes, format)| Self { width_bytes, format }).boxed()
    }
}
