//! What a Go program says about itself.

use object::ReadRef;

use crate::elf::Frame;

/// Where the linker writes the version of the compiler.
const BUILD_INFO: &str = ".go.buildinfo";
/// How that section begins.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where its flags are, and the one that says that the texts follow here (since 1.18).
const FLAGS_AT: usize = 15;
const INLINE: u8 = 2;
/// Where the version is: its length as a variable-length integer, and its bytes.
const VERSION_AT: usize = 32;

/// A Go program, or a library of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoProgram {
    /// Major and minor version of its compiler; `None` if it does not say.
    pub version: Option<(u32, u32)>,
}

impl GoProgram {
    pub(super) fn of<'data, R: ReadRef<'data>>(frame: &Frame<'data, R>) -> Option<Self> {
        let is_one = frame.has_section(BUILD_INFO) || frame.has_section(".note.go.buildid");
        is_one.then(|| {
            let info = frame.section(BUILD_INFO).ok().flatten();
            Self { version: info.and_then(version) }
        })
    }
}

/// The compiler's version, from the build information.
fn version(info: &[u8]) -> Option<(u32, u32)> {
    if !info.starts_with(MAGIC) || info.get(FLAGS_AT)? & INLINE == 0 {
        return None;
    }
    let length = usize::from(*info.get(VERSION_AT)?);
    // A version is short, so its length takes one byte.
    let text = info.get(VERSION_AT + 1..)?.get(..length).filter(|_| length < 0x80)?;
    number(std::str::from_utf8(text).ok()?)
}

/// `go1.19.8` and `go1.27rc1 X:nocoverageredesign` are versions; `devel go1.28-0a1b2c3` is one, too.
fn number(text: &str) -> Option<(u32, u32)> {
    let (_, after) = text.split_once("go")?;
    let (major, rest) = after.split_once('.')?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that versions are read as the linker writes them, and that nothing else is taken for one.
    #[test]
    fn versions() {
        for (text, expected) in [
            ("go1.19.8", Some((1, 19))),
            ("go1.27rc1 X:nocoverageredesign", Some((1, 27))),
            ("devel go1.28-0a1b2c3 Mon", Some((1, 28))),
            ("go", None),
            ("1.19", None),
            ("gox.y", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
        let mut info = [MAGIC, &[8, INLINE], &[0; 16], &[8], b"go1.19.8", &[0; 3]].concat();
        assert_eq!(version(&info), Some((1, 19)));
        assert_eq!(version(&info[..VERSION_AT + 4]), None, "cut off");
        info[FLAGS_AT] = 0;
        assert_eq!(version(&info), None, "pointers to texts, as before 1.18");
        assert_eq!(version(b""), None);
    }
}
