use crate::{Check, Condition, Formula, Operand, Order, ProbeSpec, Test, TypeError};

const PROBE: &str = "t:f(fd: i32, size: u64, path: str, flag: bool, c: char, p: ptr, \
                     buf: bytes[size], key: bytes[4], small: i8, mode: x16) -> i32";

fn typed(condition: &str, probe: &str) -> Result<Formula, TypeError> {
    let probe: ProbeSpec = probe.parse().unwrap();
    let condition: Condition = condition.parse().unwrap_or_else(|e| panic!("{e}"));
    condition.typed(&probe)
}

/// Check that precedence is that of C, and white space is free.
#[test]
fn precedence() {
    for (text, canonical) in [
        ("fd==1", "fd == 1"),
        ("a == 1 && b == 2 || c == 3", "a == 1 && b == 2 || c == 3"),
        ("a == 1 && (b == 2 || c == 3)", "a == 1 && (b == 2 || c == 3)"),
        ("(a == 1 && b == 2) || c == 3", "a == 1 && b == 2 || c == 3"),
        ("((a==1))", "a == 1"),
        ("!(a == 1)", "!(a == 1)"),
        ("!a", "!(a)"),
        ("! ! a", "!(!(a))"),
        (" a & 0x40 ", "a & 64"),
        ("a & 0x40 != 0", "a & 64 != 0"),
        ("a&b == 1 && c", ""),
        ("a in { 1,2 , 0x10, }", "a in {1, 2, 16}"),
        ("duration >= 1.5ms", "duration >= 1500000ns"),
        ("size > 64KiB", "size > 65536"),
        ("x == -0x10", "x == -16"),
        (r#"comm != "a\"b\x00\xff\n""#, r#"comm != "a\"b\x00\xff\x0a""#),
        (r"c == '\''", r"c == '\''"),
        ("f == true", "f == true"),
    ] {
        match text.parse::<Condition>() {
            Ok(condition) => assert_eq!(condition.to_string(), canonical, "{text}"),
            Err(error) => assert_eq!(canonical, "", "{error}"),
        }
    }
}

/// Check that each mistake in a condition's text has its message at the right place.
#[test]
fn mistakes() {
    for (text, at, message, hint) in [
        ("", 0..0, "empty condition", "a condition is like"),
        ("size > ", 6..6, "expected a value", "such as"),
        ("size > x", 7..8, "expected a value, found `x`", "put text in quotes"),
        ("size = 1", 5..6, "expected a comparison", "use `==` to compare"),
        (
            "10 < size",
            0..2,
            "expected a name: an argument, `ret`, `duration`, `pid`, `tid` or `comm`",
            "start a comparison with the name",
        ),
        (
            "&& a",
            0..1,
            "expected a name: an argument, `ret`, `duration`, `pid`, `tid` or `comm`",
            "",
        ),
        (
            "a == 1 and b == 2",
            7..8,
            "expected `&&`, `||` or the end of the condition",
            "use `&&` where both must hold",
        ),
        (
            "a == 1 | b == 2",
            7..8,
            "expected `&&`, `||` or the end of the condition",
            "use `||` where one is enough",
        ),
        (
            "a == 1)",
            6..7,
            "expected `&&`, `||` or the end of the condition",
            "it has no matching `(`",
        ),
        ("(a == 1", 0..1, "missing the closing `)`", ""),
        ("!a == 1", 0..1, "`!` needs parentheses", "`!(a == 1)`"),
        ("a in 1", 5..6, "expected a set", "as in"),
        ("a in {1", 5..6, "missing the closing `}`", ""),
        ("a in {}", 6..7, "expected a value", ""),
        ("a == \"x", 5..6, "missing the closing `\"`", ""),
        (r#"a == "\q""#, 6..8, "unknown escape", "escapes are"),
        ("a == 'xy'", 5..9, "a character must be one byte", "double quotes"),
        ("a == 0xfg", 5..9, "`0xfg` is not a hexadecimal number of at most 64 bits", ""),
        ("a == 99999999999999999999", 5..25, "a number has at most 64 bits", ""),
        ("a == 10parsecs", 5..14, "unknown unit `parsecs`", "of time: ns"),
        ("a == -1s", 5..8, "only a plain number can be negative", ""),
    ] {
        let error = text.parse::<Condition>().unwrap_err();
        assert_eq!((error.span(), error.message()), (at, message), "{text}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {error}");
    }
    let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
    assert!(deep.parse::<Condition>().is_err());
}

/// Check that a constant that does not fit its value is pointed at.
#[test]
fn type_errors() {
    for (text, at, message, hint) in [
        (r#"size < "x""#, 7..10, "cannot compare `size`, which is `u64`, with text", "a number"),
        (
            "path == 1",
            8..9,
            "cannot compare `path`, which is `str`, with a number",
            "double quotes",
        ),
        ("path > \"a\"", 0..4, "`path` is `str`: use `==`, `!=`, `^=` or `in`", ""),
        ("path", 0..4, "`path` is `str`: use `==`, `!=`, `^=` or `in`", ""),
        ("size ^= \"a\"", 0..4, "`^=` compares the start of text, but `size` is `u64`", ""),
        (
            "fd == 0xffffffff",
            6..16,
            "`fd` is `i32`: from -2147483648 to 2147483647",
            "`-1` has the same bits",
        ),
        ("size == -1", 8..10, "`size` is `u64`: from 0 to 18446744073709551615", ""),
        ("small == 128", 9..12, "`small` is `i8`: from -128 to 127", "`-128`"),
        ("mode & 0x10000", 7..14, "`mode` is `x16`: from 0 to 65535", ""),
        ("fd & 0x40 == 1", 13..14, "it has bits outside the mask, so the two are never equal", ""),
        ("path & 1", 7..8, "`&` works on numbers, but `path` is `str`", ""),
        (
            "flag == 1",
            8..9,
            "cannot compare `flag`, which is `bool`, with a number",
            "`true` or `false`",
        ),
        ("flag < true", 0..4, "`flag` is true or false and has no order", ""),
        (
            "duration > 10",
            11..13,
            "cannot compare `duration`, which is a duration, with a number",
            "unit",
        ),
        (
            "path == \"a\\x00b\"",
            8..16,
            "a string ends at its first NUL byte, so it is never equal to this",
            "",
        ),
        ("path ^= \"\"", 8..10, "every text starts with the empty text", ""),
        ("comm == \"sixteen letters.\"", 8..26, "a thread name has at most 15 bytes", ""),
        ("key == \"abc\"", 7..12, "`key` has 4 bytes, but this text has 3", ""),
        ("key ^= \"abcde\"", 7..14, "`key` has 4 bytes, but this text has 5", ""),
        ("pid == -1", 7..9, "`pid` is a number: from 0 to 4294967295", ""),
    ] {
        let Err(TypeError::Wrong(error)) = typed(text, PROBE) else { panic!("{text} is fine") };
        assert_eq!((error.span(), error.message()), (at, message), "{text}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {error}");
    }
}

/// Check that a name that a probe lacks is told with the nearest one, and is no fault of the
/// condition itself.
#[test]
fn absent_names() {
    for (text, probe, message, hint) in [
        (
            "szie > 1",
            "t:f(size: u64)",
            "`t:f(size: u64)` has no argument `szie`",
            "did you mean `size`?",
        ),
        ("commm == \"a\"", "t:f", "`t:f` has no argument `commm`", "did you mean `comm`?"),
        (
            "x > 1",
            "t:f",
            "`t:f` has no argument `x`",
            "name it in the probe, as in `FUNCTION(x: i32)`",
        ),
        ("ret < 0", "t:f", "the return of `t:f` is not traced", "to trace it, write `t:f -> i64`"),
        (
            "duration > 1s",
            "t:f",
            "the return of `t:f` is not traced",
            "to trace it, write `t:f -> i64`",
        ),
    ] {
        let Err(TypeError::Absent { error, .. }) = typed(text, probe) else {
            panic!("{text} is fine")
        };
        assert_eq!((error.message(), error.hint()), (message, Some(hint)), "{text}");
    }
    let ambiguous = typed("pid == 1", "t:kill(pid: i32)");
    assert!(matches!(ambiguous, Err(TypeError::Wrong(_))), "{ambiguous:?}");
    assert!(typed("sig == 1", "t:kill(pid: i32, sig: i32)").is_ok());
}

fn number(operand: Operand, order: Order, constant: i128, negated: bool) -> Formula {
    let check = Check::Number { bits: 64, signed: false, mask: u64::MAX, order, constant };
    Formula::Test(Test { operand, check, negated })
}

/// Check that negations end in the comparisons, and the bytes of a range are compared only where
/// there are as many.
#[test]
fn formulas() {
    let size = Operand::Arg(1);
    assert_eq!(typed("!(size > 5)", PROBE).unwrap(), number(size, Order::Greater, 5, true));
    assert_eq!(typed("size <= 5", PROBE).unwrap(), number(size, Order::Greater, 5, true));
    assert_eq!(
        typed("!(size in {1, 2})", PROBE).unwrap(),
        Formula::All(vec![
            number(size, Order::Equal, 1, true),
            number(size, Order::Equal, 2, true)
        ])
    );
    let bytes = |negated| {
        let check = Check::Bytes { text: b"ab".to_vec() };
        Formula::Test(Test { operand: Operand::Arg(6), check, negated })
    };
    for (text, formula) in [
        ("buf == \"ab\"", Formula::All(vec![number(size, Order::Equal, 2, false), bytes(false)])),
        ("buf != \"ab\"", Formula::Any(vec![number(size, Order::Equal, 2, true), bytes(true)])),
        ("buf ^= \"ab\"", Formula::All(vec![number(size, Order::Less, 2, true), bytes(false)])),
        ("!(buf ^= \"ab\")", Formula::Any(vec![number(size, Order::Less, 2, false), bytes(true)])),
    ] {
        assert_eq!(typed(text, PROBE).unwrap(), formula, "{text}");
    }
}

/// Check that what a condition may hold is limited, and said so.
#[test]
fn too_long() {
    let set = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    assert!(typed(&format!("size in {{{}}}", set(64)), PROBE).is_ok());
    let Err(TypeError::Wrong(error)) = typed(&format!("size in {{{}}}", set(65)), PROBE) else {
        panic!("65 comparisons are too many");
    };
    assert!(error.message().starts_with("65 comparisons"), "{error}");
    let mixed = format!("size in {{{}}} || ret < 0", set(16));
    assert!(typed(&mixed, PROBE).is_err());
    assert!(format!("path == \"{}\"", "x".repeat(256)).parse::<Condition>().is_ok());
    assert!(format!("path == \"{}\"", "x".repeat(257)).parse::<Condition>().is_err());
}
