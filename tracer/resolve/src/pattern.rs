//! Which names the function part of a spec selects.
//!
//! Takes a [`FunctionPattern`]; gives a test over names. Knows no file.

use std::cell::RefCell;

use regex_automata::{
    Input, MatchErrorKind, MatchKind,
    hybrid::dfa::{Cache, DFA},
    nfa::thompson::{self, WhichCaptures, pikevm::PikeVM},
    util::syntax,
};

use super::error::ResolveError;
use super::symbols::split_version;
use faultline_spec::FunctionPattern;

/// A function part, ready to be used.
#[derive(Debug)]
pub(super) enum Pattern {
    Name {
        /// As written, without its version.
        name: String,
        version: Option<Version>,
    },
    /// A glob, or a regular expression.
    Matching(Box<Matcher>),
}

/// Matches names against a regular expression, in bounded time for any expression. It uses an automaton
/// that is built lazily, with a memory limit. For an expression that keeps filling the memory, such as
/// `[ab]*a[ab]{500}c`, the matcher gives up.
#[derive(Debug)]
pub(super) struct Matcher {
    names_versions: bool,
    dfa: DFA,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    cache: Cache,
    gave_up: bool,
}

/// The matcher gave up, so its answers are not valid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooComplex;

impl Matcher {
    /// Maximum size of the compiled expression.
    const MAX_BYTES: usize = 4 << 20;
    /// Memory for the lazily built automaton.
    const CACHE_BYTES: usize = 4 << 20;
    /// How often that memory may fill up before efficiency is checked.
    const MAX_CLEARS: usize = 5;
    /// From then on, the bytes that must be searched per state built.
    const LEAST_BYTES_A_STATE: usize = 10;

    /// # Errors
    ///
    /// One line, if the expression is invalid or too large.
    fn new(text: &str) -> Result<Self, String> {
        let nfa = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(Self::MAX_BYTES))
            .which_captures(WhichCaptures::None);
        let config = DFA::config()
            .match_kind(MatchKind::LeftmostFirst)
            .unicode_word_boundary(true)
            .cache_capacity(Self::CACHE_BYTES)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(Self::MAX_CLEARS))
            .minimum_bytes_per_state(Some(Self::LEAST_BYTES_A_STATE));
        // The parser's own error says more than that there was one.
        regex_syntax::ParserBuilder::new()
            .utf8(false)
            .build()
            .parse(text)
            .map_err(|error| last_line(&error.to_string()))?;
        let dfa = DFA::builder()
            .syntax(syntax::Config::new().utf8(false))
            .thompson(nfa)
            .configure(config)
            .build(text)
            .map_err(|_| "it is too large".to_owned())?;
        let state = State { cache: dfa.create_cache(), gave_up: false };
        Ok(Self { names_versions: text.contains('@'), dfa, state: RefCell::new(state) })
    }

    /// Whether any part of the name matches. Always `false` once the matcher has given up.
    pub(super) fn is_match(&self, name: &[u8]) -> bool {
        let State { cache, gave_up } = &mut *self.state.borrow_mut();
        if *gave_up {
            return false;
        }
        match self.dfa.try_search_fwd(cache, &Input::new(name).earliest(true)) {
            Ok(found) => found.is_some(),
            // `\b` next to a non-ASCII letter, which this kind of automaton does not support.
            Err(error) if matches!(error.kind(), MatchErrorKind::Quit { .. }) => {
                match PikeVM::new_from_nfa(self.dfa.get_nfa().clone()) {
                    Ok(vm) => vm.is_match(&mut vm.create_cache(), name),
                    Err(_) => false,
                }
            }
            Err(_) => {
                *gave_up = true;
                false
            }
        }
    }

    /// Whether the expression contains `@`, and so refers to symbol versions.
    pub(super) fn names_versions(&self) -> bool {
        self.names_versions
    }

    /// Whether the answers so far are valid.
    pub(super) fn check(&self) -> Result<(), TooComplex> {
        if self.state.borrow().gave_up { Err(TooComplex) } else { Ok(()) }
    }
}

/// `@VERS` selects any symbol of that version, `@@VERS` only the default one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) only_default: bool,
}

