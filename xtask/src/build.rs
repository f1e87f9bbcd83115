//! `build`: leaves `target/release/faultline`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::command::{cargo, shown};
use crate::{no_args, setup, versions};

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    no_args("build", args)?;
    setup::for_build()?;
    shown(&mut release_build())
}

/// `cargo build` of the binary. `--locked`, so that the build is of what was committed.
pub(crate) fn release_build() -> Command {
    let mut command = cargo(versions::STABLE);
    command.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "faultline",
        "--bin",
        "faultline",
    ]);
    command
}
