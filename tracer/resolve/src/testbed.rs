//! Real files for the tests of this stage: programs that the machine's own compiler builds.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of its own, removed at the end.
#[derive(Debug)]
pub(super) struct Testbed(PathBuf);

impl Testbed {
    pub(super) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("faultline-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        // The file that a test asks about is the one at the end of all symlinks.
        Self(path.canonicalize().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs a tool in the directory; a missing one fails the test with its name.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap_or_else(|error| panic!("this test needs `{program}`: {error}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    }

    pub(super) fn c_program(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        self.compile("cc", &format!("{name}.c"), name, source, flags)
    }

    pub(super) fn cpp_program(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        self.compile("c++", &format!("{name}.cc"), name, source, flags)
    }

    fn compile(
        &self,
        compiler: &str,
        source_name: &str,
        name: &str,
        source: &str,
        flags: &[&str],
    ) -> PathBuf {
        fs::write(self.path(source_name), source).unwrap();
        let mut arguments = vec!["-O1", "-o", name, source_name];
        arguments.extend(flags);
        self.run(compiler, &arguments);
        self.path(name)
    }
}

/// Compresses as a linker's `.gnu_debugdata` is compressed.
pub(super) fn xz(plain: &[u8]) -> Vec<u8> {
    let mut child = Command::new("xz")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs `xz`: {error}"));
    child.stdin.take().unwrap().write_all(plain).unwrap();
    child.wait_with_output().unwrap().stdout
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all::<&Path>(&self.0);
    }
}
