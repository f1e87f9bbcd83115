//! Probe syntax: text in, [`ProbeSpec`] out. Pure: no I/O, nothing about this machine.
//!
//! `TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]`
//!
//! - `TARGET` is all up to the first `:`.
//! - `FUNCTION` is a name, a glob (`SSL_*`) or a `/regex/`. White space, `+`, `(`, `->` and the like
//!   end it, except within the `<…>` and `{…}` of a C++ or Rust name. A name that has `*`, `?` or
//!   `[` in it is a glob, which also matches itself.
//! - Both may be put in double quotes, in which `\"`, `\\` and `\u{1b}` stand for one character. A
//!   quoted function is always an exact name.
//! - `OFFSET` is decimal or `0x…`.
//! - `ARGS` are `name: type` or `_`, with commas between them.
//!
//! White space is allowed after `FUNCTION` and around the probe.
//!
//! ```
//! use faultline_spec::{FunctionPattern, ProbeSpec};
//!
//! let probe: ProbeSpec = "libc:write(fd: i32, buf: bytes[count], count: u64) -> i64".parse()?;
//! assert_eq!(probe.target, "libc");
//! assert_eq!(probe.function, FunctionPattern::Name("write".to_owned()));
//! assert_eq!(probe.args.len(), 3);
//! # Ok::<(), faultline_spec::SpecError>(())
//! ```
//!
//! There are also conditions on a probe's calls ([`Condition`]) and limits ([`Sample`], [`Rate`]).
//!
//! A probe prints in one canonical way, which parses to the same probe. Text that does not parse
//! gives a [`SpecError`], which points at the character and suggests what was meant.

mod args;
mod condition;
mod cursor;
mod display;
mod error;
mod function;
mod limits;
mod parse;
mod pattern;
mod probe;
mod quoted;
mod suggest;
mod text;
pub mod types;
pub mod units;
mod value;

#[cfg(test)]
mod properties;

pub use condition::{
    Check, Condition, Formula, MAX_COMPARISONS, MAX_MIXED, MAX_TEXT_BYTES, Operand, Order, Test,
    TypeError,
};
pub use error::SpecError;
pub use limits::{LimitError, Rate, Sample};
pub use probe::{ArgSpec, FunctionPattern, MAX_ARGS, MAX_READ_BYTES, ProbeSpec};
pub use suggest::nearest;
pub use text::is_hidden;
pub use types::ValueType;
