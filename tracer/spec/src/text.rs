//! Text that was typed by someone, made fit to be shown on a terminal.
//!
//! Takes any string; gives one in which every character can be seen, and the number of columns that
//! it fills. What it gives is for people: it is not meant to be parsed again.

use std::fmt::{self, Display, Write as _};

use unicode_width::UnicodeWidthChar as _;

/// Whether a terminal would obey the character, or hide it, instead of showing it: control
/// characters, and the format characters that reorder a line or fill no space.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// `text` with its hidden characters written as escapes, such as `\t` and `\u{1b}`.
pub(super) fn shown(text: &str) -> impl Display {
    fmt::from_fn(move |f| {
        for c in text.chars() {
            if is_hidden(c) { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    })
}

/// How many terminal columns [`shown`] fills for `text`.
pub(super) fn width_columns(text: &str) -> usize {
    text.chars()
        .map(|c| if is_hidden(c) { c.escape_default().count() } else { c.width().unwrap_or(0) })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that nothing a terminal would obey is left, and that plain text is left alone.
    #[test]
    fn hidden_characters_are_escaped() {
        assert_eq!(shown("a\tb\u{1b}[31m\u{202e}é漢").to_string(), r"a\tb\u{1b}[31m\u{202e}é漢");
    }

    /// Check that the width is that of the escaped text, wide characters counted as two.
    #[test]
    fn width_is_in_columns() {
        assert_eq!(width_columns("é"), 1);
        assert_eq!(width_columns("漢字"), 4);
        assert_eq!(width_columns("e\u{301}"), 1);
        assert_eq!(width_columns("\t\u{1b}"), 2 + 6);
    }
}
