//! `ebpf`: compiles the eBPF programs for every architecture that faultline supports.
//!
//! The real build is that of tracer's build script (aya-build), for the machine's own architecture
//! only. The same flags here show that the programs compile for the others too: where arguments
//! and the return address are differs, chosen by `bpf_target_arch`.

use std::ffi::OsString;

use anyhow::{Context as _, Result};

use crate::command::{cargo, note, shown};
use crate::{no_args, setup, versions, workspace};

/// Values of `bpf_target_arch`.
pub(crate) const ARCHITECTURES: &[&str] = &["x86_64", "aarch64"];

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    no_args("ebpf", args)?;
    setup::for_build()?;
    ARCHITECTURES.iter().try_for_each(|arch| {
        note("ebpf", &format!("compiling for {arch}"));
        cargo_ebpf("build", arch, &[]).with_context(|| format!("eBPF programs for {arch}"))
    })
}

/// A cargo command on the eBPF crate, with the flags that aya-build uses.
pub(crate) fn cargo_ebpf(subcommand: &str, arch: &str, after: &[&str]) -> Result<()> {
    let flags = [&format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"]
        .join("\u{1f}");
    shown(
        cargo(versions::NIGHTLY)
            .args([subcommand, "--quiet", "--locked", "--package", "tracer-ebpf", "--bins"])
            .args(["--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            // A folder an architecture, so that one does not rebuild the other.
            .arg("--target-dir")
            .arg(workspace::target().join("ebpf").join(arch))
            .args(after)
            .env("CARGO_ENCODED_RUSTFLAGS", flags),
    )
}
