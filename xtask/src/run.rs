//! `run`: sets up, builds, and becomes `faultline ARGS…` as root.
//!
//! It replaces itself with the program, so terminal, signals and exit status are the program's own.
//! Only the program may write to stdout, because a user may pipe it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::command::{is_root, note, on_path, shown, user_command};
use crate::{build, setup, workspace};

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    };
    setup::for_build()?;
    let faultline = workspace::faultline();
    if !faultline.exists() {
        note("run", "building faultline (the first time takes a few minutes)");
    }
    // Quiet, because otherwise every run would begin with cargo's own lines.
    shown(build::release_build().arg("--quiet").stdout(std::io::stderr()))?;

    let mut command = if is_root() {
        user_command(&faultline)
    } else if on_path("sudo").is_some() {
        let mut sudo = user_command("sudo");
        sudo.arg(&faultline);
        sudo
    } else {
        bail!(
            "tracing needs root, and there is no sudo here (as root, run `{}`)",
            faultline.display()
        );
    };
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("failed to start `{}`", faultline.display()))
}
