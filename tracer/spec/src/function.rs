//! The `FUNCTION` part of a probe: where it ends, and what kind of pattern it is.
//!
//! Takes the cursor after the `:` that ends the target and leaves it on the first character after the
//! function. What may follow is not known here.

use super::cursor::Cursor;
use super::pattern::class_len;
use super::quoted::{self, QUOTE_HINT, check_unquoted};
use super::{FunctionPattern, SpecError};

/// Characters that no unquoted name has outside of `<…>` and `{…}`.
const ENDS_NAME: &str = "+()]>},;\"";

/// Reads a function.
pub(super) fn function(cursor: &mut Cursor<'_>) -> Result<FunctionPattern, SpecError> {
    let start = cursor.position();
    match cursor.peek() {
        Some('"') => {
            let name = quoted::read(cursor)?;
            if name.is_empty() {
                return Err(cursor.error(cursor.span_since(start), "expected a function name"));
            }
            Ok(FunctionPattern::Name(name))
        }
        Some('/') => regex(cursor),
        Some(c) if c.is_whitespace() => {
            cursor.skip_space();
            Err(cursor.error(cursor.span_since(start), "white space between `:` and the function"))
        }
        Some(':') => {
            cursor.take_while(|c| c == ':');
            Err(cursor
                .error(cursor.span_since(start), "expected a function name, found `:`")
                .with_hint("a probe is `TARGET:FUNCTION`, such as `myprogram:ns::function`"))
        }
        _ => name_or_glob(cursor),
    }
}

fn name_or_glob(cursor: &mut Cursor<'_>) -> Result<FunctionPattern, SpecError> {
    let start = cursor.position();
    let mut is_glob = false;
    // The closing character of each open bracket, and where it was opened.
    let mut open: Vec<(char, usize)> = Vec::new();
    while let Some(c) = cursor.peek() {
        match c {
            '[' => {
                skip_class(cursor)?;
                is_glob = true;
                continue;
            }
            // The arrow of a function type closes nothing.
            '-' if !open.is_empty() && cursor.eat("->") => continue,
            '>' | '}' if open.last().is_some_and(|(closing, _)| *closing == c) => {
                open.pop();
            }
            '<' => open.push(('>', cursor.position())),
            '{' => open.push(('}', cursor.position())),
            '*' | '?' => is_glob = true,
            _ if !open.is_empty() => {}
            ':' if cursor.eat("::") => continue,
            ':' => return Err(single_colon(cursor)),
            '-' if cursor.rest().starts_with("->") => break,
            c if c.is_whitespace() || ENDS_NAME.contains(c) => break,
            _ => {}
        }
        cursor.bump();
    }
    if let Some((closing, at)) = open.first() {
        return Err(cursor
            .error(*at..*at + 1, format!("missing the closing `{closing}`"))
            .with_hint(QUOTE_HINT));
    }
    check_unquoted(cursor, start)?;
    let text = cursor.since(start);
    if text.is_empty() {
        let hint = if cursor.peek() == Some('(') {
            QUOTE_HINT
        } else {
            "a name, a glob such as `SSL_*`, or `/regex/`"
        };
        return Err(cursor.error_here("expected a function name").with_hint(hint));
    }
    // `operator()` would be read as `operator` with no arguments, which nobody means.
    if text == "operator" || text.ends_with("::operator") {
        let span = cursor.position() - "operator".len()..cursor.position();
        return Err(cursor.error(span, "`operator` is not a complete name").with_hint(QUOTE_HINT));
    }
    let text = text.to_owned();
    Ok(if is_glob { FunctionPattern::Glob(text) } else { FunctionPattern::Name(text) })
}

/// Steps over a bracket class of a glob.
fn skip_class(cursor: &mut Cursor<'_>) -> Result<(), SpecError> {
    let start = cursor.position();
    let len = class_len(cursor.rest()).map_err(|fault| {
        cursor.error(start..start + fault.len, fault.message).with_hint(QUOTE_HINT)
    })?;
    while cursor.position() < start + len {
        cursor.bump();
    }
    Ok(())
}

