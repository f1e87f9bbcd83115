//! Reading the memory of a traced program on the real kernel. Needs root.

mod cold;
mod edges;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    self, Finished, faultline,
    reads::{Read, Reads, assert_reads, truncated, unread, whole},
};

/// A file on a real disk, where pages can be dropped from the page cache.
fn disk_file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("files");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// `PROGRAM ARGS…` as one command line.
fn command_line(program: &Path, args: &[&str]) -> String {
    shlex::try_join([program.to_str().unwrap()].into_iter().chain(args.iter().copied())).unwrap()
}

/// Traces a command with these probes (`FUNCTION(ARGS)`), as JSON. Kernels without multi links fault pages
/// in only with `--force`; on others it changes nothing.
fn trace_command(program: &Path, args: &[&str], probes: &[&str]) -> Finished {
    let probes = probes.iter().map(|probe| format!("{}:{probe}", program.display()));
    let options = ["trace", "--json", "--force", "-c"].map(str::to_owned).into_iter();
    faultline(options.chain([command_line(program, args)]).chain(probes)).run().succeeded()
}
