//! Programs that the project installs with cargo, each at its pinned version.
//!
//! They are in the user's cache, one folder per version: shared by all checkouts, unaffected by
//! `cargo clean`, and separate from `~/.cargo/bin`, where the user may have another version.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{cargo, note, on_path, quiet, retried, user_command};
use crate::{versions, workspace};

/// A program that `cargo install` provides.
struct Tool {
    name: &'static str,
    version: &'static str,
    why: &'static str,
    /// Cargo's profile: optimising takes minutes, which is not worth it for a program that runs rarely.
    profile: &'static str,
}

const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: versions::BPF_LINKER,
    why: "links the eBPF programs",
    profile: "release",
};

const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: versions::CARGO_DENY,
    why: "checks the dependencies",
    profile: "dev",
};

const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: versions::CARGO_DEB,
    why: "makes the Debian package",
    profile: "dev",
};

/// The bpf-linker to link with; one on `PATH` is taken only if it is the pinned version.
pub(crate) fn bpf_linker() -> PathBuf {
    BPF_LINKER.find().unwrap_or_else(|| BPF_LINKER.installed())
}

pub(crate) fn ensure_bpf_linker() -> Result<()> {
    BPF_LINKER.ensure().map(drop)
}

pub(crate) fn ensure_cargo_deny() -> Result<PathBuf> {
    CARGO_DENY.ensure()
}

pub(crate) fn ensure_cargo_deb() -> Result<PathBuf> {
    CARGO_DEB.ensure()
}

impl Tool {
    fn ensure(&self) -> Result<PathBuf> {
        match self.find() {
            Some(file) => Ok(file),
            None => self.install(),
        }
    }

    fn find(&self) -> Option<PathBuf> {
        let ours = self.installed();
        if ours.is_file() {
            return Some(ours);
        }
        on_path(self.name).filter(|file| self.is_pinned_version(file))
    }

    fn is_pinned_version(&self, file: &Path) -> bool {
        quiet(user_command(file).arg("--version"))
            .is_ok_and(|output| output.split_whitespace().nth(1) == Some(self.version))
    }

    fn folder(&self) -> PathBuf {
        cache().join(format!("{}-{}", self.name, self.version))
    }

    fn installed(&self) -> PathBuf {
        self.folder().join("bin").join(self.name)
    }

    fn install(&self) -> Result<PathBuf> {
        let folder = self.folder();
        let what = format!("installing {} {}", self.name, self.version);
        note("setup", &format!("{what} into {} ({}; takes minutes)", folder.display(), self.why));
        retried(&what, || {
            quiet(
                cargo(versions::STABLE)
                    .args(["install", self.name, "--version", self.version, "--locked"])
                    .args(["--profile", self.profile, "--root"])
                    .arg(&folder)
                    .env("CARGO_TARGET_DIR", workspace::target().join("tools")),
            )
        })?;
        self.find().with_context(|| format!("{what} left no {}", self.installed().display()))
    }
}

/// `$XDG_CACHE_HOME/faultline`, `~/.cache/faultline`, or below `target` for a user without a home.
fn cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
    match (set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _) => PathBuf::from(cache).join("faultline"),
        (None, Some(home)) => PathBuf::from(home).join(".cache/faultline"),
        (None, None) => workspace::target().join("tools"),
    }
}