fn single_colon(cursor: &Cursor<'_>) -> SpecError {
    cursor
        .error_here("single `:` in a function name")
        .with_hint("put a target or function that contains `:` in quotes, as in `\"/odd:path\":f`")
}

/// Reads `/regex/`.
fn regex(cursor: &mut Cursor<'_>) -> Result<FunctionPattern, SpecError> {
    let slash = cursor.next_span();
    cursor.bump();
    let start = cursor.position();
    let mut pattern = String::new();
    loop {
        match cursor.bump() {
            Some('/') => break,
            // The character after a backslash is never the end, and a slash needs none by itself.
            Some('\\') => match cursor.bump() {
                Some('/') => pattern.push('/'),
                Some(c) => pattern.extend(['\\', c]),
                None => {}
            },
            Some(c) => pattern.push(c),
            None => return Err(cursor.error(slash, "missing the closing `/`")),
        }
    }
    check_unquoted(cursor, start)
        .map_err(|error| error.with_hint(r"in a regular expression, write `\x1b` or `\t`"))?;
    let raw = cursor.since(start);
    check_regex(cursor, start, raw.strip_suffix('/').unwrap_or(raw), &pattern)?;
    Ok(FunctionPattern::Regex(pattern))
}

/// Maximum size of a compiled regular expression. Compiling up to this size takes milliseconds; with the
/// default limit of 10 MiB, `(.*){9999}x` took 40 seconds on libc.
const MAX_REGEX_BYTES: usize = 2 << 20;

