//! Which names a [`FunctionPattern`] selects.
//!
//! The meaning of a glob has its one home here: the parser checks bracket classes with [`class`],
//! and whoever has names to match takes [`FunctionPattern::to_regex`].

use std::fmt::Write as _;

use regex::Regex;

use super::FunctionPattern;

impl FunctionPattern {
    /// The regular expression that finds a match in exactly the names that the pattern selects.
    ///
    /// A name and a glob match whole names, a regular expression any part of one. A glob also
    /// matches the name that is spelled like it: `f<char*>` and `<[T] as Trait>::f` are read as
    /// globs, and whoever pastes such a name means that function.
    ///
    /// # Errors
    ///
    /// Only if the expression does not compile; all that was parsed does, but for a name or a glob
    /// of megabytes.
    pub fn to_regex(&self) -> Result<Regex, regex::Error> {
        match self {
            Self::Name(name) => Regex::new(&format!(r"\A{}\z", regex::escape(name))),
            Self::Glob(glob) => Regex::new(&glob_regex(glob)),
            Self::Regex(pattern) => Regex::new(pattern),
        }
    }
}

fn glob_regex(glob: &str) -> String {
    let mut pattern = format!(r"\A(?s:{}|", regex::escape(glob));
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        let mut len = c.len_utf8();
        match c {
            '*' => pattern.push_str(".*"),
            '?' => pattern.push('.'),
            '[' if let Ok(class) = class(rest) => {
                len = class.len;
                class.push_regex(&mut pattern);
            }
            c => pattern.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    pattern.push_str(r")\z");
    pattern
}

/// A bracket class: `[a-z_]`, or `[!0-9]` and `[^0-9]` for all others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    /// First and last of each range; a single character is both.
    ranges: Vec<(char, char)>,
    /// Bytes, brackets included.
    pub(super) len: usize,
}

/// A bracket class that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClassFault {
    pub(super) message: String,
    /// Bytes at fault, from the opening bracket.
    pub(super) len: usize,
}

/// Reads the class that `text` begins with; its first character is `[`.
pub(super) fn class(text: &str) -> Result<Class, ClassFault> {
    let Some(end) = text.find(']') else {
        return Err(ClassFault { message: "missing the closing `]`".to_owned(), len: 1 });
    };
    let len = end + 1;
    let inner = text.get(1..end).unwrap_or_default();
    let (negated, members) = match inner.strip_prefix(['!', '^']) {
        Some(members) => (true, members),
        None => (false, inner),
    };
    if members.is_empty() {
        return Err(ClassFault { message: format!("`[{inner}]` selects nothing"), len });
    }
    let mut ranges = Vec::new();
    let mut members = members.chars();
    while let Some(first) = members.next() {
        let mut ahead = members.clone();
        // A `-` at either end is itself.
        let last = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) => {
                members = ahead;
                last
            }
            _ => first,
        };
        if first > last {
            let message = format!("`{first}-{last}` is out of order");
            return Err(ClassFault { message, len });
        }
        ranges.push((first, last));
    }
    Ok(Class { negated, ranges, len })
}

impl Class {
    fn push_regex(&self, pattern: &mut String) {
        pattern.push_str(if self.negated { "[^" } else { "[" });
        for (first, last) in &self.ranges {
            // Code points need no escaping, whatever a class makes of the character.
            // Writing to a string cannot fail.
            let _ = write!(pattern, r"\x{{{:x}}}-\x{{{:x}}}", *first as u32, *last as u32);
        }
        pattern.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob_matches(glob: &str, name: &str) -> bool {
        FunctionPattern::Glob(glob.to_owned()).to_regex().unwrap().is_match(name)
    }

    /// Check that each wildcard matches what it should, and whole names only.
    #[test]
    fn globs_match_whole_names() {
        for (glob, yes, no) in [
            ("SSL_*", &["SSL_", "SSL_write"][..], &["xSSL_write", "ssl_write"][..]),
            ("?at", &["cat", "\u{e9}at"], &["at", "chat"]),
            ("f[a-c_]", &["fa", "fc", "f_"], &["fd", "f", "fab"]),
            ("f[!0-9]", &["fa"], &["f0", "f"]),
            ("f[^0-9]", &["fa"], &["f0"]),
            ("f[-x]", &["f-", "fx"], &["fy"]),
            ("f[x-]", &["f-", "fx"], &["fy"]),
            ("f[*]", &["f*"], &["fa"]),
            ("f[&&~~^]", &["f&", "f~", "f^"], &["f"]),
            ("a.b*", &["a.bc"], &["axb"]),
        ] {
            for name in yes {
                assert!(glob_matches(glob, name), "{glob} {name}");
            }
            for name in no {
                assert!(!glob_matches(glob, name), "{glob} {name}");
            }
        }
    }

    /// Check that a pasted name that looks like a glob still finds itself.
    #[test]
    fn a_glob_matches_itself() {
        for name in ["<[T] as core::fmt::Debug>::fmt", "f<char*>", "<[u8; 4] as A>::b", "a[", "a[]"]
        {
            assert!(glob_matches(name, name), "{name}");
        }
    }

    /// Check that a name matches only itself, and a regular expression any part.
    #[test]
    fn names_and_regexes() {
        let name = FunctionPattern::Name("a.b".to_owned()).to_regex().unwrap();
        assert!(name.is_match("a.b") && !name.is_match("axb") && !name.is_match("a.bc"));
        let regex = FunctionPattern::Regex("^a|z$".to_owned()).to_regex().unwrap();
        assert!(regex.is_match("abc") && regex.is_match("xyz") && !regex.is_match("bab"));
    }

    /// Check that classes that can match nothing are faults, with their length.
    #[test]
    fn wrong_classes() {
        for (text, message, len) in [
            ("[abc", "missing the closing `]`", 1),
            ("[]x", "`[]` selects nothing", 2),
            ("[!]", "`[!]` selects nothing", 3),
            ("[z-a]*", "`z-a` is out of order", 5),
        ] {
            assert_eq!(class(text), Err(ClassFault { message: message.to_owned(), len }));
        }
    }
}
