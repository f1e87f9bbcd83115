//! What holds for every condition and for every text.

use proptest::prelude::*;

use super::{Comparison, Condition, Expr, Literal, Relation, Spanned};
use crate::is_hidden;

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned { value, span: 0..0 }
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        any::<i64>().prop_map(|number| Literal::Number(i128::from(number))),
        any::<u64>().prop_map(|number| Literal::Number(i128::from(number))),
        any::<u64>().prop_map(Literal::Duration),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Literal::Text),
        any::<String>()
            .prop_filter("at most 256 bytes", |text| text.len() <= 256)
            .prop_map(|text| Literal::Text(text.into_bytes())),
        any::<u8>().prop_map(Literal::Char),
        any::<bool>().prop_map(Literal::Bool),
    ]
}

fn comparison() -> impl Strategy<Value = Comparison> {
    let relation = prop::sample::select(
        &[
            Relation::Equal,
            Relation::NotEqual,
            Relation::Less,
            Relation::AtMost,
            Relation::Greater,
            Relation::AtLeast,
            Relation::Prefix,
            Relation::In,
            Relation::NotZero,
        ][..],
    );
    let values = prop::collection::vec(literal().prop_map(spanned), 1..4);
    let mask = prop::option::of(literal().prop_map(spanned));
    ("[a-z_][a-z0-9_]{0,6}", mask, relation, values).prop_map(
        |(name, mask, relation, mut values)| {
            match relation {
                Relation::In => {}
                Relation::NotZero => values.clear(),
                _ => values.truncate(1),
            }
            Comparison { name: spanned(name), mask, relation, values }
        },
    )
}

fn expr() -> impl Strategy<Value = Expr> {
    comparison().prop_map(Expr::Comparison).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Any),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::All),
            inner.prop_map(|negated| Expr::Not(Box::new(negated))),
        ]
    })
}

const TOKENS: [&str; 32] = [
    "size", "path", "ret", "in", "true", "==", "!=", "^=", "<", ">=", "&&", "||", "!", "&", "(",
    ")", "{", "}", ",", " ", "\"", "\\", "'", "-", "0x", "10", "ms", "KiB", "\\x", "\u{1b}", "漢",
    "µs",
];

proptest! {
    /// Check that printing and parsing a condition gives the same condition.
    #[test]
    fn print_then_parse_is_the_identity(root in expr()) {
        let condition = Condition { text: String::new(), root };
        let printed = condition.to_string();
        prop_assert!(!printed.contains(is_hidden), "{:?}", printed);
        let parsed = printed.parse::<Condition>().map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&parsed, &condition, "{}", printed);
    }

    /// Check that any text made of the language's pieces is parsed or refused in order.
    #[test]
    fn hostile_texts(tokens in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..16)) {
        let text = tokens.concat();
        match text.parse::<Condition>() {
            Ok(condition) => {
                let printed = condition.to_string();
                prop_assert_eq!(printed.parse::<Condition>(), Ok(condition), "{}", printed);
            }
            Err(error) => {
                prop_assert!(text.get(error.span()).is_some(), "{:?}", error.span());
                prop_assert!(!error.message().contains(is_hidden));
            }
        }
    }
}
