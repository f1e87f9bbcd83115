//! A probe's text from end to end: the target, the offset, and the order of the parts.

use std::str::FromStr;

use super::cursor::Cursor;
use super::quoted::{self, QUOTE_HINT, check_unquoted};
use super::{FunctionPattern, ProbeSpec, SpecError, args, function, value};

/// What may follow the function, in its order.
const PARTS: [&str; 3] = ["`+OFFSET`", "`(ARGS)`", "`-> TYPE`"];

impl FromStr for ProbeSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut cursor = Cursor::new(text);
        let target = target(&mut cursor)?;
        let function = function::function(&mut cursor)?;
        let mut missing = &PARTS[..];

        cursor.skip_space();
        let offset = if cursor.eat("+") {
            missing = &PARTS[1..];
            offset(&mut cursor)?
        } else {
            0
        };
        cursor.skip_space();
        let args = if cursor.peek() == Some('(') {
            missing = &PARTS[2..];
            args::args(&mut cursor)?
        } else {
            Vec::new()
        };
        cursor.skip_space();
        let ret = if cursor.eat("->") {
            missing = &[];
            Some(value::return_type(&mut cursor)?)
        } else {
            None
        };
        cursor.skip_space();
        if !cursor.at_end() {
            return Err(trailing(&mut cursor, &function, missing));
        }
        Ok(Self { target, function, offset, args, ret })
    }
}

/// Reads the target and the `:` after it.
pub(super) fn target(cursor: &mut Cursor<'_>) -> Result<String, SpecError> {
    let start = cursor.position();
    if cursor.at_end() {
        return Err(cursor
            .error_here("empty probe")
            .with_hint("a probe is `TARGET:FUNCTION`, such as `libc:open`"));
    }
    let target =
        if cursor.peek() == Some('"') { quoted::read(cursor)? } else { unquoted_target(cursor)? };
    let span = cursor.span_since(start);
    if !cursor.eat(":") {
        let text = cursor.since(start);
        let hint = if target.contains('/') && !target.contains('"') {
            format!("`{text}:FUNCTION`")
        } else {
            "a probe is `TARGET:FUNCTION`, such as `libc:open`".to_owned()
        };
        let message = "expected `:` and a function after the target";
        return Err(cursor.error_here(message).with_hint(hint));
    }
    if target.is_empty() {
        let span = if span.is_empty() { start..start + 1 } else { span };
        return Err(cursor
            .error(span, "expected a target before `:`")
            .with_hint("a path, a library such as `libc`, or a command"));
    }
    Ok(target)
}

fn unquoted_target(cursor: &mut Cursor<'_>) -> Result<String, SpecError> {
    let start = cursor.position();
    let text = cursor.take_while(|c| c != ':');
    check_unquoted(cursor, start)?;
    // In `open(path: str)` the first `:` is an argument's.
    if !cursor.at_end() && text.matches('(').count() > text.matches(')').count() {
        return Err(cursor
            .error(start..start, "expected `TARGET:` before the function")
            .with_hint("put a target that contains `(` in quotes"));
    }
    let trimmed = text.trim_end();
    if trimmed.len() < text.len() && !cursor.at_end() {
        let span = start + trimmed.len()..cursor.position();
        return Err(cursor.error(span, "white space between the target and `:`"));
    }
    Ok(text.to_owned())
}

/// Reads the number after `+`.
fn offset(cursor: &mut Cursor<'_>) -> Result<u64, SpecError> {
    cursor.skip_space();
    let start = cursor.position();
    let token = cursor.take_while(|c| c.is_ascii_alphanumeric());
    let (digits, radix) = match token.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (token, 10),
    };
    if let Ok(offset) = u64::from_str_radix(digits, radix) {
        return Ok(offset);
    }
    let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    if token.is_empty() {
        return Err(cursor
            .error_here("expected an offset after `+`")
            .with_hint("a number of bytes, such as `+0x10`"));
    }
    let span = cursor.span_since(start);
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    Err(if is_number {
        cursor.error(span, "the offset does not fit in 64 bits")
    } else if is_hex(token) {
        cursor.error(span, "invalid offset").with_hint(format!("in hexadecimal, `0x{token}`"))
    } else {
        cursor.error(span, "invalid offset").with_hint("a number of bytes, such as `+0x10`")
    })
}

