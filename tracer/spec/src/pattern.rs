//! Bracket classes in globs: the parser checks them here, so that a glob that selects nothing is pointed
//! at.

/// Why something is not a bracket class.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClassFault {
    pub(super) message: String,
    /// Bytes at fault, from the opening bracket.
    pub(super) len: usize,
}

/// How many bytes the class takes that `text` begins with: `[a-z_]`, or `[!0-9]` and `[^0-9]` for all
/// others. The first character of `text` is `[`.
pub(super) fn class_len(text: &str) -> Result<usize, ClassFault> {
    let Some(end) = text.find(']') else {
        return Err(ClassFault { message: "missing the closing `]`".to_owned(), len: 1 });
    };
    let len = end + 1;
    let inner = text.get(1..end).unwrap_or_default();
    let members = inner.strip_prefix(['!', '^']).unwrap_or(inner);
    if members.is_empty() {
        return Err(ClassFault { message: format!("`[{inner}]` selects nothing"), len });
    }
    let mut members = members.chars();
    while let Some(first) = members.next() {
        let mut ahead = members.clone();
        // A `-` at either end is itself.
        let last = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) => {
                members = ahead;
                last
            }
            _ => first,
        };
        if first > last {
            let message = format!("`{first}-{last}` is out of order");
            return Err(ClassFault { message, len });
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a class ends at its first closing bracket.
    #[test]
    fn classes_have_a_length() {
        for (text, len) in [("[a-c_]x", 6), ("[!0-9]", 6), ("[-x]y", 4), ("[*]", 3), ("[é]]", 4)] {
            assert_eq!(class_len(text), Ok(len), "{text}");
        }
    }

    /// Check that classes that can match nothing are faults, with their length.
    #[test]
    fn wrong_classes() {
        for (text, message, len) in [
            ("[abc", "missing the closing `]`", 1),
            ("[]x", "`[]` selects nothing", 2),
            ("[!]", "`[!]` selects nothing", 3),
            ("[z-a]*", "`z-a` is out of order", 5),
        ] {
            assert_eq!(class_len(text), Err(ClassFault { message: message.to_owned(), len }));
        }
    }
}
