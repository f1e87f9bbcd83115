//! The stage as a whole, on files that the machine's compiler builds and on the machine's own.
//!
//! - names: exact, glob, regex, demangled, versions, aliases
//! - what cannot be probed, and near names
//! - symbols outside the file: debug files, MiniDebugInfo
//! - targets: paths, libraries, commands, wrong files
//! - processes: what they map, deleted files
//! - damage, caching, speed

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use proptest::prelude::*;

use super::super::address::FileOffset;
use super::super::process::{self, Pid};
use super::super::testbed::{self, Testbed};
use super::*;
use crate::spec::ValueType;

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
    assert!(reason.starts_with("offset 0x"), "{reason}");
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

/// Check that versions select among a library's symbols, and that a bare name takes all.
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
        assert!(labels(&resolution).iter().all(|label| *label == "libv.so:f"));
        let version = |probe: &crate::resolve::ResolvedProbe| {
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

/// Check that functions of one name in several files of a program are all probed.
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
    assert_eq!(labels(&resolve(&path, name("f"))), ["app:f", "app:f"]);
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
    start.ret = Some(ValueType::Ptr);
    assert!(only_reason(&host().resolve(&start).unwrap()).contains("where the program starts"));
    let mut inside = spec(path.to_str().unwrap(), name("add"));
    (inside.ret, inside.offset) = (Some(ValueType::Ptr), 1);
    assert!(only_reason(&host().resolve(&inside).unwrap()).contains("inside a function"));
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

// Symbols outside the file.

/// Check that a stripped file says so, and where its symbols would be.
#[test]
fn stripped_file_says_so() {
    let bed = Testbed::new("stripped");
    let path = bed.c_program("app", C_SOURCE, &["-Wl,--build-id"]);
    bed.run("strip", &["app"]);
    let error = error(&path, name("hidden"));
    assert!(error.contains("the file is stripped"), "{error}");
    assert!(error.contains("/usr/lib/debug/.build-id/"), "{error}");
}

/// Check that a debug file beside the program is found by its link and taken by build-id.
#[test]
fn debug_link() {
    for (flag, debug_file) in
        [("-Wl,--build-id", "app.debug"), ("-Wl,--build-id=none", ".debug/app.debug")]
    {
        let bed = Testbed::new("debuglink");
        let path = bed.c_program("app", C_SOURCE, &["-g", flag]);
        fs::create_dir(bed.path(".debug")).unwrap();
        bed.run("objcopy", &["--only-keep-debug", "app", debug_file]);
        bed.run("strip", &["app"]);
        bed.run("objcopy", &[&format!("--add-gnu-debuglink={debug_file}"), "app"]);
        let resolution = resolve(&path, name("hidden"));
        assert_eq!(labels(&resolution), ["app:hidden"], "{flag}");
        let found = SymbolSource::DebugFile(bed.path(debug_file));
        assert!(resolution.probes[0].file.symbol_sources().contains(&found));

        // Another program's debug file, under the right name.
        bed.c_program(
            "other",
            "int main(void) { return 3; } int hidden(void) { return 4; }",
            &[flag],
        );
        bed.run("objcopy", &["--only-keep-debug", "other", debug_file]);
        assert!(error(&path, name("hidden")).contains("stripped"), "{flag}");
    }
}

/// Check that a debug file is no target itself, and that the error says whose turn it is.
#[test]
fn debug_file_as_target() {
    let bed = Testbed::new("debugtarget");
    bed.c_program("app", C_SOURCE, &["-g"]);
    bed.run("objcopy", &["--only-keep-debug", "app", "app.debug"]);
    let error = error(&bed.path("app.debug"), name("hidden"));
    assert!(error.contains("it holds only debug information"), "{error}");
}

/// Check that MiniDebugInfo gives the names of functions.
#[test]
fn mini_debug_info() {
    let bed = Testbed::new("mini");
    let path = bed.c_program("app", C_SOURCE, &["-Wl,--build-id=none"]);
    bed.run("objcopy", &["--only-keep-debug", "app", "mini"]);
    fs::write(bed.path("mini.xz"), testbed::xz(&fs::read(bed.path("mini")).unwrap())).unwrap();
    bed.run("strip", &["app"]);
    bed.run("objcopy", &["--add-section", ".gnu_debugdata=mini.xz", "app"]);
    let resolution = resolve(&path, name("hidden"));
    assert_eq!(labels(&resolution), ["app:hidden"]);
    let sources = resolution.probes[0].file.symbol_sources();
    assert!(sources.contains(&SymbolSource::MiniDebugInfo), "{sources:?}");
}

// Targets.

/// Check that a library is found by each of its names, and is one file.
#[test]
fn library_by_name() {
    let mut resolver = host();
    let named = ["libc", "libc.so.6", "libc.so"].map(|target| {
        let resolution = resolver.resolve(&spec(target, name("getpid"))).unwrap();
        assert_eq!(labels(&resolution), ["libc.so.6:getpid"], "{target}");
        Arc::clone(&resolution.probes[0].file)
    });
    assert!(named.iter().all(|file| Arc::ptr_eq(file, &named[0])));
    assert_eq!(resolver.files.len(), 1);
}

/// Check that a command is looked for on PATH, and shows under its own name.
#[test]
fn command_by_name() {
    let file = host().target("bash").unwrap();
    assert!(file.shown_path().is_absolute());
    let resolution = host().resolve(&spec("bash", name("main")));
    assert_eq!(labels(&resolution.unwrap()), ["bash:main"]);
}

/// Check that a symlink is the file it leads to, under the name that the user knows.
#[test]
fn symlinks_are_one_file() {
    let bed = Testbed::new("symlink");
    let path = bed.c_program("app-1.2", C_SOURCE, &[]);
    symlink("app-1.2", bed.path("app")).unwrap();
    let mut resolver = host();
    let by_link = resolver.resolve(&spec(bed.path("app").to_str().unwrap(), name("add"))).unwrap();
    let by_name = resolver.resolve(&spec(path.to_str().unwrap(), name("add"))).unwrap();
    assert_eq!(labels(&by_link), ["app:add"]);
    assert_eq!(labels(&by_name), ["app-1.2:add"]);
    assert!(Arc::ptr_eq(&by_link.probes[0].file, &by_name.probes[0].file));
}

/// Check that a file that changed is parsed anew after a refresh, and one that did not is not.
#[test]
fn refresh_sees_changes() {
    let bed = Testbed::new("refresh");
    let path = bed.c_program("app", C_SOURCE, &[]);
    let target = path.to_str().unwrap();
    let mut resolver = host();
    let first = resolver.target(target).unwrap();
    resolver.refresh();
    assert!(Arc::ptr_eq(&first, &resolver.target(target).unwrap()));
    fs::remove_file(&path).unwrap();
    bed.c_program("app", "int other(void) { return 1; } int main(void) { return 0; }", &[]);
    resolver.refresh();
    assert_eq!(labels(&resolver.resolve(&spec(target, name("other"))).unwrap()), ["app:other"]);
}

/// Check the error for each kind of target that is no program or library.
#[test]
fn wrong_targets() {
    let bed = Testbed::new("wrong");
    let error = |target: &str| host().target(target).unwrap_err().to_string();
    let path = |file: &str| bed.path(file).to_str().unwrap().to_owned();
    fs::write(bed.path("script"), "#! /bin/sh -e\nls\n").unwrap();
    assert_eq!(
        error(&path("script")),
        format!(
            "`{}` is a script, run by `/bin/sh -e` (probe the interpreter, with -p to trace one run)",
            path("script")
        )
    );
    fs::write(bed.path("text"), "hello").unwrap();
    assert_eq!(error(&path("text")), format!("`{}` is not an ELF file", path("text")));
    assert!(error(&path("")).ends_with("is a directory, not a program or library"));
    bed.run("mkfifo", &["pipe"]);
    assert!(error(&path("pipe")).ends_with("is a pipe, not a program or library"));
    assert_eq!(
        error(&path("txet")),
        format!("no file `{}`; did you mean `{}`?", path("txet"), path("text"))
    );
    bed.c_program("object.o", "int f(void) { return 1; }", &["-c"]);
    assert!(error(&path("object.o")).contains("it is a relocatable object"));
    assert_eq!(
        error("libcrypt0.so.3"),
        "no library `libcrypt0.so.3`; did you mean `libcrypto.so.3`?"
    );
    assert_eq!(error("bahs"), "no command `bahs`; did you mean `bash`?");
    let nowhere = error("no-such-command-at-all");
    assert_eq!(nowhere, "no command `no-such-command-at-all` (it was looked for on PATH)");
}

/// Check that a listing has every function, with the reason for those that cannot be probed.
#[test]
fn listing() {
    let bed = Testbed::new("listing");
    let path = bed.c_program("app", C_SOURCE, &[]);
    let listing = host().list(path.to_str().unwrap(), None).unwrap();
    let find = |wanted: &str| listing.functions.iter().find(|function| &*function.symbol == wanted);
    assert!(find("hidden").unwrap().unprobeable.is_none());
    assert!(find("picked").unwrap().unprobeable.is_some());
    assert!(find("strtol").is_none());
    assert!(find("variable").is_none());
    assert!(listing.functions.is_sorted_by_key(|function| function.address));
    let some = host().list(path.to_str().unwrap(), Some(&glob("hid*"))).unwrap();
    assert_eq!(some.functions.len(), 1);
}

// Processes.

/// A program that runs until the test ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        // It says when it is ready, so that everything is mapped.
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(ready, *b"r", "the program could not set itself up");
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::new(self.0.id()).unwrap()
    }

    fn resolver(&self) -> Resolver {
        Resolver::new(View::Process(self.pid()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WAITING_MAIN: &str = r#"
    #include <unistd.h>
    int inside(int);
    int main(int argc, char **argv) {
        inside(argc);
        write(1, "r", 1);
        for (;;) pause();
    }
"#;

const LIBRARY_SOURCE: &str = "int inside(int a) { return a + 1; }";

/// A program in the bed with a library `libinside.so.1` of its own.
fn waiting_program(bed: &Testbed) -> Command {
    let flags = ["-shared", "-fPIC", "-Wl,-soname,libinside.so.1"];
    bed.c_program("libinside.so.1.2.3", LIBRARY_SOURCE, &flags);
    symlink("libinside.so.1.2.3", bed.path("libinside.so.1")).unwrap();
    let path = bed.c_program("waits", WAITING_MAIN, &["libinside.so.1.2.3", "-Wl,-rpath,$ORIGIN"]);
    let mut command = Command::new(path);
    command.current_dir(bed.path("")).env("PATH", bed.path(""));
    command
}

/// Check that a process's names mean what it has mapped, runs and would run.
#[test]
fn names_as_a_process_sees_them() {
    let bed = Testbed::new("process");
    let running = Running::start(&mut waiting_program(&bed));
    bed.c_program("only-on-its-path", C_SOURCE, &[]);
    let mut resolver = running.resolver();
    let mut label = |target: &str, function: &str| {
        let resolution = resolver.resolve(&spec(target, name(function))).unwrap();
        labels(&resolution).join(" ")
    };
    assert_eq!(label("libc", "getpid"), "libc.so.6:getpid");
    for target in ["libinside", "libinside.so", "libinside.so.1"] {
        assert_eq!(label(target, "inside"), "libinside.so.1:inside");
    }
    assert_eq!(label("waits", "main"), "waits:main");
    assert_eq!(label("./waits", "main"), "waits:main");
    assert_eq!(label("only-on-its-path", "hidden"), "only-on-its-path:hidden");
    assert_eq!(resolver.files.len(), 4);
    let file = resolver.target("libinside").unwrap();
    assert!(file.path().starts_with(format!("/proc/{}/root", running.pid())));
    assert_eq!(file.shown_path(), bed.path("libinside.so.1.2.3"));
    let error = resolver.target("libinsied").unwrap_err().to_string();
    assert_eq!(error, "no library `libinsied`; did you mean `libinside`?");
    // On this machine, but nothing of this process.
    assert!(host().target("libinside").is_err());
}

/// Check that the mapped file is meant, not the one that took its path. Needs root.
#[test]
fn replaced_library_is_the_mapped_one() {
    let bed = Testbed::new("replaced");
    let running = Running::start(&mut waiting_program(&bed));
    let old = fs::read(bed.path("libinside.so.1.2.3")).unwrap();
    fs::remove_file(bed.path("libinside.so.1.2.3")).unwrap();
    let source = "int other(int a) { return a; }";
    bed.c_program("libinside.so.1.2.3", source, &["-shared", "-fPIC"]);
    let resolution = running.resolver().resolve(&spec("libinside", name("inside"))).unwrap();
    assert_eq!(labels(&resolution), ["libinside.so.1:inside"]);
    let file = &resolution.probes[0].file;
    assert!(file.path().to_str().unwrap().contains("map_files"), "{}", file.path().display());
    assert_eq!(fs::read(file.attach_path()).unwrap(), old);

    fs::remove_file(bed.path("waits")).unwrap();
    let resolution = running.resolver().resolve(&spec("waits", name("main"))).unwrap();
    assert_eq!(labels(&resolution), ["waits:main"]);
}

/// Check that paths and symlinks of a process with another root stay in it.
#[test]
fn process_with_another_root() {
    let bed = Testbed::new("jail");
    for directory in ["jail/opt", "jail/lib", "jail/etc"] {
        fs::create_dir_all(bed.path(directory)).unwrap();
    }
    let library = bed.c_program("libinside.so.1", LIBRARY_SOURCE, &["-shared", "-fPIC"]);
    fs::rename(&library, bed.path("jail/opt/real.so")).unwrap();
    symlink("/opt/real.so", bed.path("jail/lib/libinside.so.1")).unwrap();
    symlink("/etc/passwd", bed.path("jail/lib/libescape.so.1")).unwrap();
    let source = r#"
        #define _GNU_SOURCE
        #include <sched.h>
        #include <unistd.h>
        __attribute__((noinline)) int in_jail(int a) { return a + 1; }
        int main(int argc, char **argv) {
            if (chroot(argv[1]) != 0 && (unshare(CLONE_NEWUSER) != 0 || chroot(argv[1]) != 0))
                return 1;
            if (chdir("/opt") != 0) return 2;
            write(1, "r", 1);
            for (;;) in_jail(pause());
        }
    "#;
    let program = bed.c_program("jail/program", source, &[]);
    let running = Running::start(Command::new(program).arg(bed.path("jail")));
    let mut resolver = running.resolver();
    for target in ["libinside", "/lib/libinside.so.1", "../lib/libinside.so.1"] {
        let resolution = resolver.resolve(&spec(target, name("inside"))).unwrap();
        assert_eq!(labels(&resolution), ["libinside.so.1:inside"], "{target}");
    }
    assert_eq!(labels(&resolver.resolve(&spec("program", name("in_jail"))).unwrap()).len(), 1);
    let file = resolver.target("/program").unwrap();
    assert!(Arc::ptr_eq(&file, &resolver.target("program").unwrap()));
    let error = resolver.target("/lib/libescape.so.1").unwrap_err().to_string();
    assert!(error.starts_with("no file `/lib/libescape.so.1`"), "{error}");
}

/// Check that a process that ended is a clear error, at the start and later.
#[test]
fn process_that_ended() {
    let bed = Testbed::new("ended");
    let mut running = Running::start(&mut waiting_program(&bed));
    let pid = running.pid();
    let mut resolver = running.resolver();
    resolver.target("libinside").unwrap();
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    assert!(!process::exists(pid));
    for mut resolver in [resolver, Resolver::new(View::Process(pid))] {
        let error = resolver.target("libc").unwrap_err().to_string();
        assert_eq!(error, format!("no process {pid}"));
    }
}

// Damage.

/// A small program's bytes, built once.
fn small_program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let bed = Testbed::new("damage");
        fs::read(bed.c_program("app", C_SOURCE, &[])).unwrap()
    })
}