/// The error for what is left behind the parts of a probe; `missing` are those that could follow.
fn trailing(cursor: &mut Cursor<'_>, function: &FunctionPattern, missing: &[&str]) -> SpecError {
    let rest = cursor.rest();
    let message = match missing {
        [] => "expected the end of the probe".to_owned(),
        parts => format!("expected {} or the end of the probe", parts.join(", ")),
    };
    let nothing_before = missing.len() == PARTS.len();
    let hint = if rest.starts_with([':', '=', '>', '-']) && !missing.is_empty() {
        "write the return type as `-> TYPE`"
    } else if nothing_before && matches!(function, FunctionPattern::Regex(_)) {
        r"in a regular expression `/` is written `\/`, and flags go inside: `/(?i)ssl/`"
    } else if rest.starts_with(',') {
        "give each probe as a separate argument"
    } else if rest.starts_with('+') && !nothing_before {
        "the offset goes directly after the function"
    } else if rest.starts_with('(') && missing.is_empty() {
        "arguments go before `->`"
    } else if nothing_before || rest.starts_with(['.', '(']) {
        QUOTE_HINT
    } else {
        ""
    };
    let start = cursor.position();
    cursor.take_while(|_| true);
    let error = cursor.error(cursor.span_since(start), message);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValueType;

    fn parse(text: &str) -> ProbeSpec {
        text.parse().unwrap()
    }

    /// Check that all parts of a probe are read together.
    #[test]
    fn whole_probes() {
        let probe = parse("libssl.so.3:SSL_*+0x1f(_, buf: bytes[16]) -> i32");
        assert_eq!(probe.target, "libssl.so.3");
        assert_eq!(probe.function, FunctionPattern::Glob("SSL_*".to_owned()));
        assert_eq!(probe.offset, 31);
        assert_eq!(probe.args.len(), 2);
        assert!(matches!(probe.ret, Some(ValueType::Int(int)) if int.width_bytes == 4));
    }

    /// Check that white space is free behind the function and around the probe.
    #[test]
    fn white_space() {
        let dense = parse("libc:open+4(a:ptr)->i32");
        assert_eq!(parse("\n libc:open + 4 ( a : ptr ) -> i32 \n"), dense);
        assert_eq!(parse("libc:open->i32"), parse("libc:open() -> i32"));
    }

    /// Check that a target may be any text, in quotes where it has a `:`.
    #[test]
    fn targets() {
        for (text, target) in [
            ("/usr/bin/bash:f", "/usr/bin/bash"),
            ("/opt/my app (x86)/a:f", "/opt/my app (x86)/a"),
            ("./a->b+c:f", "./a->b+c"),
            (r#"a"b\c:f"#, r#"a"b\c"#),
            (r#""/odd:path":f"#, "/odd:path"),
            (r#""a\"\\b":f"#, r#"a"\b"#),
            (r#"" a ":f"#, " a "),
            (r#""f(":f"#, "f("),
        ] {
            assert_eq!(parse(text).target, target);
        }
    }

    /// Check that offsets are decimal or hexadecimal.
    #[test]
    fn offsets() {
        for (text, offset) in
            [("+0", 0), ("+10", 10), ("+0x10", 16), ("+0xffffffffffffffff", u64::MAX)]
        {
            assert_eq!(parse(&format!("a:f{text}")).offset, offset);
        }
    }

    /// Check that each mistake has its message at the right place.
    #[test]
    fn mistakes() {
        let more = "expected `+OFFSET`, `(ARGS)`, `-> TYPE` or the end of the probe";
        for (text, at, message) in [
            ("", 0..0, "empty probe"),
            ("  ", 2..2, "empty probe"),
            ("open", 4..4, "expected `:` and a function after the target"),
            ("/usr/bin/bash ", 13..13, "expected `:` and a function after the target"),
            ("open(path: str)", 0..0, "expected `TARGET:` before the function"),
            (":open", 0..1, "expected a target before `:`"),
            ("\"\":open", 0..2, "expected a target before `:`"),
            ("\"libc\"open", 6..7, "expected `:` and a function after the target"),
            ("libc :open", 4..5, "white space between the target and `:`"),
            ("li\tbc:open", 2..3, r"hidden character `\u{9}`"),
            ("libc:", 5..5, "expected a function name"),
            ("libc::open", 5..6, "expected a function name, found `:`"),
            ("/odd:path:f", 9..10, "single `:` in a function name"),
            ("libc:open+", 10..10, "expected an offset after `+`"),
            ("libc:open+-4", 10..11, "expected an offset after `+`"),
            ("libc:open+1f", 10..12, "invalid offset"),
            ("libc:open+4KiB", 10..14, "invalid offset"),
            ("libc:open+0x", 10..12, "invalid offset"),
            ("libc:open+18446744073709551616", 10..30, "the offset does not fit in 64 bits"),
            ("libc:open(path", 10..14, "expected `: TYPE` after `path`"),
            ("libc:open ->", 12..12, "expected a type after `->`"),
            ("libc:open i32", 10..13, more),
            ("libc:open,close", 9..15, more),
            ("libc:open)", 9..10, more),
            ("libc:/usr/bin/f", 10..15, more),
            ("libc:open+4 x", 12..13, "expected `(ARGS)`, `-> TYPE` or the end of the probe"),
            ("libc:open(): i32", 11..16, "expected `-> TYPE` or the end of the probe"),
            ("libc:open -> i32 (a: u8)", 17..24, "expected the end of the probe"),
        ] {
            let error = text.parse::<ProbeSpec>().unwrap_err();
            assert_eq!((error.span(), error.message()), (at, message), "{text}");
        }
    }

    /// Check that hints say what to write instead.
    #[test]
    fn hints() {
        for (text, hint) in [
            ("/usr/bin/bash", "`/usr/bin/bash:FUNCTION`"),
            ("libc:open+1f", "in hexadecimal, `0x1f`"),
            ("libc:open(): i32", "write the return type as `-> TYPE`"),
            ("libc:open -> i32 (a: u8)", "arguments go before `->`"),
            ("libc:open()+4", "the offset goes directly after the function"),
            ("libc:a,b", "give each probe as a separate argument"),
            ("libc:open(flags: size_t)", "did you mean `u64`?"),
        ] {
            let error = text.parse::<ProbeSpec>().unwrap_err();
            assert_eq!(error.hint(), Some(hint), "{text}");
        }
        let go = "app:main.(*T).f".parse::<ProbeSpec>().unwrap_err();
        assert!(go.hint().unwrap().contains("quotes"));
    }
}
