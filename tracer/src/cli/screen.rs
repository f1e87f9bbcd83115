//! Text that is shown in place on a terminal.

use unicode_width::UnicodeWidthChar as _;

/// Size of a terminal that does not report it.
const COLUMNS: usize = 80;
const LINES: usize = 24;

/// The last lines of a terminal, written over each time.
#[derive(Debug, Default)]
pub(super) struct Screen {
    shown_lines: usize,
}

impl Screen {
    /// Columns and lines of the terminal of standard output.
    pub(super) fn size() -> (usize, usize) {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` is valid for writes.
        let known = unsafe { libc::ioctl(1, libc::TIOCGWINSZ, &raw mut size) } == 0;
        match (size.ws_col, size.ws_row) {
            (columns @ 1.., lines @ 1..) if known => (columns.into(), lines.into()),
            _ => (COLUMNS, LINES),
        }
    }

    /// What to write so that `text` replaces the last text on a terminal with this many columns.
    /// Longer lines are cut.
    pub(super) fn show(&mut self, text: &str, columns: usize) -> String {
        let mut shown = self.clear();
        for line in text.lines() {
            push_cut(line, columns, &mut shown);
            shown.push('\n');
        }
        self.shown_lines = text.lines().count();
        shown
    }

    /// What to write to remove the last text.
    pub(super) fn clear(&mut self) -> String {
        match std::mem::take(&mut self.shown_lines) {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        }
    }
}

/// Appends as much of a line as fits, and all its colours.
fn push_cut(line: &str, columns: usize, out: &mut String) {
    let mut left = columns;
    let mut in_escape = false;
    for character in line.chars() {
        if in_escape || character == '\x1b' {
            // A colour: it ends with its letter.
            in_escape = !character.is_ascii_alphabetic();
            out.push(character);
        } else {
            let width = character.width().unwrap_or(0);
            if width > left {
                // Only colours may follow.
                left = 0;
                continue;
            }
            left -= width;
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that each text takes the place of the one before, and the last can be taken away.
    #[test]
    fn texts_replace_each_other() {
        let mut screen = Screen::default();
        assert_eq!(screen.clear(), "");
        assert_eq!(screen.show("a\nb\n", 80), "a\nb\n");
        assert_eq!(screen.show("c\n", 80), "\x1b[2F\x1b[Jc\n");
        assert_eq!(screen.clear(), "\x1b[1F\x1b[J");
        assert_eq!(screen.clear(), "");
    }

    /// Check that a line is cut at the terminal's width, and its colours end all the same.
    #[test]
    fn long_lines_are_cut() {
        let mut screen = Screen::default();
        assert_eq!(screen.show("\x1b[1mabcdef\x1b[0m\n", 4), "\x1b[1mabcd\x1b[0m\n");
        assert_eq!(Screen::default().show("a一b", 2), "a\n", "a wide character is not halved");
    }
}
