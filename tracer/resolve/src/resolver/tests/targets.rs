//! What a target names, and what is no target.

use std::os::unix::fs::symlink;

use super::*;

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

/// Check that a command is searched for on PATH, and shown under its own name.
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

/// Check that after a refresh a changed file is parsed again, and an unchanged one is not.
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
    assert_eq!(nowhere, "no command `no-such-command-at-all` (searched PATH)");
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
