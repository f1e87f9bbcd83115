//! A condition applied to a probe: what each name means there, and whether each constant fits it.

use std::ops::Range;

use super::{
    Check, Comparison, Condition, Expr, Formula, Literal, MAX_COMPARISONS, MAX_MIXED, Operand,
    Order, Relation, Spanned, Test,
};
use crate::{
    ArgSpec, ProbeSpec, SpecError, nearest,
    types::{BytesLen, Compared, IntShape},
};

/// Names that every probe has, and what they mean.
const BUILT_IN: [(&str, Operand); 5] = [
    ("ret", Operand::Return),
    ("duration", Operand::Duration),
    ("pid", Operand::Pid),
    ("tid", Operand::Tid),
    ("comm", Operand::Comm),
];

/// Longest name of a thread: the kernel keeps 16 bytes with its terminator.
const MAX_COMM_BYTES: usize = 15;

/// Why a condition cannot be applied to a probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// The probe has no such argument, or its return is not traced. Another probe may be better.
    #[error("{error}")]
    Absent {
        /// The name, as written.
        name: String,
        /// It is what a call returns or how long it takes.
        is_of_return: bool,
        /// The same, in words.
        error: SpecError,
    },
    /// It makes no sense for any probe.
    #[error("{0}")]
    Wrong(SpecError),
}

impl TypeError {
    /// What is wrong, and where.
    #[must_use]
    pub fn error(&self) -> &SpecError {
        match self {
            Self::Absent { error, .. } | Self::Wrong(error) => error,
        }
    }
}

impl Condition {
    /// What the condition means for this probe.
    ///
    /// # Errors
    ///
    /// [`TypeError::Absent`] for a name that the probe does not have; [`TypeError::Wrong`] for a
    /// constant that does not fit, or a comparison that can only be a mistake.
    pub fn typed(&self, probe: &ProbeSpec) -> Result<Formula, TypeError> {
        let typing = Typing { condition: self, probe };
        let formula = typing.formula(&self.root, false)?;
        let comparisons = formula.tests().len();
        let whole = 0..self.text.len();
        if comparisons > MAX_COMPARISONS {
            let message =
                format!("{comparisons} comparisons; at most {MAX_COMPARISONS} are allowed");
            return Err(typing.wrong(whole, message));
        }
        let mixed = formula.conjuncts().into_iter().filter(|part| part.needs_return());
        let of_entry =
            |part: &Formula| part.tests().iter().filter(|test| test.operand.is_of_entry()).count();
        if mixed.map(of_entry).sum::<usize>() > MAX_MIXED {
            let message = format!(
                "more than {MAX_MIXED} comparisons of arguments together with `ret` or `duration`"
            );
            let hint = "join them with `&&` at the top, as in `size > 1 && ret < 0`";
            return Err(TypeError::Wrong(self.error(whole, message).with_hint(hint)));
        }
        Ok(formula)
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> SpecError {
        SpecError::new(&self.text, span, message)
    }
}

/// What a name is.
struct Named<'a> {
    name: &'a Spanned<String>,
    operand: Operand,
    kind: Compared,
    /// As errors call it.
    ty: String,
}

struct Typing<'a> {
    condition: &'a Condition,
    probe: &'a ProbeSpec,
}