/// Somewhere in the file: in its headers as often as in the rest.
fn place() -> impl Strategy<Value = usize> {
    let length = small_program().len();
    prop_oneof![0..1024_usize, length - 2048..length, 0..length]
}

/// Resolves every kind of pattern in a file of these bytes.
fn resolve_bytes(bytes: &[u8]) {
    let bed = Testbed::new("damaged");
    let path = bed.path("app");
    fs::write(&path, bytes).unwrap();
    let mut resolver = host();
    let target = path.to_str().unwrap();
    for function in [name("add"), name("picked"), name("strtol"), glob("*"), name("ad")] {
        match resolver.resolve(&spec(target, function)) {
            Err(error) => assert!(error.to_string().contains("app"), "{error}"),
            Ok(resolution) => {
                for probe in resolution.probes {
                    let _ = probe.file.read_code(probe.offset, 16);
                }
            }
        }
    }
}

proptest! {
    /// Check that damage is an error that names the file, or is harmless; never a panic.
    #[test]
    fn damaged_file_is_no_panic(
        changes in prop::collection::vec((place(), any::<u8>()), 1..8),
    ) {
        let mut bytes = small_program().to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        resolve_bytes(&bytes);
    }

    /// Check that a file that was cut is an error.
    #[test]
    fn cut_file_is_an_error(length in 4..small_program().len() - 1) {
        let bed = Testbed::new("cut");
        fs::write(bed.path("app"), &small_program()[..length]).unwrap();
        let message = error(&bed.path("app"), name("add"));
        prop_assert!(message.contains("is corrupt"), "{}", message);
    }
}

