//! A probe back to text, in one canonical way.
//!
//! For every probe that parsing can give, printing and parsing again gives the same probe. What
//! needs quotes is not decided here a second time: the parser is asked.

use std::fmt::{self, Display, Formatter, Write as _};

use super::cursor::Cursor;
use super::{ArgSpec, FunctionPattern, ProbeSpec};
use super::{function, parse, quoted};

impl Display for ProbeSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if reads_as_target(&self.target) {
            f.write_str(&self.target)?;
        } else {
            quoted::write(f, &self.target)?;
        }
        write!(f, ":{}", self.function)?;
        if self.offset != 0 {
            write!(f, "+{:#x}", self.offset)?;
        }
        if !self.args.is_empty() {
            f.write_char('(')?;
            for (index, arg) in self.args.iter().enumerate() {
                f.write_str(if index == 0 { "" } else { ", " })?;
                match arg {
                    ArgSpec::Skip => f.write_char('_')?,
                    ArgSpec::Read { name, ty } => {
                        write!(f, "{name}: ")?;
                        ty.write(f, &self.args)?;
                    }
                }
            }
            f.write_char(')')?;
        }
        if let Some(ty) = &self.ret {
            f.write_str(" -> ")?;
            ty.write(f, &self.args)?;
        }
        Ok(())
    }
}

/// As in a probe: `SSL_write`, `SSL_*`, `/regex/`, quoted where it must be.
impl Display for FunctionPattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) if reads_as_name(name) => f.write_str(name),
            Self::Name(name) => quoted::write(f, name),
            Self::Glob(glob) => f.write_str(glob),
            Self::Regex(pattern) => write_regex(f, pattern),
        }
    }
}

/// Whether the parser takes unquoted `target` for just this target.
fn reads_as_target(target: &str) -> bool {
    let probe = format!("{target}:");
    let mut cursor = Cursor::new(&probe);
    parse::target(&mut cursor).is_ok_and(|read| read == target) && cursor.at_end()
}

/// Whether the parser takes unquoted `name` for just this name.
fn reads_as_name(name: &str) -> bool {
    let mut cursor = Cursor::verbatim(name);
    let read = function::function(&mut cursor);
    cursor.at_end() && matches!(read, Ok(FunctionPattern::Name(read)) if read == name)
}

fn write_regex(f: &mut Formatter<'_>, pattern: &str) -> fmt::Result {
    f.write_char('/')?;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '/' => f.write_str(r"\/")?,
            '\\' => {
                // What a backslash belongs to stays with it.
                f.write_char('\\')?;
                chars.next().map_or(Ok(()), |escaped| f.write_char(escaped))?;
            }
            c => f.write_char(c)?,
        }
    }
    f.write_char('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Bytes, BytesLen};

    /// Check that each probe prints in its canonical way.
    #[test]
    fn canonical_text() {
        for (text, canonical) in [
            ("libc:open", "libc:open"),
            (" \"libc\":\"open\"+0 ( ) ", "libc:open"),
            ("libc:f+16(a:x8,_)->str[1KiB]", "libc:f+0x10(a: x8, _) -> str[1024]"),
            ("libc:w(b: bytes[n], n: u64,)", "libc:w(b: bytes[n], n: u64)"),
            (r#""/odd:path":f"#, r#""/odd:path":f"#),
            (r#"a:"operator()"->bool"#, r#"a:"operator()" -> bool"#),
            (r#"a:"f<g>"->char"#, "a:f<g> -> char"),
            (r#"a:"b*""#, r#"a:"b*""#),
            (r#"a:"/b/""#, r#"a:"/b/""#),
            (r"a:/b\/c\\/", r"a:/b\/c\\/"),
            ("\"a\u{1b}[0m\":f", r#""a\u{1b}[0m":f"#),
        ] {
            let probe: ProbeSpec = text.parse().unwrap();
            assert_eq!(probe.to_string(), canonical);
            assert_eq!(canonical.parse::<ProbeSpec>().unwrap(), probe);
        }
    }

    /// Check that a probe made by hand prints without panic, even where it makes no sense.
    #[test]
    fn senseless_probes_print() {
        let probe = ProbeSpec {
            target: String::new(),
            function: FunctionPattern::Regex("\\".to_owned()),
            offset: 0,
            args: vec![],
            ret: Some(Bytes { length: BytesLen::Arg(7) }.into()),
        };
        assert_eq!(probe.to_string(), r#""":/\/ -> bytes[_]"#);
    }
}
