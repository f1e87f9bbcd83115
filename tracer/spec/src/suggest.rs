//! What was probably meant: near names, and this syntax's word for a C type.
//!
//! A suggestion is for an error's hint only; nothing is ever parsed as something else.

use super::types;

/// The candidate that `wrong` is most likely a misspelling of, if one is near enough.
///
/// Near means at most one edit (a letter added, lost, changed, or swapped with its neighbour) for every
/// three letters; case does not count.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let length = wrong.chars().count();
    // The distance takes quadratic time, and nobody types such names.
    if length > 256 {
        return None;
    }
    let limit = (length / 3).max(1);
    candidates
        .into_iter()
        // Lengths alone can rule a candidate out.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= limit)
        .map(|candidate| (strsim::osa_distance(&wrong, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A hint for text in the place of a type that is not one.
pub(super) fn type_hint(wrong: &str) -> String {
    if is_float(wrong) {
        return "floating-point values are not in the registers that a probe reads".to_owned();
    }
    match known_elsewhere(wrong).or_else(|| nearest(wrong, types::spellings())) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("types are {}", types::type_summaries().join(", ")),
    }
}

fn is_float(name: &str) -> bool {
    matches!(name, "float" | "double" | "long double" | "f32" | "f64" | "float32" | "float64")
}

/// What a type of C, C++, Rust or Go is called here, on a 64-bit platform.
pub(super) fn known_elsewhere(name: &str) -> Option<&'static str> {
    // One spelling for `const  char *`, `char const*` and `char*`.
    let spaced = name.replace('*', " * ");
    let words: Vec<&str> = spaced
        .split_whitespace()
        .filter(|word| !matches!(*word, "const" | "volatile" | "restrict" | "mut"))
        .collect();
    types::from_elsewhere(&words.join(" ").replace(" *", "*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a near name is found, and a far one is not.
    #[test]
    fn near_names() {
        let names = ["SSL_read", "SSL_write", "SSL_do_handshake"];
        assert_eq!(nearest("SSL_wirte", names), Some("SSL_write"));
        assert_eq!(nearest("ssl_read", names), Some("SSL_read"));
        assert_eq!(nearest("SSL_reader", names), Some("SSL_read"));
        assert_eq!(nearest("open", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest("cuont", ["fd", "count"]), Some("count"));
    }

    /// Check that types of other languages, and misspelled ones, get a type of ours.
    #[test]
    fn types() {
        for (wrong, right) in [
            ("int", "i32"),
            ("uint32", "u32"),
            ("size_t", "u64"),
            ("unsigned  long", "u64"),
            ("char*", "str"),
            ("const char *", "str"),
            ("char const*", "str"),
            ("string", "str"),
            ("void *", "ptr"),
            ("struct file *", "ptr"),
            ("*mut u8", "ptr"),
            ("&T", "ptr"),
            ("i23", "i32"),
            ("I32", "i32"),
            ("Str", "str"),
            ("boolean", "bool"),
            ("byte", "u8"),
        ] {
            assert_eq!(type_hint(wrong), format!("did you mean `{right}`?"), "{wrong}");
        }
        assert!(type_hint("double").starts_with("floating-point"));
        assert!(type_hint("i128x").starts_with("types are"));
    }
}
