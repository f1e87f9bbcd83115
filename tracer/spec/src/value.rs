//! A type in a probe: an argument's, or that of the return after `->`.
//!
//! Takes the cursor where the type begins; leaves it after the type. The arguments are not known
//! here, so a length that is one of them stays a name.

use std::ops::Range;

use super::cursor::Cursor;
use super::suggest::{known_elsewhere, type_hint};
use super::types::{BytesLen, Word, from_word};
use super::units::{UnitError, parse_size};
use super::{MAX_READ_BYTES, SpecError, ValueType};

/// A type whose length, if it is an argument, is not looked up yet.
pub(super) enum RawType<'a> {
    Value(ValueType),
    /// One with the length `[name]`.
    OfArgument {
        name: &'a str,
        span: Range<usize>,
        of: fn(BytesLen) -> ValueType,
    },
}

/// Reads the type after `->`.
pub(super) fn return_type(cursor: &mut Cursor<'_>) -> Result<ValueType, SpecError> {
    cursor.skip_space();
    if cursor.at_end() {
        return Err(cursor.error_here("expected a type after `->`").with_hint(type_hint("")));
    }
    match value_type(cursor)? {
        RawType::Value(ty) => Ok(ty),
        RawType::OfArgument { span, .. } => Err(cursor
            .error(span, "a return value has no other argument to take its length from")
            .with_hint("give a number: `-> bytes[64]`")),
    }
}

/// Reads a type, with its length if it has one.
pub(super) fn value_type<'a>(cursor: &mut Cursor<'a>) -> Result<RawType<'a>, SpecError> {
    let start = cursor.position();
    let word = cursor.take_while(is_word);
    let known = from_word(word).filter(|_| !is_foreign(word, cursor.rest()));
    let Some(known) = known else { return Err(unknown_type(cursor, start, word)) };
    let word_span = cursor.span_since(start);
    cursor.skip_space();
    let has_length = cursor.peek() == Some('[');
    match known {
        Word::HasLength(of) if has_length => bytes_length(cursor, of),
        Word::HasLength(_) => Err(cursor
            .error(word_span, format!("`{word}` needs a length"))
            .with_hint(format!("`{word}[64]`, or `{word}[count]` with another argument's name"))),
        Word::MayHaveLength { of, .. } if has_length => {
            let (token, span) = bracketed(cursor)?;
            let length = const_length(cursor, token, &span).map_err(|error| {
                if is_name(token) {
                    error.with_hint("only `bytes` takes an argument's name")
                } else {
                    error
                }
            })?;
            Ok(RawType::Value(of(length)))
        }
        Word::Whole(_) if has_length => Err(cursor
            .error_here(format!("`{word}` has no length"))
            .with_hint("`bytes[N]` and `str[MAX]` have one")),
        Word::MayHaveLength { bare: ty, .. } | Word::Whole(ty) => Ok(RawType::Value(ty)),
    }
}

/// Whether `word`, a type of ours, begins a type of another language: `char *`, `bool&`.
fn is_foreign(word: &str, rest: &str) -> bool {
    let phrase = &rest[..rest.find([',', ')', '[']).unwrap_or(rest.len())];
    rest.trim_start().starts_with(['*', '&'])
        || (!phrase.trim().is_empty() && known_elsewhere(&format!("{word}{phrase}")).is_some())
}

/// The error for the text at `start`, of which the cursor has passed `word`.
fn unknown_type(cursor: &mut Cursor<'_>, start: usize, word: &str) -> SpecError {
    // C types are several words, and a slice begins with its bracket.
    cursor.take_while(|c| !matches!(c, ',' | ')') && (word.is_empty() || c != '['));
    let text = cursor.since(start).trim_end();
    let span = start..start + text.len();
    if text.is_empty() {
        return cursor.error_here("expected a type").with_hint(type_hint(""));
    }
    cursor.error(span, format!("unknown type `{text}`")).with_hint(type_hint(text))
}

/// Reads `[N]` or `[name]`.
fn bytes_length<'a>(
    cursor: &mut Cursor<'a>,
    of: fn(BytesLen) -> ValueType,
) -> Result<RawType<'a>, SpecError> {
    let (token, span) = bracketed(cursor)?;
    if is_name(token) && token != "_" {
        return Ok(RawType::OfArgument { name: token, span, of });
    }
    if !token.starts_with(|c: char| c.is_ascii_digit()) {
        let message = "expected a number of bytes, or the name of the argument that holds it";
        return Err(cursor.error(span, message));
    }
    let length = const_length(cursor, token, &span)?;
    Ok(RawType::Value(of(BytesLen::Const(length))))
}

/// Reads `[…]`; gives what is in it, trimmed, with its place.
fn bracketed<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, Range<usize>), SpecError> {
    let bracket = cursor.next_span();
    cursor.eat("[");
    cursor.skip_space();
    let start = cursor.position();
    let token = cursor.take_while(|c| !matches!(c, ']' | ',' | ')')).trim_end();
    if !cursor.eat("]") {
        return Err(cursor.error(bracket, "missing the closing `]`"));
    }
    Ok((token, start..start + token.len()))
}

/// The number of bytes that `token` says, within the limits.
fn const_length(cursor: &Cursor<'_>, token: &str, span: &Range<usize>) -> Result<u32, SpecError> {
    let size = match parse_size(token) {
        Ok(size) => size,
        Err(UnitError::TooLarge { .. }) => u64::MAX,
        Err(UnitError::NoNumber { .. }) => {
            return Err(cursor.error(span.clone(), "expected a number of bytes"));
        }
        Err(error) => return Err(cursor.error(span.clone(), error.to_string())),
    };
    match u32::try_from(size) {
        Ok(size @ 1..=MAX_READ_BYTES) => Ok(size),
        _ => {
            let message = format!("invalid length: must be from 1 to {MAX_READ_BYTES} bytes");
            Err(cursor.error(span.clone(), message))
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether `text` can name an argument. Names end up in JSON and in filters, so they are plain.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Bool, Bytes, Char, Int, IntFormat, Ptr, Str};

    fn int(width_bytes: u8, format: IntFormat) -> ValueType {
        Int { width_bytes, format }.into()
    }

    fn bytes(length: u32) -> ValueType {
        Bytes { length: BytesLen::Const(length) }.into()
    }

    /// Check that every type is read.
    #[test]
    fn types() {
        for (text, ty) in [
            ("i8", int(1, IntFormat::Signed)),
            ("i64", int(8, IntFormat::Signed)),
            ("u16", int(2, IntFormat::Unsigned)),
            ("x32", int(4, IntFormat::Hex)),
            ("bool", Bool.into()),
            ("char", Char.into()),
            ("ptr", Ptr.into()),
            ("str", Str { max: None }.into()),
            ("str[256]", Str { max: Some(256) }.into()),
            ("bytes[1]", bytes(1)),
            ("bytes[ 4KiB ]", bytes(4096)),
            ("bytes[0x10]", bytes(16)),
            ("bytes [32KiB]", bytes(MAX_READ_BYTES)),
        ] {
            assert_eq!(return_type(&mut Cursor::new(text)), Ok(ty), "{text}");
        }
    }

    /// Check that a return has a type, and that its length is a number.
    #[test]
    fn wrong_returns() {
        for (text, at, message) in [
            ("", "", "expected a type after `->`"),
            ("int", "int", "unknown type `int`"),
            ("bytes[n]", "n", "a return value has no other argument to take its length from"),
        ] {
            let error = return_type(&mut Cursor::new(text)).unwrap_err();
            assert_eq!((&text[error.span()], error.message()), (at, message), "{text}");
        }
    }
}
