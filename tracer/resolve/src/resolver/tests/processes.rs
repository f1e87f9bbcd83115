//! Names as a process sees them.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use super::super::super::process::{self, Pid};
use super::*;

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

/// Check that of two libraries of one name in two folders both are found, and that their labels have as
/// much of the path as tells them apart; and that a function which only one has is found there.
#[test]
fn two_libraries_of_one_name() {
    let bed = Testbed::new("namesakes");
    let both = "int inside(int a) { return a + 1; }";
    let more = "int inside(int a) { return a + 2; } int only_here(int a) { return a; }";
    for (folder, source) in [("x/old", both), ("x/new", more)] {
        fs::create_dir_all(bed.path(folder)).unwrap();
        bed.c_program(&format!("{folder}/libinside.so"), source, &["-shared", "-fPIC"]);
    }
    let main = r#"
        #include <dlfcn.h>
        #include <unistd.h>
        int main(void) {
            if (dlopen("./x/old/libinside.so", RTLD_NOW) && dlopen("./x/new/libinside.so", RTLD_NOW))
                write(1, "r", 1);
            for (;;) pause();
        }
    "#;
    let program = bed.c_program("loads", main, &["-ldl"]);
    let running = Running::start(Command::new(program).current_dir(bed.path("")));
    let mut resolver = running.resolver();
    let found = resolver.resolve(&spec("libinside", name("inside"))).unwrap();
    assert_eq!(labels(&found), ["new/libinside.so:inside", "old/libinside.so:inside"]);
    let only = resolver.resolve(&spec("libinside.so", name("only_here"))).unwrap();
    assert_eq!(labels(&only), ["new/libinside.so:only_here"]);
    let files = resolver.targets("libinside").unwrap();
    assert_eq!(files.len(), 2);
    let none = resolver.resolve(&spec("libinside", name("nowhere"))).unwrap_err().to_string();
    assert!(none.starts_with("no function `nowhere` in "), "{none}");
    fs::remove_file(bed.path("x/old/libinside.so")).unwrap();
    resolver.refresh();
    assert_eq!(resolver.targets("libinside").unwrap().len(), 2, "both are mapped still");
}
