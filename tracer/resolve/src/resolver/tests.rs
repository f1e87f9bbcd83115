//! The stage as a whole, on files that the machine's compiler builds and on the machine's own.
//!
//! - here: names (exact, glob, demangled, versions, aliases), and what cannot be probed
//! - [`outside`]: debug files, MiniDebugInfo
//! - [`targets`]: paths, libraries, commands, wrong files
//! - [`processes`]: what they map, other roots, deleted files
//! - [`damage`]: cut and changed files
//! - [`timings`]: what a large program costs

mod damage;
mod outside;
mod processes;
mod targets;
mod timings;

use std::fs;
use std::path::Path;

use super::super::address::FileOffset;
use super::super::testbed::Testbed;
use super::*;
use faultline_spec::ValueType;

fn spec(target: &str, function: FunctionPattern) -> ProbeSpec {
    ProbeSpec { target: target.to_owned(), function, offset: 0, args: Vec::new(), ret: None }
}

fn name(name: &str) -> FunctionPattern {
    FunctionPattern::Name(name.to_owned())
}

fn glob(glob: &str) -> FunctionPattern {
    FunctionPattern::Glob(glob.to_owned())
}

fn host() -> Resolver {
    Resolver::new(View::Host)
}

fn resolve(path: &Path, function: FunctionPattern) -> Resolution {
    host().resolve(&spec(path.to_str().unwrap(), function)).unwrap()
}

fn error(path: &Path, function: FunctionPattern) -> String {
    host().resolve(&spec(path.to_str().unwrap(), function)).unwrap_err().to_string()
}

fn labels(resolution: &Resolution) -> Vec<&str> {
    let mut labels: Vec<_> = resolution.probes.iter().map(|probe| &*probe.label).collect();
    labels.sort_unstable();
    labels
}

fn only_reason(resolution: &Resolution) -> String {
    assert!(resolution.probes.is_empty(), "{:?}", labels(resolution));
    assert_eq!(resolution.skipped.len(), 1, "{:?}", resolution.skipped);
    resolution.skipped[0].reason.to_string()
}

// Names.

const C_SOURCE: &str = r#"
    #include <string.h>
    #include <stdlib.h>
    int variable = 7;
    __attribute__((noinline)) int add(int a, int b) { return a * b + variable; }
    __attribute__((noinline)) static int hidden(int a) { return a ^ variable; }
    int sum(int a, int b) __attribute__((alias("add")));
    static int fast(int a) { return a + 1; }
    static int (*pick(void))(int) { return fast; }
    int picked(int a) __attribute__((ifunc("pick")));
    __asm__(".globl bare\nbare: ret\n.type sized,@function\nsized: ret\n");
    int main(int argc, char **argv) {
        return add(argc, (int)strtol(argv[0], 0, 2)) + hidden(argc) + picked(argc);
    }
"#;

/// Check that an exact name gives the place that the file's own bytes are at.
#[test]
fn exact_name() {
    let bed = Testbed::new("exact");
    let path = bed.c_program("app", C_SOURCE, &[]);
    let resolution = resolve(&path, name("hidden"));
    assert_eq!(labels(&resolution), ["app:hidden"]);
    let probe = &resolution.probes[0];
    let code = probe.file.read_code(probe.offset, 8).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(code, bytes[probe.offset.0 as usize..][..8]);
    assert!(probe.size_bytes.is_some());
    assert_eq!(probe.file.shown_path(), path);
    assert_eq!(fs::read(probe.file.attach_path()).unwrap(), bytes);
    assert!(probe.file.build_id().is_some_and(|id| id.len() >= 8));
    let past_the_code = probe.file.read_code(FileOffset(0), 8).unwrap();
    assert!(past_the_code.is_empty(), "the headers are no code");
}

/// Check that two names of one function are one probe, by the name that was asked for.
#[test]
fn aliases_are_one_probe() {
    let bed = Testbed::new("aliases");
    let path = bed.c_program("app", C_SOURCE, &[]);
    for (asked, other) in [("add", "sum"), ("sum", "add")] {
        let resolution = resolve(&path, name(asked));
        assert_eq!(labels(&resolution), [format!("app:{asked}")]);
        assert_eq!(resolution.probes[0].aliases.iter().map(|n| &**n).collect::<Vec<_>>(), [other]);
    }
    let both = resolve(&path, FunctionPattern::Regex("^(add|sum)$".to_owned()));
    assert_eq!(both.probes.len(), 1);
}

/// Check that a label without a type is probed by its name, and by a pattern only if alone.
#[test]
fn assembly_labels() {
    let bed = Testbed::new("assembly");
    let path = bed.c_program("app", C_SOURCE, &[]);
    assert_eq!(labels(&resolve(&path, name("bare"))), ["app:bare"]);
    assert_eq!(resolve(&path, name("sized")).probes[0].size_bytes, None);
    assert_eq!(labels(&resolve(&path, glob("bar?"))), ["app:bare"]);
    assert!(!labels(&resolve(&path, glob("*"))).contains(&"app:bare"));
}

