//! Indirect functions: symbols whose code picks another function when the file is loaded.
//!
//! Takes a file's symbols; says which addresses are resolvers, and which functions a resolver may pick.
//! ELF does not say that, so it goes by the names that glibc and compilers give them.

use std::collections::BTreeSet;

use super::address::ElfAddr;
use super::symbols::{SymbolId, SymbolKind, Symbols};

/// Whether the code at an address is a resolver's.
pub(super) fn is_resolver(symbols: &Symbols, address: ElfAddr) -> bool {
    symbols.at(address).iter().any(|&id| symbols.get(id).kind == SymbolKind::Ifunc)
}

/// The functions that a resolver of these names may pick.
pub(super) fn implementations(symbols: &Symbols, resolver: &[SymbolId]) -> Vec<String> {
    let wanted: BTreeSet<&[u8]> = resolver.iter().map(|&id| symbols.name(id)).collect();
    let mut found = BTreeSet::new();
    for id in symbols.ids().filter(|&id| symbols.get(id).kind == SymbolKind::Function) {
        let name = symbols.name(id);
        if wanted.iter().any(|wanted| is_implementation(name, wanted))
            && !is_resolver(symbols, symbols.get(id).address)
        {
            found.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    found.into_iter().collect()
}

/// `__memcpy_avx_unaligned` is one of `memcpy`'s, and so is a compiler's clone `memcpy.avx2.0`.
fn is_implementation(name: &[u8], function: &[u8]) -> bool {
    const VARIANTS: [&str; 24] = [
        "a64fx",
        "asimd",
        "avx",
        "c",
        "emag",
        "erms",
        "evex",
        "falkor",
        "fma",
        "generic",
        "kunpeng",
        "mops",
        "neon",
        "oryon",
        "popcnt",
        "sse2",
        "sse4",
        "ssse3",
        "sve",
        "syscall",
        "thunderx",
        "unaligned",
        "vsx",
        "zva",
    ];
    let (Ok(name), Ok(function)) = (str::from_utf8(name), str::from_utf8(function)) else {
        return false;
    };
    let (name, function) = (name.trim_start_matches('_'), function.trim_start_matches('_'));
    let Some(rest) = name.strip_prefix(function) else { return false };
    if let Some(variant) = rest.strip_prefix('.') {
        return !["resolver", "cold", "part", "isra", "constprop", "lto_priv"]
            .iter()
            .any(|mark| variant.starts_with(mark));
    }
    let Some(variant) = rest.strip_prefix('_') else { return false };
    let word = variant.split('_').next().unwrap_or(variant);
    VARIANTS.iter().any(|known| match word.strip_prefix(known) {
        // `avx512`, `sse42`, `thunderx2`
        Some(tail) => tail.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check which names count as implementations behind a resolver.
    #[test]
    fn implementations_are_known_by_name() {
        let is =
            |name: &str, function: &str| is_implementation(name.as_bytes(), function.as_bytes());
        assert!(is("__memcpy_avx_unaligned", "memcpy"));
        assert!(is("__memmove_avx512_no_vzeroupper", "memmove"));
        assert!(is("__strlen_sse42", "strlen"));
        assert!(is("__memcpy_thunderx2", "memcpy"));
        assert!(is("sum.avx2.0", "sum"));
        assert!(is("sum.default.1", "sum"));
        assert!(!is("sum.resolver", "sum"));
        assert!(!is("__memcpy_chk_avx_unaligned", "memcpy"));
        assert!(is("__memcpy_chk_avx_unaligned", "__memcpy_chk"));
        assert!(!is("memcpy", "memcpy"));
        assert!(!is("__memcpyx", "memcpy"));
    }
}
