//! Which names the function part of a spec selects.
//!
//! Takes a [`FunctionPattern`]; gives a test over names. Knows no file.

use regex::bytes::{Regex, RegexBuilder};

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
    Matching(Regex),
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
        let compile = |text: &str| {
            // One-line reasons: regex prints the pattern again, with a marker below it.
            RegexBuilder::new(text).build().map_err(|error| last_line(&error.to_string()))
        };
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

fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or(text);
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// `*` any run, `?` one character, `[a-z]` one of, `[!a-z]` none of, `\` takes the next as it is.
fn glob_to_regex(glob: &str) -> Result<String, String> {
    // `*` passes over bytes that are no UTF-8 as well.
    const ANY_RUN: &str = "(?s-u:.)*";
    const ANY_ONE: &str = "(?s:.)";
    let mut regex = String::from("^");
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
                regex.push_str(&regex::escape(escaped.encode_utf8(&mut [0; 4])));
            }
            plain => regex.push_str(&regex::escape(plain.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push('$');
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
            Pattern::Matching(regex) => regex.is_match(name),
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

    /// Check that a pattern that is none is named with the reason, in one line.
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
