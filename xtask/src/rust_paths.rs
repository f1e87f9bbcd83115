//! Reads from Rust source which paths it names: `crate::spec::Probe` or `use std::{fs, io}`.
//!
//! No parser: comments and literals are skipped, the rest is cut into words and signs, and paths
//! are followed through `use` groups. That is enough to see what a file depends on, and has no
//! dependencies of its own.

/// A path as far as it matters here: its root and the name after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    /// 1 is the first.
    pub(crate) line: usize,
    /// A crate (`std`, `aya`, …) or `crate`. Paths through `super` are given from `crate`.
    pub(crate) root: String,
    /// Absent for a root that stands alone, as in `use aya;`.
    pub(crate) next: Option<String>,
}

/// All paths in a file. `module` is where the file is in its crate: `["spec", "parse"]`.
pub(crate) fn paths(source: &str, module: &[&str]) -> Vec<NamedPath> {
    let tokens = tokens(source);
    let mut paths = Vec::new();
    // The brace depths at which inline modules began: each is one more level for `super`.
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        match token.text.as_str() {
            "{" => {
                depth += 1;
                if at >= 2 && tokens[at - 2].text == "mod" {
                    inline.push(depth);
                }
            }
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
                depth = depth.saturating_sub(1);
            }
            word if is_word(word) && !follows_path_sign(&tokens, at) => {
                at = read_path(&tokens, at, module.len() + inline.len(), &mut paths);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

/// Reads the path that starts at a word; gives the place after its root.
fn read_path(tokens: &[Token], start: usize, levels: usize, paths: &mut Vec<NamedPath>) -> usize {
    let mut root = tokens[start].text.as_str();
    let mut at = start + 1;
    if root == "super" {
        let mut up = 1;
        while is_sign(tokens, at, "::") && is_sign(tokens, at + 1, "super") {
            up += 1;
            at += 2;
        }
        if up < levels {
            return at;
        }
        root = "crate";
    }
    let mut named = |line, next: Option<&str>| {
        paths.push(NamedPath { line, root: root.to_owned(), next: next.map(str::to_owned) });
    };
    if !is_sign(tokens, at, "::") {
        named(tokens[start].line, None);
    } else if is_sign(tokens, at + 1, "{") {
        for branch in group(tokens, at + 1) {
            named(branch.line, Some(&branch.text));
        }
    } else if let Some(next) = tokens.get(at + 1) {
        named(next.line, Some(&next.text));
    }
    at
}

/// The first words of a group's branches: `a` and `d` of `{a::{b, c}, d}`.
fn group(tokens: &[Token], open: usize) -> Vec<&Token> {
    let mut depth = 0;
    let mut first = Vec::new();
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            word if depth == 1
                && is_word(word)
                && matches!(tokens[at - 1].text.as_str(), "{" | ",") =>
            {
                first.push(token);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    first
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn is_sign(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.text == text)
}

/// Whether a word is the middle of a path, or a method or field. The first sign of `::std::fs`
/// stands apart from what is before it.
fn follows_path_sign(tokens: &[Token], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|at| &tokens[at]) else { return false };
    before.text == "." || (before.text == "::" && before.follows_text)
}

#[derive(Debug)]
struct Token {
    line: usize,
    /// Whether neither blank nor comment is before it.
    follows_text: bool,
    text: String,
}

/// Words, `::`, and single signs; no comments, no literals.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut follows_text = false;
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else {
            let length = sign_or_word(rest, c);
            if !c.is_whitespace() {
                tokens.push(Token { line, follows_text, text: rest[..length].to_owned() });
            }
            follows_text = !c.is_whitespace();
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn sign_or_word(rest: &str, c: char) -> usize {
    if rest.starts_with("::") {
        2
    } else if c.is_alphanumeric() || c == '_' {
        rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
    } else {
        c.len_utf8()
    }
}

/// Rust's block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while let Some(sign) = rest[at..].find(['/', '*']).map(|found| at + found) {
        let (step, deeper) = match &rest[sign..] {
            after if after.starts_with("/*") => (2, 1),
            after if after.starts_with("*/") => (2, -1),
            _ => (1, 0),
        };
        at = sign + step;
        depth += deeper;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of the string, byte string or character at the start, if there is one.
fn literal(rest: &str) -> Option<usize> {
    let unprefixed = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - unprefixed.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = unprefixed.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(rest.len() - body.len() + length);
    }
    if let Some(body) = unprefixed.strip_prefix('"') {
        return Some(rest.len() - body.len() + quoted(body, '"'));
    }
    // `'a'` and `'\n'` are characters, `'a` alone is a lifetime.
    let body = unprefixed.strip_prefix('\'')?;
    let mut chars = body.chars();
    let (first, second) = (chars.next()?, chars.next()?);
    (first == '\\' || second == '\'').then(|| rest.len() - body.len() + quoted(body, '\''))
}

/// How far it is to behind the closing quote.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str, module: &[&str]) -> Vec<String> {
        let two = |path: NamedPath| match path.next {
            Some(next) => format!("{}:{}::{next}", path.line, path.root),
            None => format!("{}:{}", path.line, path.root),
        };
        let of_interest = ["crate", "std", "aya"];
        let mut paths = paths(source, module);
        paths.retain(|path| of_interest.contains(&path.root.as_str()));
        paths.into_iter().map(two).collect()
    }

    /// Check that paths are found plain, in groups, over several lines, inside expressions.
    #[test]
    fn every_form_of_path() {
        let source = "use crate::spec::ProbeSpec;\n\
                      use crate::{\n    plan::{Plan, spec},\n    resolve,\n};\n\
                      use ::std::fs;\nuse aya;\n\
                      fn f() { let x: Vec<crate::kernel::Link> = a.std.crate_::std(); aya::x() }\n";
        assert_eq!(
            found(source, &["sink"]),
            [
                "1:crate::spec",
                "3:crate::plan",
                "4:crate::resolve",
                "6:std::fs",
                "7:aya",
                "8:crate::kernel",
                "8:aya::x"
            ]
        );
    }

    /// Check that comments, strings, raw strings and characters are no code, and lifetimes are.
    #[test]
    fn literals_are_skipped() {
        let source = "// crate::a\n/*/ crate::b /* */ crate::c */ \"crate::d \\\" crate::e\"\n\
                      r#\"crate::f \" crate::g\"# b\"crate::h\" '\"' '\\'' \n\
                      fn f<'a>(x: &'a crate::real::T) {} bc::std::x; r\n";
        assert_eq!(found(source, &["sink"]), ["4:crate::real"]);
    }

    /// Check that `super` counts from the crate's root, an inline module one level deeper.
    #[test]
    fn super_is_followed() {
        let source = "use super::sibling;\nuse super::super::kernel;\n\
                      mod tests { use super::super::own; use super::super::super::plan; }\n\
                      use super::super::{drain, sink};\n";
        assert_eq!(
            found(source, &["spec", "parse"]),
            ["2:crate::kernel", "3:crate::plan", "4:crate::drain", "4:crate::sink"]
        );
        assert_eq!(found("use super::kernel;", &["spec"]), ["1:crate::kernel"]);
    }
}
