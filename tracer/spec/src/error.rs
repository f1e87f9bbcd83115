//! What is wrong with a probe's text, and where.
//!
//! Takes a fault that the parser found and returns a message that points at it. The probe may come from
//! anywhere (a configuration file, a script), so no part of it is printed unescaped.

use std::fmt::{self, Display};
use std::ops::Range;

use super::text::{shown, width_columns};

/// A probe that does not parse.
///
/// Its [`Display`] is three lines: the message with the hint, the probe, and a caret under the
/// fault.
///
/// ```
/// let error = "libc:open(flags: uint32)".parse::<faultline_spec::ProbeSpec>().unwrap_err();
/// let lines = [
///     "unknown type `uint32` (did you mean `u32`?)",
///     "  libc:open(flags: uint32)",
///     "                   ^~~~~~",
/// ];
/// assert_eq!(error.to_string(), lines.join("\n"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    input: String,
    span: Range<usize>,
    message: String,
    hint: Option<String>,
}

impl SpecError {
    pub(super) fn new(input: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        // Messages quote the probe, so they are escaped here, once, for all who make them.
        let message = shown(&message.into()).to_string();
        Self { input: input.to_owned(), span, message, hint: None }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(shown(&hint.into()).to_string());
        self
    }

    /// The probe, whole, as it was given.
    #[must_use]
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The bytes of [`Self::input`] at fault, on character boundaries; empty where something is
    /// missing.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// What is wrong, or what was expected: one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        let before = self.input.get(..self.span.start).unwrap_or_default();
        let at = self.input.get(self.span.clone()).unwrap_or_default();
        // Not by the width of a format string, which must not pass 65535.
        let indent = " ".repeat(width_columns(before));
        let tail = "~".repeat(width_columns(at).saturating_sub(1));
        write!(f, "\n  {}\n  {indent}^{tail}", shown(&self.input))
    }
}

impl std::error::Error for SpecError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the caret stands in the right column after wide and escaped characters, and is
    /// as long as what it points at.
    #[test]
    fn caret_counts_columns() {
        let input = "漢\t:é!";
        let start = input.find('é').unwrap();
        let error = SpecError::new(input, start..input.len(), "bad").with_hint("so");
        assert_eq!(error.to_string(), "bad (so)\n  漢\\t:é!\n       ^~");
    }

    /// Check that a fault at the end of the probe is pointed at with one caret behind it.
    #[test]
    fn caret_may_stand_behind_the_end() {
        let error = SpecError::new("libc", 4..4, "expected `:`");
        assert_eq!(error.to_string(), "expected `:`\n  libc\n      ^");
    }

    /// Check that a probe may be longer than a format string can pad.
    #[test]
    fn long_probes_print() {
        let input = "a".repeat(200_000);
        for span in [0..input.len(), input.len()..input.len()] {
            let text = SpecError::new(&input, span, "bad").to_string();
            assert!(text.len() > 2 * input.len());
        }
    }

    /// Check that no escape sequence of the probe reaches the terminal.
    #[test]
    fn no_escape_reaches_the_terminal() {
        let input = "a\u{1b}]0;x\u{7}";
        let text = SpecError::new(input, 1..2, "bad \u{1b}").to_string();
        assert_eq!(text, "bad \\u{1b}\n  a\\u{1b}]0;x\\u{7}\n   ^~~~~~");
    }
}