impl Typing<'_> {
    fn wrong(&self, span: Range<usize>, message: impl Into<String>) -> TypeError {
        TypeError::Wrong(self.condition.error(span, message))
    }

    fn formula(&self, expr: &Expr, negated: bool) -> Result<Formula, TypeError> {
        let all = |parts: &[Expr]| {
            parts.iter().map(|part| self.formula(part, negated)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match (expr, negated) {
            (Expr::Not(inner), _) => self.formula(inner, !negated)?,
            (Expr::All(parts), false) | (Expr::Any(parts), true) => Formula::All(all(parts)?),
            (Expr::Any(parts), false) | (Expr::All(parts), true) => Formula::Any(all(parts)?),
            (Expr::Comparison(comparison), _) => self.comparison(comparison, negated)?,
        })
    }

    fn comparison(&self, comparison: &Comparison, negated: bool) -> Result<Formula, TypeError> {
        let named = self.named(&comparison.name)?;
        let Comparison { mask, relation, values, .. } = comparison;
        if let (Some(mask), false) = (mask, matches!(named.kind, Compared::Number(_))) {
            let message =
                format!("`&` works on numbers, but `{}` is {}", named.name.value, named.ty);
            return Err(self.wrong(mask.span.clone(), message));
        }
        let (order, turned) = match relation {
            Relation::Equal | Relation::In | Relation::Prefix => (Order::Equal, false),
            Relation::NotEqual | Relation::NotZero => (Order::Equal, true),
            Relation::Less => (Order::Less, false),
            Relation::AtLeast => (Order::Less, true),
            Relation::Greater => (Order::Greater, false),
            Relation::AtMost => (Order::Greater, true),
        };
        let is_prefix = *relation == Relation::Prefix;
        let negated = negated != turned;
        let zero = [Spanned { value: Literal::Number(0), span: named.name.span.clone() }];
        let values = if *relation == Relation::NotZero { &zero[..] } else { &values[..] };
        let parts = values.iter().map(|value| match &named.kind {
            Compared::Str | Compared::Bytes(_) => {
                let is_order = order != Order::Equal || *relation == Relation::NotZero;
                if is_order {
                    let message = format!(
                        "`{}` is {}: use `==`, `!=`, `^=` or `in`",
                        named.name.value, named.ty
                    );
                    return Err(self.wrong(named.name.span.clone(), message));
                }
                self.text(&named, value, !is_prefix, negated)
            }
            _ if is_prefix => {
                let message = format!(
                    "`^=` compares the start of text, but `{}` is {}",
                    named.name.value, named.ty
                );
                Err(self.wrong(named.name.span.clone(), message))
            }
            _ => {
                let is_bare = *relation == Relation::NotZero;
                let check = self.number(&named, mask.as_ref(), order, value, is_bare)?;
                Ok(Formula::Test(Test { operand: named.operand, check, negated }))
            }
        });
        let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ if negated => Formula::All(parts),
            _ => Formula::Any(parts),
        })
    }

    /// What a name means for this probe.
    fn named<'n>(&self, name: &'n Spanned<String>) -> Result<Named<'n>, TypeError> {
        let probe = self.probe;
        let position = probe.args.iter().position(|arg| arg.name() == Some(&name.value));
        let built_in = BUILT_IN.iter().find(|(built_in, _)| *built_in == name.value);
        let error = |message: String| self.condition.error(name.span.clone(), message);
        let (operand, ty) = match (position, built_in) {
            (Some(_), Some(_)) => {
                let message = format!(
                    "`{}` is an argument of `{probe}` and also a built-in name",
                    name.value
                );
                let hint = "rename the argument in the probe";
                return Err(TypeError::Wrong(error(message).with_hint(hint)));
            }
            (Some(position), None) => match &probe.args[position] {
                ArgSpec::Read { ty, .. } => (Operand::Arg(position), Some(ty)),
                ArgSpec::Skip => return Err(self.wrong(name.span.clone(), "not read")),
            },
            (None, Some((_, operand))) => {
                if operand.is_of_return() && probe.ret.is_none() {
                    let message = format!("the return of `{probe}` is not traced");
                    let hint = format!("to trace it, write `{probe} -> i64`");
                    return Err(TypeError::Absent {
                        name: name.value.clone(),
                        is_of_return: true,
                        error: error(message).with_hint(hint),
                    });
                }
                (*operand, probe.ret.as_ref().filter(|_| *operand == Operand::Return))
            }
            (None, None) => {
                return Err(TypeError::Absent {
                    name: name.value.clone(),
                    is_of_return: false,
                    error: self.unknown(name),
                });
            }
        };
        let (kind, ty) = match (operand, ty) {
            (_, Some(ty)) => (ty.compared(), format!("`{}`", ty.text(&probe.args))),
            (Operand::Duration, None) => (Compared::Duration, "a duration".to_owned()),
            (Operand::Comm, None) => (Compared::Str, "text".to_owned()),
            (_, None) => (Compared::Number(IntShape::unsigned(32)), "a number".to_owned()),
        };
        Ok(Named { name, operand, kind, ty })
    }

    fn unknown(&self, name: &Spanned<String>) -> SpecError {
        let probe = self.probe;
        let message = format!("`{probe}` has no argument `{}`", name.value);
        let error = self.condition.error(name.span.clone(), message);
        let arguments = probe.args.iter().filter_map(ArgSpec::name);
        let names = arguments.chain(BUILT_IN.iter().map(|(name, _)| *name));
        match nearest(&name.value, names) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None if probe.args.is_empty() => error
                .with_hint(format!("name it in the probe, as in `FUNCTION({}: i32)`", name.value)),
            None => error,
        }
    }

    fn number(
        &self,
        named: &Named<'_>,
        mask: Option<&Spanned<Literal>>,
        order: Order,
        value: &Spanned<Literal>,
        is_bare: bool,
    ) -> Result<Check, TypeError> {
        let Named { name, ty, .. } = named;
        let mismatch = |hint: &str| {
            let message = format!(
                "cannot compare `{}`, which is {ty}, with {}",
                name.value,
                kind_of(&value.value)
            );
            TypeError::Wrong(self.condition.error(value.span.clone(), message).with_hint(hint))
        };
        let check = |bits, signed, constant| Check::Number {
            bits,
            signed,
            mask: ones(bits, signed),
            order,
            constant,
        };
        match (&named.kind, &value.value) {
            (Compared::Truth, Literal::Number(0)) if is_bare => Ok(check(8, false, 0)),
            (Compared::Truth, Literal::Bool(wanted)) if order == Order::Equal => {
                // Any value but 0 is true.
                let (order, constant) =
                    if *wanted { (Order::Greater, 0) } else { (Order::Equal, 0) };
                Ok(Check::Number { bits: 8, signed: false, mask: 0xff, order, constant })
            }
            (Compared::Truth, Literal::Bool(_)) => Err(self.wrong(
                name.span.clone(),
                format!("`{}` is true or false and has no order", name.value),
            )),
            (Compared::Truth, _) => Err(mismatch("compare it with `true` or `false`")),
            (Compared::Duration, Literal::Duration(ns)) => Ok(check(64, false, i128::from(*ns))),
            (Compared::Duration, _) => {
                Err(mismatch("write a duration with its unit, as in `duration > 10ms`"))
            }
            (Compared::Number(IntShape { bits, signed }), value_literal) => {
                let constant = match value_literal {
                    Literal::Number(number) => *number,
                    Literal::Char(byte) => i128::from(*byte),
                    _ => return Err(mismatch("use a number, as in `10`, `-1` or `0x40`")),
                };
                let signed = *signed && mask.is_none();
                self.check_range(named, *bits, signed, &value.span, constant)?;
                let Some(mask) = mask else { return Ok(check(*bits, signed, constant)) };
                let Literal::Number(number) = mask.value else {
                    return Err(self.wrong(mask.span.clone(), "a mask must be a number"));
                };
                self.check_range(named, *bits, false, &mask.span, number)?;
                if order == Order::Equal && constant & !number != 0 {
                    let message = "it has bits outside the mask, so the two are never equal";
                    return Err(self.wrong(value.span.clone(), message));
                }
                // Within the width, as just checked.
                let mask = u64::try_from(number).unwrap_or(u64::MAX);
                Ok(Check::Number { bits: *bits, signed: false, mask, order, constant })
            }
            (Compared::Str | Compared::Bytes(_), _) => Err(mismatch("use text, as in `\"text\"`")),
        }
    }

    fn check_range(
        &self,
        named: &Named<'_>,
        bits: u8,
        signed: bool,
        span: &Range<usize>,
        number: i128,
    ) -> Result<(), TypeError> {
        let values = 1_i128 << bits;
        let least = if signed { -(values / 2) } else { 0 };
        let most = least + values - 1;
        if (least..=most).contains(&number) {
            return Ok(());
        }
        let Named { name, ty, .. } = named;
        let message = format!("`{}` is {ty}: from {least} to {most}", name.value);
        let error = self.condition.error(span.clone(), message);
        // `0xffffffff` for -1.
        Err(TypeError::Wrong(if signed && number > most && number < values {
            error.with_hint(format!("`{}` has the same bits", number - values))
        } else {
            error
        }))
    }

    fn text(
        &self,
        named: &Named<'_>,
        value: &Spanned<Literal>,
        whole: bool,
        negated: bool,
    ) -> Result<Formula, TypeError> {
        let Named { name, operand, kind, ty } = named;
        let error = |message: String| self.wrong(value.span.clone(), message);
        let Literal::Text(text) = &value.value else {
            let message = format!(
                "cannot compare `{}`, which is {ty}, with {}",
                name.value,
                kind_of(&value.value)
            );
            let error = self.condition.error(value.span.clone(), message);
            return Err(TypeError::Wrong(error.with_hint("put text in double quotes: `\"text\"`")));
        };
        if text.is_empty() && !whole {
            return Err(error("every text starts with the empty text".to_owned()));
        }
        let test = |operand, check| Formula::Test(Test { operand, check, negated });
        let Compared::Bytes(length) = kind else {
            if text.contains(&0) {
                return Err(error(
                    "a string ends at its first NUL byte, so it is never equal to this".to_owned(),
                ));
            }
            if *operand == Operand::Comm && text.len() > MAX_COMM_BYTES {
                return Err(error(format!("a thread name has at most {MAX_COMM_BYTES} bytes")));
            }
            return Ok(test(*operand, Check::Str { text: text.clone(), whole }));
        };
        let bytes = test(*operand, Check::Bytes { text: text.clone() });
        let of_length = match length {
            BytesLen::Const(length) => {
                let length = *length as usize;
                if length == text.len() || (!whole && length > text.len()) {
                    return Ok(bytes);
                }
                let message = format!(
                    "`{}` has {length} bytes, but this text has {}",
                    name.value,
                    text.len()
                );
                return Err(error(message));
            }
            BytesLen::Arg(position) => *position,
        };
        let shape = match self.probe.args.get(of_length) {
            Some(ArgSpec::Read { ty, .. }) => ty.as_length(),
            Some(ArgSpec::Skip) | None => None,
        };
        let Some(IntShape { bits, signed }) = shape else {
            return Err(error("its length is not a number".to_owned()));
        };
        let check = Check::Number {
            bits,
            signed,
            mask: ones(bits, signed),
            // "At least" is "not less".
            order: if whole { Order::Equal } else { Order::Less },
            constant: text.len() as i128,
        };
        let operand = Operand::Arg(of_length);
        let is_long_enough = Formula::Test(Test { operand, check, negated: negated == whole });
        let parts =
            if text.is_empty() { vec![is_long_enough] } else { vec![is_long_enough, bytes] };
        Ok(if negated { Formula::Any(parts) } else { Formula::All(parts) })
    }
}

/// The bits that count of a number without a mask: those of its type, and all that a signed one is
/// extended to.
fn ones(bits: u8, signed: bool) -> u64 {
    if signed { u64::MAX } else { u64::MAX >> (64 - u32::from(bits)) }
}

fn kind_of(literal: &Literal) -> &'static str {
    match literal {
        Literal::Number(_) => "a number",
        Literal::Duration(_) => "a duration",
        Literal::Text(_) => "text",
        Literal::Char(_) => "a character",
        Literal::Bool(_) => "a truth value",
    }
}
