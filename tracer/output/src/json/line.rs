//! Anything that serializes as one line of JSON: the one way in which faultline writes JSON, but for
//! events, which have a faster one with the same escapes.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::escape::push_json_text;

/// Writes `value` as one line, newline included. As in events, it contains no character that controls
/// a terminal, or that hides or reorders the text around it.
///
/// # Errors
///
/// `out` cannot be written, or `value` cannot be JSON: a map whose keys are not strings.
pub fn json_line<T: Serialize + ?Sized, W: Write + ?Sized>(
    value: &T,
    out: &mut W,
) -> io::Result<()> {
    let mut line = Vec::with_capacity(256);
    value.serialize(&mut Serializer::with_formatter(&mut line, Escaping::default()))?;
    line.push(b'\n');
    out.write_all(&line)
}

/// The line as text.
///
/// # Errors
///
/// As [`json_line`].
pub fn json_text<T: Serialize + ?Sized>(value: &T) -> io::Result<String> {
    let mut line = Vec::new();
    json_line(value, &mut line)?;
    String::from_utf8(line).map_err(io::Error::other)
}

/// JSON without white space. `serde_json` itself leaves DEL, C1 and bidi controls as they are.
#[derive(Debug, Default)]
struct Escaping {
    /// The fragment at hand, escaped.
    escaped: Vec<u8>,
}

impl Formatter for Escaping {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        self.escaped.clear();
        push_json_text(fragment, &mut self.escaped);
        writer.write_all(&self.escaped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use faultline_spec::is_hidden;

    /// Check that strings keep their value, and what controls a terminal is escaped.
    #[test]
    fn escapes() {
        let line = json_text(&["a\"\\\n\u{1b}", "\u{7f}\u{9b}\u{202e}é"]).unwrap();
        assert_eq!(line, concat!(r#"["a\"\\\n\u001b","\u007f\u009b\u202eé"]"#, "\n"));
    }

    proptest! {
        /// Check that any text, as a value or as a key, comes back as it was, and that nothing hidden
        /// is in the line.
        #[test]
        fn round_trips(key in any::<String>(), value in any::<String>()) {
            let object = serde_json::Map::from_iter([(key, serde_json::Value::from(value))]);
            let line = json_text(&object).unwrap();
            let (text, newline) = line.split_at(line.len() - 1);
            prop_assert_eq!(newline, "\n");
            prop_assert!(!text.chars().any(is_hidden));
            prop_assert_eq!(serde_json::from_str::<serde_json::Map<_, _>>(text).unwrap(), object);
        }
    }
}
