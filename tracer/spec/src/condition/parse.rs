//! A condition's text from end to end.

use std::str::FromStr;

use super::{Comparison, Condition, Expr, Relation, Spanned, literal::literal};
use crate::{SpecError, cursor::Cursor};

/// Deepest nesting of parentheses and `!`.
const MAX_DEPTH: usize = 64;

/// Relations by how they are written; what begins like another comes first.
const RELATIONS: [(&str, Relation); 7] = [
    ("==", Relation::Equal),
    ("!=", Relation::NotEqual),
    ("^=", Relation::Prefix),
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("<", Relation::Less),
    (">", Relation::Greater),
];

const EXAMPLE: &str = r#"a condition is like `size > 4096 && path ^= "/etc/"`"#;

impl FromStr for Condition {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut cursor = Cursor::new(text);
        if cursor.at_end() {
            return Err(cursor.error_here("empty condition").with_hint(EXAMPLE));
        }
        let root = any(&mut cursor, 0)?;
        if !cursor.at_end() {
            return Err(trailing(&cursor));
        }
        Ok(Self { text: text.trim().to_owned(), root })
    }
}

/// The error for what follows a comparison and cannot.
fn trailing(cursor: &Cursor<'_>) -> SpecError {
    let rest = cursor.rest();
    let word = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let error = cursor.error_here("expected `&&`, `||` or the end of the condition");
    let hint = match (rest.chars().next(), word.to_ascii_lowercase().as_str()) {
        (_, "and") | (Some(','), _) => "use `&&` where both must hold",
        (_, "or") | (Some('|'), _) => "use `||` where one is enough",
        (Some(')'), _) => "it has no matching `(`",
        _ => return error,
    };
    error.with_hint(hint)
}

/// Parts with `||` between them. Leaves the cursor on the next thing that is not white space.
fn any(cursor: &mut Cursor<'_>, depth: usize) -> Result<Expr, SpecError> {
    joined(cursor, "||", Expr::Any, |cursor| joined(cursor, "&&", Expr::All, |c| part(c, depth)))
}

fn joined(
    cursor: &mut Cursor<'_>,
    operator: &str,
    join: fn(Vec<Expr>) -> Expr,
    mut part: impl FnMut(&mut Cursor<'_>) -> Result<Expr, SpecError>,
) -> Result<Expr, SpecError> {
    let first = part(cursor)?;
    cursor.skip_space();
    let mut parts = vec![first];
    while cursor.eat(operator) {
        parts.push(part(cursor)?);
        cursor.skip_space();
    }
    Ok(if parts.len() > 1 { join(parts) } else { parts.remove(0) })
}

/// `!…`, `(…)` or a comparison.
fn part(cursor: &mut Cursor<'_>, depth: usize) -> Result<Expr, SpecError> {
    cursor.skip_space();
    let start = cursor.position();
    if depth > MAX_DEPTH {
        let message = format!("parentheses are nested more than {MAX_DEPTH} deep");
        return Err(cursor.error_here(message));
    }
    if cursor.eat("!") {
        cursor.skip_space();
        let bare = !cursor.rest().starts_with(['!', '(']);
        let negated = part(cursor, depth + 1)?;
        // In C it would negate the name alone.
        if bare
            && let Expr::Comparison(Comparison { relation, .. }) = &negated
            && *relation != Relation::NotZero
        {
            let text = cursor.since(start + 1).trim();
            let hint = format!("`!({text})`");
            return Err(cursor.error(start..start + 1, "`!` needs parentheses").with_hint(hint));
        }
        return Ok(Expr::Not(Box::new(negated)));
    }
    if cursor.eat("(") {
        let inner = any(cursor, depth + 1)?;
        if !cursor.eat(")") {
            return Err(if cursor.at_end() {
                cursor.error(start..start + 1, "missing the closing `)`")
            } else {
                trailing(cursor)
            });
        }
        return Ok(inner);
    }
    comparison(cursor).map(Expr::Comparison)
}

fn comparison(cursor: &mut Cursor<'_>) -> Result<Comparison, SpecError> {
    let start = cursor.position();
    let name = cursor.take_while(|c| c.is_alphanumeric() || c == '_');
    let span = cursor.span_since(start);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        let span = if name.is_empty() { cursor.next_span() } else { span };
        return Err(cursor
            .error(span, "expected a name: an argument, `ret`, `duration`, `pid`, `tid` or `comm`")
            .with_hint("start a comparison with the name, as in `size > 10`"));
    }
    let name = Spanned { value: name.to_owned(), span };
    cursor.skip_space();
    let mask = if cursor.rest().starts_with('&') && !cursor.rest().starts_with("&&") {
        cursor.bump();
        cursor.skip_space();
        let mask = literal(cursor)?;
        cursor.skip_space();
        Some(mask)
    } else {
        None
    };
    let relation = relation(cursor)?;
    let values = match relation {
        Relation::NotZero => Vec::new(),
        Relation::In => set(cursor)?,
        _ => {
            cursor.skip_space();
            vec![literal(cursor)?]
        }
    };
    Ok(Comparison { name, mask, relation, values })
}

fn relation(cursor: &mut Cursor<'_>) -> Result<Relation, SpecError> {
    for (token, relation) in RELATIONS {
        if cursor.eat(token) {
            return Ok(relation);
        }
    }
    let rest = cursor.rest();
    let word = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
    if word == Some("in") {
        cursor.eat("in");
        return Ok(Relation::In);
    }
    if rest.starts_with('=') {
        return Err(cursor.error_here("expected a comparison").with_hint("use `==` to compare"));
    }
    Ok(Relation::NotZero)
}

/// Reads `{…}`.
fn set(cursor: &mut Cursor<'_>) -> Result<Vec<Spanned<super::Literal>>, SpecError> {
    cursor.skip_space();
    let start = cursor.position();
    if !cursor.eat("{") {
        return Err(cursor.error_here("expected a set").with_hint("as in `flags in {0, 0x10}`"));
    }
    let mut values = Vec::new();
    loop {
        cursor.skip_space();
        if !values.is_empty() && cursor.eat("}") {
            return Ok(values);
        }
        values.push(literal(cursor)?);
        cursor.skip_space();
        if !cursor.eat(",") && cursor.peek() != Some('}') {
            return Err(if cursor.at_end() {
                cursor.error(start..start + 1, "missing the closing `}`")
            } else {
                cursor.error_here("expected `,` or `}`")
            });
        }
    }
}
