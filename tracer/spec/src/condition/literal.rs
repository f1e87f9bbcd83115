//! Constants: numbers, durations, text, characters, `true` and `false`.

use std::fmt::{self, Write as _};

use super::{Literal, MAX_TEXT_BYTES, Spanned};
use crate::{
    SpecError,
    cursor::Cursor,
    text::is_hidden,
    units::{UnitError, parse_duration, parse_size},
};

const ESCAPES: &str = r#"escapes are `\"`, `\'`, `\\`, `\n`, `\t`, `\r`, `\0`, `\x1f`, `\u{6f22}`"#;

/// Reads a constant; the cursor stands on its first character.
pub(super) fn literal(cursor: &mut Cursor<'_>) -> Result<Spanned<Literal>, SpecError> {
    let start = cursor.position();
    let value = match cursor.peek() {
        Some('"') => {
            let text = quoted(cursor, '"')?;
            if text.len() > MAX_TEXT_BYTES {
                let message = format!(
                    "the text has {} bytes; at most {MAX_TEXT_BYTES} can be compared",
                    text.len()
                );
                return Err(cursor.error(cursor.span_since(start), message));
            }
            Literal::Text(text)
        }
        Some('\'') => match quoted(cursor, '\'')?[..] {
            [byte] => Literal::Char(byte),
            _ => {
                return Err(cursor
                    .error(cursor.span_since(start), "a character must be one byte")
                    .with_hint(r#"put text in double quotes: `"text"`"#));
            }
        },
        Some('-' | '0'..='9') => number(cursor)?,
        _ => word(cursor)?,
    };
    Ok(Spanned { value, span: cursor.span_since(start) })
}

fn word(cursor: &mut Cursor<'_>) -> Result<Literal, SpecError> {
    let start = cursor.position();
    match cursor.take_while(|c| c.is_alphanumeric() || c == '_') {
        "true" => Ok(Literal::Bool(true)),
        "false" => Ok(Literal::Bool(false)),
        "" => Err(cursor
            .error_here("expected a value")
            .with_hint(r#"such as `10`, `0x40`, `10ms`, `64KiB`, `"text"`, `'x'` or `true`"#)),
        word => Err(cursor
            .error(cursor.span_since(start), format!("expected a value, found `{word}`"))
            .with_hint(format!(
                "a name can only be compared with a constant; put text in quotes: `\"{word}\"`"
            ))),
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<Literal, SpecError> {
    let start = cursor.position();
    let negative = cursor.eat("-");
    let token = cursor.take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
    let error = |message: String| cursor.error(cursor.span_since(start), message);
    let digits = token.strip_prefix("0x");
    let plain = match digits {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None => token.parse::<i128>().ok(),
    };
    if let Some(number) = plain {
        let number = if negative { -number } else { number };
        if number < i128::from(i64::MIN) || number > i128::from(u64::MAX) {
            return Err(error("a number has at most 64 bits".to_owned()));
        }
        return Ok(Literal::Number(number));
    }
    if digits.is_some() {
        return Err(error(format!("`{token}` is not a hexadecimal number of at most 64 bits")));
    }
    if negative {
        return Err(error("only a plain number can be negative".to_owned()));
    }
    match (parse_duration(token), parse_size(token)) {
        (Ok(duration), _) => u64::try_from(duration.as_nanos())
            .map(Literal::Duration)
            .map_err(|_| error(format!("`{token}` is too large"))),
        (_, Ok(bytes)) => Ok(Literal::Number(i128::from(bytes))),
        (Err(UnitError::UnknownUnit { .. }), Err(UnitError::UnknownUnit { unit, .. })) => {
            Err(error(format!("unknown unit `{unit}`")).with_hint(
                "units of time: ns, us, ms, s, m, h, d; of size: KiB, MiB, GiB, KB, MB, GB; hex is written `0x…`",
            ))
        }
        (Err(UnitError::UnknownUnit { .. }), Err(size)) => Err(error(size.to_string())),
        (Err(time), _) => Err(error(time.to_string())),
    }
}

/// Reads text in quotes; the cursor stands on the opening one.
fn quoted(cursor: &mut Cursor<'_>, quote: char) -> Result<Vec<u8>, SpecError> {
    let opening = cursor.next_span();
    cursor.bump();
    let mut text = Vec::new();
    loop {
        let start = cursor.position();
        match cursor.bump() {
            Some(c) if c == quote => return Ok(text),
            Some('\\') => escaped(cursor, start, &mut text)?,
            Some(c) => push(&mut text, c),
            None => return Err(cursor.error(opening, format!("missing the closing `{quote}`"))),
        }
    }
}

/// Reads what follows the backslash at `start`.
fn escaped(cursor: &mut Cursor<'_>, start: usize, text: &mut Vec<u8>) -> Result<(), SpecError> {
    let is_digit = |c: char| c.is_ascii_hexdigit();
    let known = match cursor.bump() {
        Some(c @ ('"' | '\'' | '\\')) => {
            push(text, c);
            true
        }
        Some('n') => {
            text.push(b'\n');
            true
        }
        Some('t') => {
            text.push(b'\t');
            true
        }
        Some('r') => {
            text.push(b'\r');
            true
        }
        Some('0') => {
            text.push(0);
            true
        }
        Some('x') => {
            let digits = cursor.rest().get(..2).filter(|digits| digits.chars().all(is_digit));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            text.extend(byte);
            byte.is_some() && cursor.bump().is_some() && cursor.bump().is_some()
        }
        Some('u') if cursor.eat("{") => {
            let digits = cursor.take_while(is_digit);
            let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            c.is_some_and(|c| {
                push(text, c);
                cursor.eat("}")
            })
        }
        _ => false,
    };
    if known {
        return Ok(());
    }
    Err(cursor.error(cursor.span_since(start), "unknown escape").with_hint(ESCAPES))
}

fn push(text: &mut Vec<u8>, c: char) {
    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Writes text in quotes, so that it is read as the same bytes and a terminal can show it.
pub(super) fn write_quoted(f: &mut fmt::Formatter<'_>, text: &[u8], quote: char) -> fmt::Result {
    f.write_char(quote)?;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                c if c == quote => write!(f, "\\{c}")?,
                c if is_hidden(c) && c.is_ascii() => write!(f, "\\x{:02x}", u32::from(c))?,
                c if is_hidden(c) => write!(f, "{}", c.escape_unicode())?,
                c => f.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    f.write_char(quote)
}