/// Refuses a regular expression that does not compile.
///
/// `raw` is the expression as it stands in the input at `start`, where `\/` means the same as `/`:
/// a fault's place in it is its place in the input.
fn check_regex(
    cursor: &Cursor<'_>,
    start: usize,
    raw: &str,
    pattern: &str,
) -> Result<(), SpecError> {
    let whole = start..start + raw.len();
    if raw.is_empty() {
        return Err(cursor.error(start - 1..start + 1, "empty regular expression"));
    }
    let (span, kind) = match regex_syntax::parse(raw) {
        Ok(_) => {
            // The syntax is right; what is left is the size of what it compiles to.
            return regex::RegexBuilder::new(pattern)
                .size_limit(MAX_REGEX_BYTES)
                .build()
                .map(|_| ())
                .map_err(|_| {
                    cursor
                        .error(whole, "the regular expression is too large")
                        .with_hint("repeat less: `{N}` makes N copies of what it repeats")
                });
        }
        Err(regex_syntax::Error::Parse(error)) => (*error.span(), error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => (*error.span(), error.kind().to_string()),
        Err(error) => return Err(cursor.error(whole, error.to_string())),
    };
    let at = span.start.offset..span.end.offset;
    let span = if raw.get(at.clone()).is_some() { start + at.start..start + at.end } else { whole };
    Err(cursor.error(span, format!("invalid regular expression: {kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The function that `text` begins with, and what is left of the text.
    fn read(text: &str) -> Result<(FunctionPattern, &str), SpecError> {
        let mut cursor = Cursor::verbatim(text);
        let function = function(&mut cursor)?;
        Ok((function, cursor.rest()))
    }

    /// Check that names of C, C++, Rust, Go and versioned symbols are read whole.
    #[test]
    fn names() {
        for name in [
            "open",
            "ns::Type::f",
            "~Type",
            "ns::Type::~Type",
            "memcpy@GLIBC_2.2.5",
            "memcpy@@GLIBC_2.14",
            "f.part.0",
            "f$x",
            "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
            "std::vector<int, std::allocator<int> >::push_back",
            "std::function<void (int)>::call",
            "<T as core::fmt::Debug>::fmt",
            "<&str as Trait>::f",
            "<fn(i32) -> u32 as Trait>::f",
            "<dyn A + Send>::f",
            "a::b::{{closure}}",
            "a::{closure#0}::f",
            "f::{lambda(int)#1}::g",
            "main.run.func1",
            "github.com/a/b-c.F",
            "operator=",
            "operator_",
            "my_operator",
        ] {
            for rest in ["", "+4", "(a: i32)", " -> i32", "->i32"] {
                let text = format!("{name}{rest}");
                assert_eq!(read(&text), Ok((FunctionPattern::Name(name.to_owned()), rest)));
            }
        }
    }

    /// Check that a wildcard makes a glob, and that a class may hold any character.
    #[test]
    fn globs() {
        for glob in ["SSL_*", "?", "f[a-z]", "std::vector<*>::push_back", "f[(]*[+ :]", "f<char*>"]
        {
            let text = format!("{glob}(a: i32)");
            assert_eq!(read(&text), Ok((FunctionPattern::Glob(glob.to_owned()), "(a: i32)")));
        }
    }

    /// Check that a regular expression ends at its slash, and that an escaped slash is a slash.
    #[test]
    fn regexes() {
        for (text, pattern, rest) in [
            ("/^SSL_(read|write)$/", "^SSL_(read|write)$", ""),
            (r"/a\/b/+4", "a/b", "+4"),
            (r"/a\\/(b: i32)", r"a\\", "(b: i32)"),
            (r"/\d+ -> x/ -> i32", r"\d+ -> x", " -> i32"),
        ] {
            assert_eq!(read(text), Ok((FunctionPattern::Regex(pattern.to_owned()), rest)));
        }
    }

    /// Check that a quoted function is an exact name, whatever is in it.
    #[test]
    fn quoted_names() {
        for (text, name) in [
            (r#""ns::f(int, char)""#, "ns::f(int, char)"),
            (r#""operator[]""#, "operator[]"),
            (r#""a*""#, "a*"),
            (r#""/x/""#, "/x/"),
            (r#""type:.eq.a""#, "type:.eq.a"),
        ] {
            assert_eq!(read(text), Ok((FunctionPattern::Name(name.to_owned()), "")));
        }
    }

    /// Check that an error points at what is not a function.
    #[test]
    fn wrong_functions() {
        for (text, span, message) in [
            ("", 0..0, "expected a function name"),
            ("\"\"", 0..2, "expected a function name"),
            ("(a: i32)", 0..1, "expected a function name"),
            ("+4", 0..1, "expected a function name"),
            ("  f", 0..2, "white space between `:` and the function"),
            (":f", 0..1, "expected a function name, found `:`"),
            ("a::b:c", 4..5, "single `:` in a function name"),
            ("f[a-z", 1..2, "missing the closing `]`"),
            ("operator[]", 8..10, "`[]` selects nothing"),
            ("operator<", 8..9, "missing the closing `>`"),
            ("f::{a<b}", 3..4, "missing the closing `}`"),
            ("ns::operator()", 4..12, "`operator` is not a complete name"),
            ("operator+", 0..8, "`operator` is not a complete name"),
            ("operator->", 0..8, "`operator` is not a complete name"),
            ("a\u{1b}b", 1..2, r"hidden character `\u{1b}`"),
            ("/a", 0..1, "missing the closing `/`"),
            ("/a\\", 0..1, "missing the closing `/`"),
            ("//", 0..2, "empty regular expression"),
            ("/a\tb/", 2..3, r"hidden character `\u{9}`"),
            ("/a(b/", 2..3, "invalid regular expression: unclosed group"),
            (r"/\/é(/", 5..6, "invalid regular expression: unclosed group"),
            (r"/a\p{Xx}/", 2..8, "invalid regular expression: Unicode property not found"),
            ("/(a{1000}){1000}/", 1..16, "the regular expression is too large"),
            ("/(.*){9999}x/", 1..12, "the regular expression is too large"),
            ("/\\pL{1000}/", 1..10, "the regular expression is too large"),
            ("/(\\w{1,50}_){1,50}$/", 1..19, "the regular expression is too large"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.span(), error.message()), (span, message), "{text}");
        }
    }
}
