//! Bytes of a traced process, made safe for a JSON string or for a terminal.
//!
//! Takes any bytes. JSON loses none of them; text is for people and shows all of them. Neither contains
//! a control character, or one that hides or reorders the text around it.

use crate::digits::HEX;
use faultline_spec::is_hidden;

/// Appends what goes between the quotes of a JSON string. Bytes that are UTF-8 are that string.
/// Others are escaped once more, so that the string stays UTF-8 and nothing is lost: an invalid
/// byte as `\xNN`, a backslash as two. Returns whether they were.
pub(super) fn push_json(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let plain = plain_len(bytes);
    out.extend_from_slice(&bytes[..plain]);
    let rest = &bytes[plain..];
    if rest.is_empty() {
        return false;
    }
    if let Ok(text) = std::str::from_utf8(rest) {
        push_json_str(text, r"\\", out);
        return false;
    }
    for chunk in rest.utf8_chunks() {
        push_json_str(chunk.valid(), r"\\\\", out);
        for byte in chunk.invalid() {
            out.push(b'\\');
            push_byte(*byte, out);
        }
    }
    true
}

/// The same for what is known to be UTF-8.
pub(super) fn push_json_text(text: &str, out: &mut Vec<u8>) {
    push_json_str(text, r"\\", out);
}

fn push_json_str(text: &str, backslash: &str, out: &mut Vec<u8>) {
    for_each_special(text, out, |c, out| match c {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(backslash.as_bytes()),
        '\n' => out.extend_from_slice(br"\n"),
        '\t' => out.extend_from_slice(br"\t"),
        '\r' => out.extend_from_slice(br"\r"),
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let digits = [12, 8, 4, 0].map(|shift| HEX[usize::from(*unit >> shift) & 0xf]);
                out.extend_from_slice(br"\u");
                out.extend_from_slice(&digits);
            }
        }
    });
}

/// The quotes around bytes that are shown to people; inside, they must be escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    /// `"`
    Double,
    /// Nothing.
    None,
}

/// Appends bytes as people read them: UTF-8 as it is, `\n`, `\t`, `\\` and `\"`, and `\xNN` for
/// each byte of anything else.
pub(super) fn push_text(bytes: &[u8], quotes: Quotes, out: &mut Vec<u8>) {
    let plain = plain_len(bytes);
    out.extend_from_slice(&bytes[..plain]);
    for chunk in bytes[plain..].utf8_chunks() {
        for_each_special(chunk.valid(), out, |c, out| match c {
            '"' if quotes == Quotes::None => out.push(b'"'),
            '"' => out.extend_from_slice(br#"\""#),
            '\\' => out.extend_from_slice(br"\\"),
            '\n' => out.extend_from_slice(br"\n"),
            '\t' => out.extend_from_slice(br"\t"),
            _ => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_byte(byte, out)),
        });
        chunk.invalid().iter().for_each(|byte| push_byte(*byte, out));
    }
}

/// `text` as it is safe to show.
pub(super) fn shown(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    push_text(text.as_bytes(), Quotes::None, &mut out);
    // Whole characters and escapes are UTF-8.
    String::from_utf8(out).unwrap_or_default()
}

/// Appends one byte as `\xNN`.
pub(super) fn push_byte(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(br"\x");
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
}

/// Appends `text`, and has `special` append the characters that cannot stay as they are.
fn for_each_special(text: &str, out: &mut Vec<u8>, special: impl Fn(char, &mut Vec<u8>)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (plain, tail) = rest.split_at(plain_len(rest.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        // Text in another script continues like this: do not search it for plain bytes.
        rest = "";
        for (at, c) in tail.char_indices() {
            if c.is_ascii() && is_plain(c as u8) {
                rest = &tail[at..];
                break;
            }
            if c == '"' || c == '\\' || is_hidden(c) {
                special(c, out);
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
}

/// How many of the first bytes can be copied as they are, whatever the format.
fn plain_len(bytes: &[u8]) -> usize {
    let (chunks, _) = bytes.as_chunks::<16>();
    // Without a way out of the inner loop, so that the compiler makes vector instructions of it.
    let all_plain = |chunk: &&[u8; 16]| chunk.iter().fold(true, |all, byte| all & is_plain(*byte));
    let whole = chunks.iter().take_while(all_plain).count() * 16;
    let rest = &bytes[whole..];
    whole + rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len())
}

const fn is_plain(byte: u8) -> bool {
    byte.wrapping_sub(b' ') < 0x7f - b' ' && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(bytes: &[u8]) -> (String, bool) {
        let mut out = Vec::new();
        let escaped = push_json(bytes, &mut out);
        (String::from_utf8(out).unwrap(), escaped)
    }

    fn text(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push_text(bytes, Quotes::Double, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Check that JSON strings keep UTF-8, and escape what controls a terminal.
    #[test]
    fn json_strings() {
        for (bytes, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("say \"hi\"\\", r#"say \"hi\"\\"#),
            ("a\nb\tc\rd\0", r"a\nb\tc\rd\u0000"),
            ("\u{1b}[31m\u{7f}\u{9b}", r"\u001b[31m\u007f\u009b"),
            ("\u{2028}\u{202e}\u{2066}", r"\u2028\u202e\u2066"),
            ("\u{e0041}", r"\udb40\udc41"),
            ("漢字 é after", "漢字 é after"),
        ] {
            assert_eq!(json(bytes.as_bytes()), (expected.to_owned(), false));
        }
    }

    /// Check that bytes that are not UTF-8 are escaped once more, backslashes with them.
    #[test]
    fn json_invalid_utf8() {
        let (escaped, was) = json(b"a\\x\xff\xc3\n\"\xe6\xbc");
        assert_eq!((escaped.as_str(), was), (r#"a\\\\x\\xff\\xc3\n\"\\xe6\\xbc"#, true));
    }

    /// Check that people see each byte that is not text.
    #[test]
    fn text_strings() {
        for (bytes, expected) in [
            (&b"plain"[..], "plain"),
            (b"say \"hi\"\\", r#"say \"hi\"\\"#),
            (b"a\nb\tc\rd\0", r"a\nb\tc\x0dd\x00"),
            (b"\x1b[31m\x7f\xff", r"\x1b[31m\x7f\xff"),
            ("\u{9b}\u{202e}".as_bytes(), r"\xc2\x9b\xe2\x80\xae"),
            ("漢字 é after".as_bytes(), "漢字 é after"),
        ] {
            assert_eq!(text(bytes), expected);
        }
    }

    /// Check that what needs an escape is found wherever it stands.
    #[test]
    fn specials_are_found_everywhere() {
        for length in 1..70 {
            for place in 0..length {
                let mut bytes = vec![b'a'; length];
                for special in [0, 0x1f, b'"', b'\\', 0x7f, 0x80, 0xff] {
                    bytes[place] = special;
                    assert_eq!(plain_len(&bytes), place);
                }
            }
            assert_eq!(plain_len(&vec![b'~'; length]), length);
        }
    }

    proptest! {
        /// Check that no character gets through that controls a terminal.
        #[test]
        fn nothing_hidden_is_left(bytes in any::<Vec<u8>>(), string in any::<String>()) {
            for bytes in [&bytes[..], string.as_bytes()] {
                prop_assert!(!text(bytes).chars().any(is_hidden));
                prop_assert!(!json(bytes).0.chars().any(is_hidden));
            }
        }
    }
}
