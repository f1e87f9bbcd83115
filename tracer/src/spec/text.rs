//! Text that was typed by someone, made fit to be shown on a terminal.
//!
//! Takes any string; gives one in which every character can be seen. What it gives is for people: it is not meant to be parsed again.

use std::fmt::{self, Display, Write as _};

/// Whether a terminal would obey the character, or hide it, instead of showing it: control
/// characters, and the format characters that reorder a line or fill no space.
pub(super) fn is_hidden(c: char) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that nothing a terminal would obey is left, and that plain text is left alone.
    #[test]
    fn hidden_characters_are_escaped() {
        assert_eq!(shown("a\tb\u{1b}[31m\u{202e}é漢").to_string(), r"a\tb\u{1b}[31m\u{202e}é漢");
    }
}