/// Check that an offset moves the probe and shows in its label.
#[test]
fn offset_in_a_function() {
    let bed = Testbed::new("offset");
    let path = bed.c_program("app", C_SOURCE, &[]);
    let entry = resolve(&path, name("add")).probes.remove(0);
    let mut at = spec(path.to_str().unwrap(), name("add"));
    at.offset = 4;
    let probe = host().resolve(&at).unwrap().probes.remove(0);
    assert_eq!(probe.label, "app:add+0x4");
    assert_eq!(probe.offset.0, entry.offset.0 + 4);
    assert_eq!(probe.address.0, entry.address.0 + 4);
    at.offset = entry.size_bytes.unwrap();
    let reason = only_reason(&host().resolve(&at).unwrap());
    let size = entry.size_bytes.unwrap();
    assert_eq!(
        reason,
        format!(
            "the offset is beyond the end of the function: {size:#x} of {size:#x} bytes (the last byte \
             is at +{:#x})",
            size - 1
        )
    );
    at.offset = u64::MAX;
    only_reason(&host().resolve(&at).unwrap());
}

const CPP_SOURCE: &str = r"
    namespace ns {
        template <typename T> __attribute__((noinline)) T twice(T a) { return a + a; }
        struct Shape { int side; __attribute__((noinline)) int area(int) const; int area() const; };
        int Shape::area(int scale) const { return side * side * scale; }
        __attribute__((noinline)) int Shape::area() const { return side * side; }
    }
    int main(int argc, char **) {
        ns::Shape shape{argc};
        return ns::twice(argc) + shape.area(argc) + shape.area();
    }
";

/// Check that C++ names match raw, in full and without parameters, and overloads are told apart.
#[test]
fn cpp_names() {
    let bed = Testbed::new("cpp");
    let path = bed.cpp_program("app", CPP_SOURCE, &[]);
    let both = ["app:ns::Shape::area() const", "app:ns::Shape::area(int) const"];
    assert_eq!(labels(&resolve(&path, name("ns::Shape::area"))), both);
    assert_eq!(labels(&resolve(&path, glob("ns::Shape::*"))), both);
    for written in
        ["ns::Shape::area(int) const", "ns::Shape::area(int)const", "_ZNK2ns5Shape4areaEi"]
    {
        let resolution = resolve(&path, name(written));
        assert_eq!(labels(&resolution), ["app:ns::Shape::area"], "{written}");
        assert_eq!(&*resolution.probes[0].symbol, "_ZNK2ns5Shape4areaEi");
        assert_eq!(&*resolution.probes[0].display_name, "ns::Shape::area(int) const");
    }
    for written in ["ns::twice<int>", "ns::twice<int>(int)", "int ns::twice<int>(int)"] {
        assert_eq!(labels(&resolve(&path, name(written))), ["app:ns::twice<int>"], "{written}");
    }
    assert_eq!(
        error(&path, name("ns::Shape::aera")),
        "no function `ns::Shape::aera` in app; did you mean `ns::Shape::area`?"
    );
}

/// Check that this very test program's Rust functions are found without their hash.
#[test]
fn rust_names() {
    let path = std::env::current_exe().unwrap();
    let asked = concat!(module_path!(), "::rust_names");
    let resolution = resolve(&path, name(asked));
    assert_eq!(resolution.probes.len(), 1);
    let base = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(resolution.probes[0].label, format!("{base}:{asked}"));
}

/// Check that versions select among a library's symbols, and that a bare name takes all, with labels that
/// tell them apart.
#[test]
fn symbol_versions() {
    let bed = Testbed::new("versions");
    fs::write(bed.path("map"), "V1 { global: f; local: *; }; V2 { global: f; } V1;").unwrap();
    let source = r#"
        __asm__(".symver old, f@V1\n.symver new, f@@V2");
        int old(void) { return 1; }
        int new(void) { return 2; }
    "#;
    let flags = ["-shared", "-fPIC", "-Wl,--version-script=map", "-Wl,-soname,libv.so.1"];
    let path = bed.c_program("libv.so", source, &flags);
    let versions = |asked: &str| {
        let resolution = resolve(&path, name(asked));
        if resolution.probes.len() == 2 {
            let mut labels = labels(&resolution);
            labels.sort_unstable();
            assert_eq!(labels, ["libv.so:f", "libv.so:f@V1"]);
        } else {
            assert_eq!(labels(&resolution), ["libv.so:f"]);
        }
        let version = |probe: &crate::ResolvedProbe| {
            probe.version.as_deref().map(str::to_owned).unwrap_or_default()
        };
        let mut versions: Vec<_> = resolution.probes.iter().map(version).collect();
        versions.sort();
        versions
    };
    assert_eq!(versions("f"), ["V1", "V2"]);
    assert_eq!(versions("f@V1"), ["V1"]);
    assert_eq!(versions("f@V2"), ["V2"]);
    assert_eq!(versions("f@@V2"), ["V2"]);
    assert!(error(&path, name("f@@V1")).starts_with("no function `f@@V1` in libv.so"));
    bed.run("strip", &["libv.so"]);
    assert_eq!(versions("f"), ["V1", "V2"], "from .dynsym alone");
}

