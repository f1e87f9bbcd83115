//! Functions that the compiler or the linker made of one function, or one of several.
//!
//! Takes a file and symbols; gives other names. Symbols alone are looked at.

use std::collections::HashMap;
use std::sync::Arc;

use super::demangle;
use super::object_file::ObjectFile;
use super::select::whole_function;
use super::symbols::SymbolKind;

/// The copies that the compiler made of each function (`step.constprop.0`, `step.part.0`), as a probe can
/// name them. Its cold parts are not copies: no call enters one.
#[must_use]
pub fn copies(file: &ObjectFile, functions: &[&str]) -> Vec<Vec<Arc<str>>> {
    let mut found = vec![Vec::new(); functions.len()];
    let places: HashMap<&[u8], usize> =
        functions.iter().enumerate().map(|(place, name)| (name.as_bytes(), place)).collect();
    let symbols = &file.symbols;
    for id in symbols.ids() {
        let name = symbols.name(id);
        let Some(dot) = name.iter().position(|&byte| byte == b'.').filter(|&dot| dot > 0) else {
            continue;
        };
        let Some(&place) = places.get(&name[..dot]) else { continue };
        if symbols.get(id).kind != SymbolKind::Function
            || whole_function(name).is_some()
            || name.ends_with(b".localalias")
        {
            continue;
        }
        found[place].push(shown(name));
    }
    for names in &mut found {
        names.sort();
        names.dedup();
    }
    found
}

/// Those of a function's aliases that name another function: not `__open` or `open64` for `open`, nor the
/// two constructors that the compiler makes of each one.
#[must_use]
pub fn other_functions(symbol: &str, aliases: &[Arc<str>]) -> Vec<Arc<str>> {
    let own = shown(symbol.as_bytes());
    let mut others: Vec<Arc<str>> = aliases
        .iter()
        .map(|alias| shown(alias.as_bytes()))
        .filter(|alias| !is_variant(&own, alias))
        .collect();
    others.sort();
    others.dedup();
    // A library's own name for one of the others says nothing more.
    let is_internal = |name: &Arc<str>| {
        let is_other = |other: &&Arc<str>| !other.starts_with('_') && is_variant(name, other);
        name.starts_with('_') && others.iter().any(|other| is_other(&other))
    };
    others.iter().filter(|name| !is_internal(name)).cloned().collect()
}

fn shown(raw: &[u8]) -> Arc<str> {
    match demangle::demangle(raw) {
        Some(demangled) => demangled.full.into(),
        None => String::from_utf8_lossy(raw).into(),
    }
}

fn is_variant(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim_start_matches('_'), other.trim_start_matches('_'));
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::super::testbed::Testbed;
    use super::super::{Resolver, View};
    use super::*;

    /// Check that a constant-propagated copy is found, and neither a cold part nor a name that begins alike.
    #[test]
    fn copies_by_the_compiler() {
        let source = "
            __asm__(\".type step.constprop.0,@function\\nstep.constprop.0: ret\\n\"
                    \".type step.cold,@function\\nstep.cold: ret\\n\"
                    \".type step2.part.0,@function\\nstep2.part.0: ret\\n\");
            int step(int n) { return n; }
            int main(void) { return step(0); }";
        let bed = Testbed::new("copies");
        let path = bed.c_program("p", source, &[]);
        let file = Resolver::new(View::Host).target(path.to_str().unwrap()).unwrap();
        let names = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found = copies(&file, &["step", "main"]);
        assert_eq!(names(&found[0]), ["step.constprop.0"]);
        assert!(found[1].is_empty());
    }

    /// Check that a library's own variants of a name are not taken for other functions.
    #[test]
    fn variants_are_not_other_functions() {
        let aliases: Vec<Arc<str>> =
            ["__open", "open64", "__libc_open64", "creat", "__GI_creat"].map(Arc::from).into();
        let names = |found: Vec<Arc<str>>| {
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(other_functions("open", &aliases)), "creat");
        let constructors = ["_ZN4shop4CartC1Ei".into()];
        assert_eq!(names(other_functions("_ZN4shop4CartC2Ei", &constructors)), "");
        assert_eq!(names(other_functions("tax_de", &["tax_fr".into()])), "tax_fr");
    }
}
