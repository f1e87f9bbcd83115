//! `setup`: installs what the machine lacks. It looks for the things themselves each time, so there is
//! no record that could be wrong; if nothing is missing, that takes tens of milliseconds.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::apt::{self, Needed};
use crate::command::{note, on_path, quiet, retried, user_command};
use crate::{no_args, tools, versions};

const C_COMPILER: Needed = Needed {
    command: "cc",
    packages: &["gcc", "libc6-dev"],
    why: "links Rust programs, compiles test targets",
};

const FOR_BUILD: &[Needed] = &[C_COMPILER];

const FOR_TEST: &[Needed] = &[
    C_COMPILER,
    Needed { command: "gcc", packages: &["gcc", "libc6-dev"], why: "test targets in C" },
    Needed { command: "g++", packages: &["g++"], why: "test targets in C++" },
    Needed { command: "objcopy", packages: &["binutils"], why: "separate debug files" },
    Needed { command: "xz", packages: &["xz-utils"], why: "compressed debug information" },
    Needed { command: "go", packages: &["golang-go"], why: "test targets in Go" },
    Needed { command: "python3", packages: &["python3"], why: "a real program to trace" },
    Needed { command: "prometheus", packages: &["prometheus"], why: "scrapes the daemon" },
    Needed { command: "systemd-analyze", packages: &["systemd"], why: "checks the unit" },
    Needed { command: "curl", packages: &["curl"], why: "a client of the daemon" },
    Needed { command: "openssl", packages: &["openssl"], why: "a real program to trace" },
];

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    no_args("setup", args)?;
    for_build()
}

/// What `build` and `run` need.
pub(crate) fn for_build() -> Result<()> {
    apt::ensure(FOR_BUILD)?;
    toolchains()
}

/// What the tests need.
pub(crate) fn for_test() -> Result<()> {
    apt::ensure(FOR_TEST)?;
    toolchains()
}

/// What the checks need.
pub(crate) fn for_check() -> Result<()> {
    for_build()?;
    toolchain(versions::NIGHTLY, &["rust-src", "clippy"], "lints the eBPF programs")
}

fn toolchains() -> Result<()> {
    if on_path("rustup").is_none() {
        bail!(
            "rustup is not on PATH; it installs the Rust toolchains that faultline is built with \
             ({} and {}): install rustup and try again",
            versions::STABLE,
            versions::NIGHTLY
        );
    }
    toolchain(versions::STABLE, &["rustfmt", "clippy"], "compiles faultline")?;
    toolchain(versions::NIGHTLY, &["rust-src"], "compiles the eBPF programs")?;
    tools::ensure_bpf_linker()
}

/// Installs a toolchain with components, or adds the components that it lacks.
fn toolchain(name: &str, components: &[&str], why: &str) -> Result<()> {
    // Fails if the toolchain is missing; otherwise lists its components in 20 ms.
    let list = user_command("rustup")
        .args(["component", "list", "--installed", "--toolchain", name])
        .output()?;
    let installed = String::from_utf8_lossy(&list.stdout);
    let has = |component: &&&str| {
        installed.lines().any(|line| {
            // `clippy-x86_64-unknown-linux-gnu`, but `rust-src`.
            line.strip_prefix(**component)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    if list.status.success() && components.iter().all(|component| has(&component)) {
        return Ok(());
    }
    let what = format!("installing Rust {name} with {}", components.join(", "));
    note("setup", &format!("{what} ({why})"));
    retried(&what, || {
        let mut command = user_command("rustup");
        command.args(["toolchain", "install", name, "--profile", "minimal", "--no-self-update"]);
        for component in components {
            command.args(["--component", component]);
        }
        quiet(&mut command).map(drop)
    })
}