/// Check that functions of one name in several files of a program are all probed, and told apart: by their
/// source files, or by their addresses if one file was compiled twice.
#[test]
fn static_functions_of_one_name() {
    let bed = Testbed::new("static");
    let source = "__attribute__((noinline)) static int f(int a) { return a ^ NUMBER; }\n\
                  int CALLER(int a) { return f(a) + f(a + 1); }";
    fs::write(bed.path("other.c"), source).unwrap();
    bed.run("cc", &["-O1", "-c", "-DNUMBER=1", "-DCALLER=one", "-o", "one.o", "other.c"]);
    bed.run("cc", &["-O1", "-c", "-DNUMBER=2", "-DCALLER=two", "-o", "two.o", "other.c"]);
    let main = "int one(int), two(int); int main(int c, char **v) { return one(c) + two(c); }";
    let path = bed.c_program("app", main, &["one.o", "two.o"]);
    let resolution = resolve(&path, name("f"));
    let by_address: Vec<_> =
        resolution.probes.iter().map(|probe| format!("app:f ({})", probe.address)).collect();
    assert_eq!(by_address.len(), 2);
    assert_eq!(labels(&resolution), by_address);

    fs::copy(bed.path("other.c"), bed.path("second.c")).unwrap();
    bed.run("cc", &["-O1", "-c", "-DNUMBER=2", "-DCALLER=two", "-o", "two.o", "second.c"]);
    let path = bed.c_program("app2", main, &["one.o", "two.o"]);
    let resolution = resolve(&path, name("f"));
    let mut labels = labels(&resolution);
    labels.sort_unstable();
    assert_eq!(labels, ["app2:f (other.c)", "app2:f (second.c)"]);
}

// What cannot be probed.

/// Check the reason for each kind of symbol that is named but cannot be probed.
#[test]
fn reasons() {
    let bed = Testbed::new("reasons");
    let path = bed.c_program("app", C_SOURCE, &[]);
    let reason = |asked: &str| only_reason(&resolve(&path, name(asked)));
    assert_eq!(reason("variable"), "a variable, not a function");
    assert_eq!(
        reason("strtol"),
        "imported: its code is in another file (probe it in the library that defines it: `libc.so.6`)"
    );
    assert!(reason("picked").starts_with("an indirect function"), "{}", reason("picked"));
    assert!(reason("_end").starts_with("there is no code in the file"), "{}", reason("_end"));

    let all = resolve(&path, glob("*"));
    let skipped: Vec<_> = all.skipped.iter().map(|skipped| &*skipped.label).collect();
    assert_eq!(skipped, ["app:picked"], "a pattern selects functions of the file");
}

/// Check that a return probe is refused where it would break the program.
#[test]
fn return_probe_without_a_return_address() {
    let bed = Testbed::new("return");
    let path = bed.c_program("app", C_SOURCE, &[]);
    let mut start = spec(path.to_str().unwrap(), name("_start"));
    assert_eq!(host().resolve(&start).unwrap().probes.len(), 1);
    start.ret = Some(ValueType::U64);
    assert_eq!(
        only_reason(&host().resolve(&start).unwrap()),
        "the program starts here, so there is no return to trace (trace it without `-> TYPE`)"
    );
    let mut inside = spec(path.to_str().unwrap(), name("add"));
    (inside.ret, inside.offset) = (Some(ValueType::U64), 1);
    assert_eq!(
        only_reason(&host().resolve(&inside).unwrap()),
        "a return can only be traced from the function's first instruction, not from an offset"
    );
}

/// Check that libc's indirect functions name what they pick from, if its symbols are here.
#[test]
fn ifunc_of_libc() {
    let resolution = host().resolve(&spec("libc", name("strlen"))).unwrap();
    let reason = only_reason(&resolution);
    let has_symbols = host().target("libc").unwrap().has_local_symbols();
    let hint = if has_symbols { "`__strlen_" } else { "installing the file's debug symbols" };
    assert!(reason.contains(hint), "{reason}");
}

/// Check the near name for a typing error and for a wrong case.
#[test]
fn near_function_names() {
    let bed = Testbed::new("near");
    let path =
        bed.c_program("app", "int SSL_write(void) { return 1; } int main(void) { return 0; }", &[]);
    for wrong in ["SSL_wirte", "ssl_write"] {
        assert_eq!(
            error(&path, name(wrong)),
            format!("no function `{wrong}` in app; did you mean `SSL_write`?")
        );
    }
    assert_eq!(error(&path, glob("zz*")), "no function matching `zz*` in app");
}

/// Check that a resolver may move to another thread and a file be shared between threads.
#[test]
fn usable_across_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Resolver>();
    shared::<Arc<ObjectFile>>();
}
