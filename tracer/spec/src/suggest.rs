//! What was probably meant: near names, and this syntax's word for a C type.
//!
//! A suggestion is for an error's hint only; nothing is ever parsed as something else.

/// The candidate that `wrong` is most likely a misspelling of, if one is near enough.
///
/// Near is one edit (a letter added, lost, changed, or swapped with its neighbour) in every three
/// letters, case aside.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let length = wrong.chars().count();
    // The distance takes quadratic time; nobody misspells what nobody types.
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

/// Every type that has no length, and those with one as they are written.
const TYPES: [&str; 18] = [
    "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "x8", "x16", "x32", "x64", "bool",
    "char", "ptr", "str", "str[MAX]", "bytes[N]",
];

/// A hint for text that stands where a type should and is none.
pub(super) fn type_hint(wrong: &str) -> String {
    if is_float(wrong) {
        return "floating-point values are not in the registers that a probe reads".to_owned();
    }
    match known_elsewhere(wrong).or_else(|| nearest(wrong, TYPES)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "types are i8…i64, u8…u64, x8…x64, bool, char, ptr, str, str[MAX], bytes[N] and \
                 bytes[ARGUMENT]"
            .to_owned(),
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
    let name = words.join(" ").replace(" *", "*");
    Some(match name.as_str() {
        "int" | "signed" | "signed int" | "int32" | "int32_t" | "__s32" | "s32" | "pid_t"
        | "rune" | "c_int" => "i32",
        "unsigned" | "unsigned int" | "uint" | "uint32" | "uint32_t" | "__u32" | "u_int"
        | "uid_t" | "gid_t" | "mode_t" | "socklen_t" | "dword" | "c_uint" => "u32",
        "long" | "long int" | "long long" | "long long int" | "int64" | "int64_t" | "__s64"
        | "s64" | "ssize_t" | "off_t" | "off64_t" | "time_t" | "ptrdiff_t" | "intptr_t"
        | "isize" | "c_long" => "i64",
        "unsigned long" | "unsigned long int" | "unsigned long long" | "ulong" | "uint64"
        | "uint64_t" | "__u64" | "size_t" | "usize" | "c_ulong" => "u64",
        "short" | "short int" | "int16" | "int16_t" | "__s16" | "s16" => "i16",
        "unsigned short" | "ushort" | "uint16" | "uint16_t" | "__u16" | "word" => "u16",
        "signed char" | "int8" | "int8_t" | "__s8" | "s8" => "i8",
        "unsigned char" | "uchar" | "uint8" | "uint8_t" | "__u8" | "byte" => "u8",
        "_Bool" | "boolean" => "bool",
        "hex" => "x64",
        "char*" | "string" | "String" | "&str" | "cstr" | "cstring" | "CStr" | "text" => "str",
        "bytes" | "buf" | "buffer" | "slice" | "[]byte" | "&[u8]" => "bytes[N]",
        "pointer" | "void" | "uintptr_t" | "uintptr" | "addr" | "address" => "ptr",
        name if name.ends_with('*') || name.starts_with(['*', '&']) => "ptr",
        _ => return None,
    })
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
