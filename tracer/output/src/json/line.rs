//! Anything that serializes as one line of JSON, for what comes once a run or once a probe.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::escape::push_json_text;

/// Appends `value` as one line, newline included. As in events, nothing that a terminal would obey
/// is in it.
///
/// # Errors
///
/// Where `value` cannot be JSON: a map whose keys are not strings.
pub fn json_line<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *out, Escaping))?;
    out.push(b'\n');
    Ok(())
}

/// JSON without white space. `serde_json` itself leaves DEL, C1 and bidi controls as they are.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut escaped = Vec::with_capacity(fragment.len());
        push_json_text(fragment, &mut escaped);
        writer.write_all(&escaped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that strings keep their value, and what a terminal would obey is escaped.
    #[test]
    fn escapes() {
        let mut out = Vec::new();
        json_line(&["a\"\\\n\u{1b}", "\u{7f}\u{9b}\u{202e}é"], &mut out).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line, concat!(r#"["a\"\\\n\u001b","\u007f\u009b\u202eé"]"#, "\n"));
    }
}
