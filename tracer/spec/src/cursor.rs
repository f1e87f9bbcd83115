//! A place in a probe's text, and the small steps that every part of the parser takes from there.
//!
//! Positions are bytes of the whole input and always on a character boundary, so they can be given
//! to [`SpecError`] as they are.

use std::ops::Range;

use super::SpecError;

/// A place in a probe's text.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    /// All that was given: what errors show.
    input: &'a str,
    /// `input` without the white space at its end: where parsing ends.
    text: &'a str,
    position: usize,
}

impl<'a> Cursor<'a> {
    /// Stands on the first character of `input` that is not white space.
    pub(super) fn new(input: &'a str) -> Self {
        let position = input.len() - input.trim_start().len();
        Self { input, text: input.trim_end(), position }
    }

    /// Stands on the first character of `input`, and takes its white space as it is.
    pub(super) fn verbatim(input: &'a str) -> Self {
        Self { input, text: input, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Steps over one character.
    pub(super) fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    /// Steps over `token` if it comes next; says whether it did.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.position += token.len();
        }
        found
    }

    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = rest.find(|c| !wanted(c)).map_or(rest, |end| &rest[..end]);
        self.position += taken.len();
        taken
    }

    pub(super) fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// What was stepped over since `start`.
    pub(super) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.position).unwrap_or_default()
    }

    /// The bytes from `start` to here.
    pub(super) fn span_since(&self, start: usize) -> Range<usize> {
        start..self.position
    }

    /// The next character's bytes; empty at the end.
    pub(super) fn next_span(&self) -> Range<usize> {
        self.position..self.position + self.peek().map_or(0, char::len_utf8)
    }

    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> SpecError {
        SpecError::new(self.input, span, message)
    }

    /// An error at the next character.
    pub(super) fn error_here(&self, message: impl Into<String>) -> SpecError {
        self.error(self.next_span(), message)
    }
}
