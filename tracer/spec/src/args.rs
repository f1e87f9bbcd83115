//! The `(ARGS)` part of a probe.
//!
//! Takes the cursor on the `(` and leaves it after the `)`. A length may refer to a later argument, so
//! arguments are read first and lengths are looked up in a second step.

use std::ops::Range;

use super::cursor::Cursor;
use super::suggest::{known_elsewhere, nearest};
use super::types::{BytesLen, from_word};
use super::value::{RawType, is_name, value_type};
use super::{ArgSpec, MAX_ARGS, SpecError};

/// For a C++ name with its parameters, or a Go method, written without quotes.
const QUOTE_HINT: &str =
    "write an argument as `name: type`, and put a function name with parentheses in quotes";

/// An argument whose length, if it names one, is not looked up yet.
struct RawArg<'a> {
    /// Absent for `_`.
    read: Option<(&'a str, RawType<'a>)>,
}

/// Reads `(…)`.
pub(super) fn args(cursor: &mut Cursor<'_>) -> Result<Vec<ArgSpec>, SpecError> {
    cursor.eat("(");
    let mut args: Vec<RawArg<'_>> = Vec::new();
    loop {
        cursor.skip_space();
        if cursor.eat(")") {
            break;
        }
        let start = cursor.position();
        let arg = arg(cursor)?;
        if args.len() == MAX_ARGS {
            let message = format!("a probe has at most {MAX_ARGS} arguments");
            return Err(cursor.error(cursor.span_since(start), message));
        }
        if let Some((name, _)) = &arg.read
            && args.iter().any(|other| other.name() == Some(name))
        {
            let message = format!("duplicate argument `{name}`");
            return Err(cursor.error(start..start + name.len(), message));
        }
        args.push(arg);
        cursor.skip_space();
        if !cursor.eat(",") && cursor.peek() != Some(')') {
            let message = if cursor.at_end() { "missing `)`" } else { "expected `,` or `)`" };
            return Err(cursor.error_here(message));
        }
    }
    resolve_lengths(cursor, &args)
}

/// Reads `_` or `name: type`.
fn arg<'a>(cursor: &mut Cursor<'a>) -> Result<RawArg<'a>, SpecError> {
    if cursor.at_end() {
        return Err(cursor.error_here("missing `)`"));
    }
    let start = cursor.position();
    // Letters of other scripts are taken too, for an error that points at the whole name.
    let name = cursor.take_while(|c| c.is_alphanumeric() || c == '_');
    let span = cursor.span_since(start);
    if !is_name(name) {
        let message = "expected an argument: `name: type` or `_`";
        return Err(if !name.is_empty() {
            cursor.error(span, message).with_hint(
                "a name has ASCII letters, digits and `_`, and does not start with a digit",
            )
        } else if cursor.rest().starts_with(['*', '&']) {
            cursor.error_here(message).with_hint(QUOTE_HINT)
        } else {
            cursor.error_here(message)
        });
    }
    cursor.skip_space();
    let is_path = cursor.rest().starts_with("::");
    let typed = !is_path && cursor.eat(":");
    if name == "_" {
        if typed {
            return Err(cursor
                .error(span, "`_` skips an argument and has no type")
                .with_hint("give it a name to read it"));
        }
        return Ok(RawArg { read: None });
    }
    if !typed {
        let error = cursor.error(span, format!("expected `: TYPE` after `{name}`"));
        let is_type = matches!(name, "const" | "struct")
            || from_word(name).is_some()
            || known_elsewhere(name).is_some();
        return Err(if is_type || is_path { error.with_hint(QUOTE_HINT) } else { error });
    }
    cursor.skip_space();
    Ok(RawArg { read: Some((name, value_type(cursor)?)) })
}

