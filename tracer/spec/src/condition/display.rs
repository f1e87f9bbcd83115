//! A condition in its canonical form, which parses to the same condition.

use std::fmt::{self, Display};

use super::{Comparison, Condition, Expr, Literal, Relation, literal::write_quoted};

impl Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Self], operator: &str| {
            for (index, part) in parts.iter().enumerate() {
                if index != 0 {
                    write!(f, " {operator} ")?;
                }
                let bare = match part {
                    Self::Any(_) => false,
                    Self::All(_) => operator == "||",
                    Self::Not(_) | Self::Comparison(_) => true,
                };
                if bare { write!(f, "{part}")? } else { write!(f, "({part})")? }
            }
            Ok(())
        };
        match self {
            Self::Any(parts) => joined(f, parts, "||"),
            Self::All(parts) => joined(f, parts, "&&"),
            Self::Not(negated) => write!(f, "!({negated})"),
            Self::Comparison(comparison) => write!(f, "{comparison}"),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.value)?;
        if let Some(mask) = &self.mask {
            write!(f, " & {}", mask.value)?;
        }
        let operator = match self.relation {
            Relation::Equal => "==",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::AtMost => "<=",
            Relation::Greater => ">",
            Relation::AtLeast => ">=",
            Relation::Prefix => "^=",
            Relation::In => {
                for (index, value) in self.values.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { " in {" } else { ", " }, value.value)?;
                }
                return f.write_str("}");
            }
            Relation::NotZero => return Ok(()),
        };
        let value = self.values.first().map(|value| &value.value);
        value.map_or(Ok(()), |value| write!(f, " {operator} {value}"))
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Duration(ns) => write!(f, "{ns}ns"),
            Self::Text(text) => write_quoted(f, text, '"'),
            Self::Char(byte) => write_quoted(f, &[*byte], '\''),
            Self::Bool(value) => write!(f, "{value}"),
        }
    }
}
