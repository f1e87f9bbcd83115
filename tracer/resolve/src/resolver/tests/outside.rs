//! Symbols that are kept outside the file.

use super::super::super::testbed;
use super::*;

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