/// Finds the argument that each `bytes[name]` names.
fn resolve_lengths(cursor: &Cursor<'_>, args: &[RawArg<'_>]) -> Result<Vec<ArgSpec>, SpecError> {
    let mut resolved = Vec::with_capacity(args.len());
    for arg in args {
        resolved.push(match &arg.read {
            None => ArgSpec::Skip,
            Some((name, RawType::Value(ty))) => {
                ArgSpec::Read { name: (*name).to_owned(), ty: ty.clone() }
            }
            Some((name, RawType::OfArgument { name: length, span, of })) => {
                if name == length {
                    let message = format!("`{name}` cannot hold its own length");
                    return Err(cursor.error(span.clone(), message));
                }
                let index = length_index(cursor, args, length, span)?;
                ArgSpec::Read { name: (*name).to_owned(), ty: of(BytesLen::Arg(index)) }
            }
        });
    }
    Ok(resolved)
}

/// The place of the integer argument `length` in the list.
fn length_index(
    cursor: &Cursor<'_>,
    args: &[RawArg<'_>],
    length: &str,
    span: &Range<usize>,
) -> Result<usize, SpecError> {
    let Some(index) = args.iter().position(|arg| arg.name() == Some(length)) else {
        let error = cursor.error(span.clone(), format!("no argument `{length}`"));
        let integers = args.iter().filter(|arg| arg.is_integer()).filter_map(RawArg::name);
        return Err(match nearest(length, integers) {
            Some(name) => error.with_hint(format!("did you mean `{name}`?")),
            None => error.with_hint(format!("list it: `{length}: u64`")),
        });
    };
    if args[index].is_integer() {
        Ok(index)
    } else {
        Err(cursor
            .error(span.clone(), format!("`{length}` is not an integer"))
            .with_hint("a length is an argument of type i8…i64, u8…u64 or x8…x64"))
    }
}

impl<'a> RawArg<'a> {
    fn name(&self) -> Option<&'a str> {
        self.read.as_ref().map(|(name, _)| *name)
    }

    fn is_integer(&self) -> bool {
        matches!(&self.read, Some((_, RawType::Value(ty))) if ty.as_length().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValueType;
    use crate::types::{Bytes, Int, IntFormat};

    fn read(name: &str, ty: ValueType) -> ArgSpec {
        ArgSpec::Read { name: name.to_owned(), ty }
    }

    fn int(width_bytes: u8, format: IntFormat) -> ValueType {
        Int { width_bytes, format }.into()
    }

    /// Check that lengths are found before and behind, and white space is free.
    #[test]
    fn lists() {
        let u64_type = int(8, IntFormat::Unsigned);
        let bytes = |index| ValueType::from(Bytes { length: BytesLen::Arg(index) });
        for (text, wanted) in [
            ("()", vec![]),
            ("( )", vec![]),
            ("(_)", vec![ArgSpec::Skip]),
            ("(_, _,)", vec![ArgSpec::Skip, ArgSpec::Skip]),
            ("(b: bytes[n], n: u64)", vec![read("b", bytes(1)), read("n", u64_type.clone())]),
            ("(n:u64,b:bytes[n])", vec![read("n", u64_type.clone()), read("b", bytes(0))]),
            ("(\t_ ,\n_x : u64 )", vec![ArgSpec::Skip, read("_x", u64_type)]),
        ] {
            assert_eq!(args(&mut Cursor::new(text)), Ok(wanted), "{text}");
        }
    }

    /// Check that each mistake in a list has its own message, at the right place.
    #[test]
    fn wrong_lists() {
        for (text, at, message) in [
            ("(", "", "missing `)`"),
            ("(a: i32", "", "missing `)`"),
            ("(a: i32,", "", "missing `)`"),
            ("(a: i32 -> u8)", "-", "expected `,` or `)`"),
            ("(,)", ",", "expected an argument: `name: type` or `_`"),
            ("(*T)", "*", "expected an argument: `name: type` or `_`"),
            ("(1a: u8)", "1a", "expected an argument: `name: type` or `_`"),
            ("(_été: u8)", "_été", "expected an argument: `name: type` or `_`"),
            ("(path)", "path", "expected `: TYPE` after `path`"),
            ("(int)", "int", "expected `: TYPE` after `int`"),
            ("(std::string s)", "std", "expected `: TYPE` after `std`"),
            ("(_: u8)", "_", "`_` skips an argument and has no type"),
            ("(a: )", ")", "expected a type"),
            ("(a: uint32)", "uint32", "unknown type `uint32`"),
            ("(a: const char *, b: u8)", "const char *", "unknown type `const char *`"),
            ("(a: char *)", "char *", "unknown type `char *`"),
            ("(a: &[u8])", "&[u8]", "unknown type `&[u8]`"),
            ("(a: string[4])", "string", "unknown type `string`"),
            ("(a: bytes)", "bytes", "`bytes` needs a length"),
            ("(a: u8[4])", "[", "`u8` has no length"),
            ("(a: bytes[4)", "[", "missing the closing `]`"),
            (
                "(a: bytes[])",
                "",
                "expected a number of bytes, or the name of the argument that holds it",
            ),
            (
                "(n: u8, a: bytes[n+1])",
                "n+1",
                "expected a number of bytes, or the name of the argument that holds it",
            ),
            ("(n: u8, a: str[n])", "n", "expected a number of bytes"),
            ("(a: bytes[0])", "0", "invalid length: must be from 1 to 32768 bytes"),
            ("(a: str[32769])", "32769", "invalid length: must be from 1 to 32768 bytes"),
            (
                "(a: str[99999999999999999999])",
                "99999999999999999999",
                "invalid length: must be from 1 to 32768 bytes",
            ),
            ("(a: bytes[b])", "b", "no argument `b`"),
            ("(a: bytes[a])", "a", "`a` cannot hold its own length"),
            ("(p: ptr, a: bytes[p])", "p", "`p` is not an integer"),
            ("(a: bytes[b], b: bytes[a])", "b", "`b` is not an integer"),
            ("(a: u8, a: u8)", "a", "duplicate argument `a`"),
        ] {
            let error = args(&mut Cursor::new(text)).unwrap_err();
            assert_eq!((&text[error.span()], error.message()), (at, message), "{text}");
        }
    }

    /// Check that a second argument of the same name is the one pointed at, and that a length's
    /// fault points into the brackets.
    #[test]
    fn faults_point_at_the_right_one_of_two() {
        for (text, span) in [("(a: u8, a: u8)", 8..9), ("(a: bytes[a])", 10..11)] {
            assert_eq!(args(&mut Cursor::new(text)).unwrap_err().span(), span);
        }
    }

    /// Check that a misspelled length is suggested among the integer arguments only.
    #[test]
    fn near_lengths() {
        let hint = |text| args(&mut Cursor::new(text)).unwrap_err().hint().unwrap().to_owned();
        assert_eq!(hint("(b: bytes[cuont], count: u64)"), "did you mean `count`?");
        assert_eq!(hint("(b: bytes[cuont], count: ptr)"), "list it: `cuont: u64`");
    }

    /// Check that the hint for a C++ name with its parameters is to quote it.
    #[test]
    fn parameters_of_a_name_are_recognized() {
        for text in ["(int, char)", "(const char*)", "(std::string)", "(*T).f"] {
            let error = args(&mut Cursor::new(text)).unwrap_err();
            assert_eq!(error.hint(), Some(QUOTE_HINT), "{text}");
        }
        assert_eq!(args(&mut Cursor::new("(path)")).unwrap_err().hint(), None);
    }

    /// Check that the seventeenth argument is one too many, skipped ones counted.
    #[test]
    fn argument_limit() {
        let full = format!("({})", vec!["_"; MAX_ARGS].join(","));
        assert_eq!(args(&mut Cursor::new(&full)).unwrap().len(), MAX_ARGS);
        let over = format!("({},a: u8)", vec!["_"; MAX_ARGS].join(","));
        let error = args(&mut Cursor::new(&over)).unwrap_err();
        assert_eq!(error.message(), "a probe has at most 16 arguments");
        assert_eq!(&over[error.span()], "a: u8");
    }
}
