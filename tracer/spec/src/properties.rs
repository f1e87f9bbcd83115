//! What holds for every probe and for every text: properties over generated ones.

use proptest::prelude::*;

use super::text::is_hidden;
use super::types::{Bytes, BytesLen};
use super::{ArgSpec, FunctionPattern, MAX_ARGS, ProbeSpec, ValueType};

/// Pieces that mean something to the parser, so that chance finds their combinations.
const TOKENS: [&str; 40] = [
    ":", "::", "+", "(", ")", " ", "->", "-", ">", "<", "[", "]", "{", "}", "/", "\\", "\"", "*",
    "?", ",", "_", "@", "~", "$", ".", "0x10", "9", "i32", "u64", "bytes", "str", "n", "libc",
    "operator", "\\u{", "\t", "\u{1b}", "\u{202e}", "漢", "e\u{301}",
];

fn hostile_text() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        3 => prop::sample::select(&TOKENS[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(token, 1..12).prop_map(|tokens| tokens.concat())
}

fn function() -> impl Strategy<Value = FunctionPattern> {
    prop_oneof![
        "[a-z_]{1,6}(::[a-z]{1,4}){0,2}(<[a-z, *]{0,5}>)?".prop_map(FunctionPattern::Name),
        hostile_text().prop_map(FunctionPattern::Name),
        r"([a-z_]:?){0,3}(\*|\?|\[[!]?[(+ ]{1,3}\]|<a \*, b>){1,3}"
            .prop_map(|glob| FunctionPattern::Glob(glob.replace(':', "::"))),
        r"(\\[/d.\\]|/|[a-z]|\[/x\]| -> ){1,8}"
            // The parser gives `/` for `\/`.
            .prop_map(|pattern| FunctionPattern::Regex(unescape_slashes(&pattern))),
    ]
}

fn unescape_slashes(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('/') => out.push('/'),
            escaped => out.extend(Some(c).into_iter().chain(escaped)),
        }
    }
    out
}

/// Arguments, some with the length of another.
fn args() -> impl Strategy<Value = Vec<ArgSpec>> {
    let arg = (
        prop::option::weighted(0.8, "[a-z_]{0,3}"),
        ValueType::any(),
        any::<Option<prop::sample::Index>>(),
    );
    prop::collection::vec(arg, 0..=MAX_ARGS).prop_map(|raw| {
        let is_int = |index: usize| raw[index].0.is_some() && raw[index].1.as_length().is_some();
        let arg = |(index, (name, ty, length)): (
            usize,
            &(Option<String>, _, Option<prop::sample::Index>),
        )| {
            let Some(name) = name else { return ArgSpec::Skip };
            let ty = match length.map(|length| length.index(raw.len())) {
                Some(length) if is_int(length) && !is_int(index) => {
                    Bytes { length: BytesLen::Arg(length) }.into()
                }
                _ => ValueType::clone(ty),
            };
            // The number keeps names apart.
            ArgSpec::Read { name: format!("{name}_{index}"), ty }
        };
        raw.iter().enumerate().map(arg).collect()
    })
}

fn probe() -> impl Strategy<Value = ProbeSpec> {
    let target = prop_oneof!["[a-z./]{1,8}", hostile_text()];
    let offset = prop_oneof![Just(0), any::<u64>()];
    (target, function(), offset, args(), prop::option::of(ValueType::any())).prop_map(
        |(target, function, offset, args, ret)| ProbeSpec { target, function, offset, args, ret },
    )
}

/// Whatever the text: no panic, an error that points into it and prints safely, and what does
/// parse prints safely and parses again.
fn check_any_text(text: &str) -> Result<(), TestCaseError> {
    let printed = match text.parse::<ProbeSpec>() {
        Ok(probe) => {
            let printed = probe.to_string();
            prop_assert_eq!(printed.parse::<ProbeSpec>(), Ok(probe));
            printed
        }
        Err(error) => {
            prop_assert_eq!(error.input(), text);
            prop_assert!(text.get(error.span()).is_some());
            prop_assert_eq!(error.to_string().lines().count(), 3);
            error.to_string()
        }
    };
    prop_assert!(!printed.replace('\n', "").contains(is_hidden), "{:?}", printed);
    Ok(())
}

proptest! {
    /// Check that printing and parsing a probe gives the same probe.
    #[test]
    fn print_then_parse_is_the_identity(probe in probe()) {
        let printed = probe.to_string();
        prop_assert_eq!(printed.parse::<ProbeSpec>(), Ok(probe), "{}", printed);
        prop_assert!(!printed.contains(is_hidden), "{:?}", printed);
    }

    /// Check that arbitrary text is parsed or refused in order.
    #[test]
    fn arbitrary_text(text in any::<String>()) {
        check_any_text(&text)?;
    }

    /// Check that text made of the parser's own tokens is parsed or refused in order.
    #[test]
    fn hostile_texts(text in hostile_text(), more in hostile_text()) {
        check_any_text(&text)?;
        check_any_text(&format!("libc:{text}"))?;
        check_any_text(&format!("libc:f({text}"))?;
        check_any_text(&format!("libc:{text}({more}) -> i32"))?;
    }

    /// Check that a probe with a piece lost, added or swapped is parsed or refused in order.
    #[test]
    fn mutated_probes(
        probe in probe(),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        piece in prop_oneof![Just(String::new()), hostile_text()],
    ) {
        let chars: Vec<char> = probe.to_string().chars().collect();
        let (a, b) = (cut.0.index(chars.len()), cut.1.index(chars.len()));
        let (start, end) = (a.min(b), a.max(b));
        let [before, after] =
            [&chars[..start], &chars[end..]].map(|part| part.iter().collect::<String>());
        let text = format!("{before}{piece}{after}");
        check_any_text(&text)?;
    }
}