impl Pattern {
    pub(super) fn new(function: &FunctionPattern) -> Result<Self, ResolveError> {
        let bad = |pattern: &str, kind, reason| ResolveError::BadPattern {
            pattern: pattern.to_owned(),
            kind,
            reason,
        };
        let compile = |text: &str| Matcher::new(text).map(Box::new);
        match function {
            FunctionPattern::Name(name) => Ok(Self::name(name)),
            FunctionPattern::Glob(glob) => glob_to_regex(glob)
                .and_then(|text| compile(&text))
                .map(Self::Matching)
                .map_err(|reason| bad(glob, "glob", reason)),
            FunctionPattern::Regex(text) => compile(text)
                .map(Self::Matching)
                .map_err(|reason| bad(text, "regular expression", reason)),
        }
    }

    fn name(name: &str) -> Self {
        let (bare, version) = split_version(name.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self::Name {
            name: text(bare),
            version: version.map(|(name, only_default)| Version { name: text(name), only_default }),
        }
    }
}

/// The pattern as an error names it.
pub(super) fn described(function: &FunctionPattern) -> String {
    match function {
        FunctionPattern::Name(name) => format!("`{name}`"),
        FunctionPattern::Glob(glob) => format!("matching `{glob}`"),
        FunctionPattern::Regex(regex) => format!("matching /{regex}/"),
    }
}

/// One-line reasons: the parser prints the pattern again, with a marker below it.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or(text);
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// `*` any run, `?` one character, `[a-z]` one of, `[!a-z]` none of, `\` takes the next as it is. It also
/// selects the name that is spelled like it, so that `<[T] as Trait>::f` can be pasted.
fn glob_to_regex(glob: &str) -> Result<String, String> {
    // `*` passes over bytes that are no UTF-8 as well.
    const ANY_RUN: &str = "(?s-u:.)*";
    const ANY_ONE: &str = "(?s:.)";
    let mut regex = format!("^(?:{}|", regex_syntax::escape(glob));
    let mut rest = glob.chars();
    while let Some(next) = rest.next() {
        match next {
            '*' => regex.push_str(ANY_RUN),
            '?' => regex.push_str(ANY_ONE),
            '[' => {
                let (class, tail) = glob_class(rest.as_str()).ok_or("`[` without `]`")?;
                regex.push_str(&class);
                rest = tail.chars();
            }
            '\\' => {
                let escaped = rest.next().ok_or("nothing after `\\`")?;
                regex.push_str(&regex_syntax::escape(escaped.encode_utf8(&mut [0; 4])));
            }
            plain => regex.push_str(&regex_syntax::escape(plain.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push_str(")$");
    Ok(regex)
}

/// What follows a `[`: the class as a regular expression, and what follows it.
fn glob_class(text: &str) -> Option<(String, &str)> {
    let (negated, text) = match text.strip_prefix(['!', '^']) {
        Some(text) => (true, text),
        None => (false, text),
    };
    // A `]` that comes first stands for itself.
    let first = text.chars().next()?.len_utf8();
    let end = first + text[first..].find(']')?;
    let mut class = String::from(if negated { "[^" } else { "[" });
    for character in text[..end].chars() {
        // `-` keeps its meaning; everything else that a regex class gives a meaning loses it.
        if matches!(character, '[' | ']' | '\\' | '^' | '&' | '~') {
            class.push('\\');
        }
        class.push(character);
    }
    class.push(']');
    Some((class, &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, name: &[u8]) -> bool {
        match Pattern::new(&FunctionPattern::Glob(glob.to_owned())).unwrap() {
            Pattern::Matching(matcher) => matcher.is_match(name),
            Pattern::Name { .. } => panic!("a glob became a name"),
        }
    }

    /// Check each sign of the glob language.
    #[test]
    fn globs() {
        for (glob, name) in [
            ("SSL_*", "SSL_write"),
            ("*", ""),
            ("a?c", "abc"),
            ("a?c", "aéc"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[]]x", "]x"),
            ("ns::*(int)", "ns::f(int)"),
            (r"operator\*", "operator*"),
            ("a.c", "a.c"),
            ("[&&~~]", "~"),
            ("<[T] as core::fmt::Debug>::fmt", "<[T] as core::fmt::Debug>::fmt"),
            ("f<char*>", "f<char*>"),
        ] {
            assert!(matches(glob, name.as_bytes()), "{glob} {name}");
        }
        for (glob, name) in
            [("SSL_*", "xSSL_write"), ("a?c", "ac"), ("a.c", "abc"), ("[!a]", "a"), ("a", "ab")]
        {
            assert!(!matches(glob, name.as_bytes()), "{glob} {name}");
        }
        assert!(matches("a*z", b"a\xff\nz"));
    }

    /// Check that an invalid pattern is reported with the reason, in one line.
    #[test]
    fn bad_patterns() {
        let error = |function| Pattern::new(&function).unwrap_err().to_string();
        assert_eq!(
            error(FunctionPattern::Glob("a[b".to_owned())),
            "`a[b` is not a valid glob: `[` without `]`"
        );
        assert_eq!(
            error(FunctionPattern::Regex("a(".to_owned())),
            "`a(` is not a valid regular expression: unclosed group"
        );
    }

    fn matcher(text: &str) -> Matcher {
        Matcher::new(text).unwrap()
    }

    /// Check that regular expressions find a part of a name, that anchors and word boundaries hold, and
    /// that names need not be UTF-8.
    #[test]
    fn regexes() {
        for (text, yes, no) in [
            ("^a|z$", &[&b"abc"[..], b"xyz"][..], &[&b"bab"[..]][..]),
            (r"\bfmt\b", &[b"core::fmt::f", "é::fmt".as_bytes()], &[b"fmt2", "éfmt".as_bytes()]),
            ("(?i)SSL_(read|write)$", &[b"ssl_READ"], &[b"ssl_readx"]),
            ("(?s-u:x.*y)", &[b"x\xff\xfey"], &[b"yx"]),
            (r"\w+\d+.*::(new|drop)$", &[b"abc12::x::drop"], &[b"::drop"]),
        ] {
            let matcher = matcher(text);
            assert!(yes.iter().all(|name| matcher.is_match(name)), "{text}");
            assert!(!no.iter().any(|name| matcher.is_match(name)), "{text}");
            assert_eq!(matcher.check(), Ok(()));
        }
    }

    /// Check that the matcher gives up on an expression whose automaton grows with each name, and not on
    /// one with many repetitions but few states.
    #[test]
    fn matching_is_bounded() {
        let names = || {
            (0_u64..100_000).map(|number| {
                let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (0..64)
                    .map(|bit| if bits >> bit & 1 == 0 { b'a' } else { b'b' })
                    .collect::<Vec<_>>()
            })
        };
        for text in ["[ab]*a[ab]{500}c", "(a|b|ab)*a(a|b){2000}z", "(.{0,60}a){40}Q"] {
            let matcher = matcher(text);
            let tried = names().take_while(|name| {
                matcher.is_match(name);
                matcher.check().is_ok()
            });
            assert!(tried.count() < 100_000, "{text} is not given up");
        }
        for text in ["(.*){999}x", "(a?){900}b{900}", "(x+x+)+y"] {
            let matcher = matcher(text);
            assert_eq!(names().filter(|name| matcher.is_match(name)).count(), 0, "{text}");
            assert_eq!(matcher.check(), Ok(()), "{text}");
        }
    }

    /// Check that an expression that compiles to too much is refused.
    #[test]
    fn too_large() {
        for text in ["(.*){9999}x", r"\pL{1000}", "((a{100}){100}){100}"] {
            let function = FunctionPattern::Regex(text.to_owned());
            let error = Pattern::new(&function).unwrap_err().to_string();
            assert!(
                error.ends_with("is not a valid regular expression: it is too large"),
                "{error}"
            );
        }
    }

    /// Check that a version is taken off a name.
    #[test]
    fn versions() {
        let Pattern::Name { name, version } = Pattern::name("memcpy@@V2") else { panic!() };
        assert_eq!(name, "memcpy");
        assert_eq!(version, Some(Version { name: "V2".to_owned(), only_default: true }));
    }

    proptest! {
        /// Check that a name without signs is a glob for itself, and no glob panics.
        #[test]
        fn any_glob(plain in "[a-zA-Z0-9_:<>(), &^$.|+{}]{0,20}", wild in r"[]*?\[!a^\\-]{0,12}") {
            prop_assert!(matches(&plain, plain.as_bytes()));
            let _ = Pattern::new(&FunctionPattern::Glob(wild));
        }
    }
}
