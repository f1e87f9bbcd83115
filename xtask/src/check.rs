//! `check`: everything that can be checked without running the program.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, note, shown, user_command};
use crate::{ebpf, no_args, setup, tools, versions, workspace};

struct Check {
    name: &'static str,
    run: fn() -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check { name: "format", run: format },
    Check { name: "lints", run: lints },
    Check { name: "eBPF lints", run: ebpf_lints },
    Check { name: "documentation", run: documentation },
    Check { name: "dependencies", run: dependencies },
    Check { name: "pinned versions", run: pinned_versions },
];

/// Runs all checks even after one has failed, to report all failures at once.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    no_args("check", args)?;
    setup::for_check()?;
    let mut failed = Vec::new();
    for check in CHECKS {
        note("check", check.name);
        if let Err(error) = (check.run)() {
            note("check", &format!("{} failed: {error:#}", check.name));
            failed.push(check.name);
        }
    }
    if !failed.is_empty() {
        bail!("{} of {} checks failed: {}", failed.len(), CHECKS.len(), failed.join(", "));
    }
    note("check", "all checks passed");
    Ok(())
}

fn format() -> Result<()> {
    shown(cargo(versions::STABLE).args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    shown(cargo(versions::STABLE).args([
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--exclude",
        "tracer-ebpf",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))
}

/// Every link in the documentation leads somewhere.
fn documentation() -> Result<()> {
    let mut command = cargo(versions::STABLE);
    command.args(["doc", "--quiet", "--locked", "--no-deps", "--workspace"]);
    shown(command.args(["--exclude", "tracer-ebpf"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}

fn ebpf_lints() -> Result<()> {
    ebpf::ARCHITECTURES
        .iter()
        .try_for_each(|arch| ebpf::cargo_ebpf("clippy", arch, &["--", "-Dwarnings"]))
}

/// Licences, sources, bans: see deny.toml. Advisories are left out: their database is fetched from
/// a git repository, and some machines reach only package registries.
fn dependencies() -> Result<()> {
    let cargo_deny = tools::ensure_cargo_deny()?;
    // Through `rustup run`, because it calls cargo to learn about the dependencies.
    shown(
        user_command("rustup")
            .args(["run", versions::STABLE])
            .arg(cargo_deny)
            .args(["--workspace", "--all-features", "--locked"])
            .args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
            .current_dir(workspace::root()),
    )
}

/// the engine's build script names the eBPF toolchain, and cannot see `versions.rs`.
fn pinned_versions() -> Result<()> {
    let file = workspace::root().join("tracer/engine/build.rs");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    if !text.contains(versions::NIGHTLY) {
        bail!("{} does not name {}, which setup installs", file.display(), versions::NIGHTLY);
    }
    Ok(())
}
