//! Text in double quotes: how a target or a function has any character in it.
//!
//! Reading and writing are here together, since one undoes the other.

use std::fmt::{self, Write as _};

use super::SpecError;
use super::cursor::Cursor;
use super::text::is_hidden;

/// What to do about a character that means something else outside quotes.
pub(super) const QUOTE_HINT: &str =
    r#"put a function name with such characters in quotes: `"ns::operator+"`"#;

/// Reads quoted text; the cursor stands on the opening quote.
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<String, SpecError> {
    let quote = cursor.next_span();
    cursor.bump();
    let mut text = String::new();
    loop {
        let start = cursor.position();
        match cursor.bump() {
            Some('"') => return Ok(text),
            Some('\\') => text.push(escaped(cursor, start)?),
            Some(c) => text.push(c),
            None => return Err(cursor.error(quote, "missing the closing `\"`")),
        }
    }
}

/// Reads what follows the backslash at `start`.
fn escaped(cursor: &mut Cursor<'_>, start: usize) -> Result<char, SpecError> {
    for (token, c) in [("\"", '"'), ("\\", '\\')] {
        if cursor.eat(token) {
            return Ok(c);
        }
    }
    if cursor.eat("u{") {
        let digits = cursor.take_while(|c| c.is_ascii_hexdigit());
        let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        if let Some(c) = c
            && cursor.eat("}")
        {
            return Ok(c);
        }
    } else {
        cursor.bump();
    }
    Err(cursor
        .error(cursor.span_since(start), "unknown escape")
        .with_hint(r#"in quotes, use `\"`, `\\` and, by code point, `\u{1b}`"#))
}

/// Writes `text` in quotes, so that [`read`] gives it again and a terminal can show it.
pub(super) fn write(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if is_hidden(c) => write!(f, "{}", c.escape_unicode())?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// Refuses a hidden character in the unquoted text from `start` to the cursor.
pub(super) fn check_unquoted(cursor: &Cursor<'_>, start: usize) -> Result<(), SpecError> {
    let Some((at, c)) = cursor.since(start).char_indices().find(|(_, c)| is_hidden(*c)) else {
        return Ok(());
    };
    let (at, escape) = (start + at, c.escape_unicode());
    Err(cursor
        .error(at..at + c.len_utf8(), format!("hidden character `{escape}`"))
        .with_hint(format!("to use it, write it in quotes: `\"{escape}\"`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unquote(text: &str) -> Result<String, SpecError> {
        read(&mut Cursor::verbatim(text))
    }

    /// Check that every escape is read as its character.
    #[test]
    fn escapes() {
        assert_eq!(unquote(r#""a b""#).unwrap(), "a b");
        assert_eq!(unquote(r#""\"\\\u{1b}\u{6f22}""#).unwrap(), "\"\\\u{1b}漢");
    }

    /// Check that wrong escapes and a missing quote are pointed at.
    #[test]
    fn wrong_quotes() {
        for (text, span, message) in [
            (r#""a"#, 0..1, "missing the closing `\"`"),
            (r#""a\""#, 0..1, "missing the closing `\"`"),
            (r#""a\n""#, 2..4, "unknown escape"),
            (r#""\漢""#, 1..5, "unknown escape"),
            (r#""\u{d800}""#, 1..8, "unknown escape"),
            (r#""\u{}""#, 1..4, "unknown escape"),
            (r#""\u{123456789}""#, 1..13, "unknown escape"),
            (r#""\u{41"#, 1..6, "unknown escape"),
            ("\"\\", 1..2, "unknown escape"),
        ] {
            let error = unquote(text).unwrap_err();
            assert_eq!((error.span(), error.message()), (span, message), "{text}");
        }
    }

    /// Check that a function's quotes hide nothing from a terminal's user.
    #[test]
    fn hidden_characters_are_written_as_escapes() {
        let text = fmt::from_fn(|f| write(f, "a\u{1b}\"\\é")).to_string();
        assert_eq!(text, r#""a\u{1b}\"\\é""#);
    }
}
