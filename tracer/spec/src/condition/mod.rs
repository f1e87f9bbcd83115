//! The language of `--where`: text in, [`Condition`] out; and a condition with a probe gives a
//! [`Formula`], in which every name is a value of that probe and every constant fits its type.
//!
//! - Comparisons: `NAME == VALUE`, `!=`, `<`, `<=`, `>`, `>=`; `NAME ^= "prefix"`;
//!   `NAME in {VALUE, …}`; `NAME & MASK` before any of them; a bare `NAME` is "not 0".
//! - They are joined by `&&`, `||` and `!(…)`, with parentheses as in C.
//! - Names are the probe's arguments, and `ret`, `duration`, `pid`, `tid`, `comm`.
//!
//! ```
//! use faultline_spec::{Condition, ProbeSpec};
//!
//! let condition: Condition = r#"size > 64KiB && path ^= "/etc/""#.parse()?;
//! let probe: ProbeSpec = "libc:f(path: str, size: u64)".parse()?;
//! assert!(condition.typed(&probe).is_ok());
//! # Ok::<(), faultline_spec::SpecError>(())
//! ```

mod display;
mod formula;
mod literal;
mod parse;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod typed;

use std::ops::Range;

pub use formula::{Check, Formula, Operand, Order, Test};
pub use typed::TypeError;

/// Most comparisons of a condition, each value of a set counted.
pub const MAX_COMPARISONS: usize = 64;
/// Most comparisons of arguments in the parts of a condition that mix them with `ret` or
/// `duration`.
pub const MAX_MIXED: usize = 15;
/// Longest text that a value is compared with.
pub const MAX_TEXT_BYTES: usize = 256;

/// A condition as the user wrote it. Equal are those that say the same in the same order.
#[derive(Debug, Clone)]
pub struct Condition {
    text: String,
    root: Expr,
}

impl Condition {
    /// As it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it names the return value or the duration anywhere.
    #[must_use]
    pub fn names_return(&self) -> bool {
        self.root.names_return()
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

/// What was parsed. `Any` and `All` have at least two parts.
#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Any(Vec<Expr>),
    All(Vec<Expr>),
    Not(Box<Expr>),
    Comparison(Comparison),
}

impl Expr {
    fn names_return(&self) -> bool {
        match self {
            Self::Any(parts) | Self::All(parts) => parts.iter().any(Self::names_return),
            Self::Not(negated) => negated.names_return(),
            Self::Comparison(comparison) => {
                matches!(&*comparison.name.value, "ret" | "duration")
            }
        }
    }
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
struct Comparison {
    name: Spanned<String>,
    mask: Option<Spanned<Literal>>,
    relation: Relation,
    /// What it is compared with: one value; for `In` at least one, for `NotZero` none.
    values: Vec<Spanned<Literal>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Prefix,
    In,
    NotZero,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Literal {
    /// Every 64-bit number, signed or not.
    Number(i128),
    /// In nanoseconds.
    Duration(u64),
    Text(Vec<u8>),
    Char(u8),
    Bool(bool),
}

/// Something with its place in the text. The place says nothing about what it is, so it does not
/// count when two are compared.
#[derive(Debug, Clone)]
struct Spanned<T> {
    value: T,
    span: Range<usize>,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
