//! What the name of a library's file says: which library, which version.
//!
//! Takes names only; opens nothing.

/// Whether a target without a path is more likely a library than a command.
pub(super) fn is_library_name(target: &str) -> bool {
    target.starts_with("lib") || target.contains(".so")
}

/// Whether a file's name is the library that `target` names, with or without a version:
/// `libssl.so.3` for `libssl`, `libssl.so` and `libssl.so.3`; `libc-2.31.so` for `libc`.
pub(super) fn is_version_of(name: &str, target: &str) -> bool {
    if name == target {
        return true;
    }
    let Some(rest) = name.strip_prefix(target) else { return false };
    if target.contains(".so") {
        return rest.starts_with('.');
    }
    let is_so = |rest: &str| rest == ".so" || rest.starts_with(".so.");
    let versioned = rest.strip_prefix('-').map(|rest| {
        rest.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.')
    });
    is_so(rest) || versioned == Some("so") || rest.starts_with(".musl-")
}

/// The numbers of a library's version, for comparison.
pub(super) fn version_key(name: &str) -> Vec<u64> {
    let version = name.find(".so").map_or("", |at| &name[at..]);
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// The newest version among candidates; of equal ones the first, as the loader does.
pub(super) fn best_version<'c, T>(
    candidates: &'c [T],
    target: &str,
    name: impl Fn(&T) -> &str,
) -> Option<&'c T> {
    if target.contains(".so.")
        && let Some(exact) = candidates.iter().find(|candidate| name(candidate) == target)
    {
        return Some(exact);
    }
    let mut best: Option<&T> = None;
    for candidate in candidates.iter().filter(|candidate| is_version_of(name(candidate), target)) {
        let is_newer =
            best.is_none_or(|best| version_key(name(best)) < version_key(name(candidate)));
        if is_newer {
            best = Some(candidate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check which file names a library's name stands for.
    #[test]
    fn library_names() {
        for (name, target) in [
            ("libssl.so.3", "libssl"),
            ("libssl.so.3", "libssl.so"),
            ("libssl.so.3", "libssl.so.3"),
            ("libstdc++.so.6.0.30", "libstdc++.so.6"),
            ("libc-2.31.so", "libc"),
            ("libc.musl-x86_64.so.1", "libc"),
        ] {
            assert!(is_version_of(name, target), "{name} {target}");
        }
        for (name, target) in [
            ("libssl3.so", "libssl"),
            ("libssl.so.30", "libssl.so.3"),
            ("libcrypto.so.3", "libc"),
            ("libc-client.so.2", "libc"),
            ("libssl.sofa", "libssl"),
        ] {
            assert!(!is_version_of(name, target), "{name} {target}");
        }
    }

    /// Check that the newest version is taken, by number and not by letter.
    #[test]
    fn newest_version() {
        let names = ["libx.so", "libx.so.9", "libx.so.10", "libx.so.1.1"];
        let best = |target| best_version(&names, target, |name| name).copied();
        assert_eq!(best("libx"), Some("libx.so.10"));
        assert_eq!(best("libx.so.9"), Some("libx.so.9"));
        assert_eq!(best("libx.so.1"), Some("libx.so.1.1"));
        assert_eq!(best("liby"), None);
    }
}