// Speed.

/// Prints what node (100 MB, 80,000 functions) costs: run it with `--release -- --ignored`.
#[test]
#[ignore = "a measurement, not a check"]
fn node_timings() {
    const NODE: &str = "/usr/bin/node";
    let report = |what: &str, resolver: &mut Resolver, function: FunctionPattern| {
        let start = Instant::now();
        let result = resolver.resolve(&spec(NODE, function));
        let probes = result.map_or(0, |resolution| resolution.probes.len());
        println!("{what}: {probes} probes in {:?}", start.elapsed());
    };
    report("exact raw name, cold", &mut host(), name("SSL_write"));
    report("exact demangled name, cold", &mut host(), name("node::Start"));
    report("glob, cold", &mut host(), glob("SSL_*"));
    report("glob of demangled names, cold", &mut host(), glob("node::crypto::*"));
    report("everything, cold", &mut host(), glob("*"));
    report("wrong name, cold", &mut host(), name("SSL_wirte"));
    let mut warm = host();
    report("exact raw name, cold", &mut warm, name("SSL_write"));
    report("exact raw name, warm", &mut warm, name("SSL_read"));
    report("glob, second", &mut warm, glob("SSL_*"));
    report("glob, warm", &mut warm, glob("SSL_*"));
    report("exact demangled name, warm", &mut warm, name("node::Start"));
    let start = Instant::now();
    let listed = warm.list(NODE, None).unwrap().functions.len();
    println!("list: {listed} functions in {:?}", start.elapsed());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    print!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}
