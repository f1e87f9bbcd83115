//! What the project is built with. The one place where these versions are written, but for
//! `tracer/build.rs`, which cannot see this file; `cargo xtask check` compares the two.

/// Compiles everything that runs in user space; aya 0.16 needs at least this one.
pub(crate) const STABLE: &str = "1.98.0";

/// Compiles the eBPF programs: `-Z build-std=core` exists only on nightly. Dated, so that a build
/// of today can be repeated.
pub(crate) const NIGHTLY: &str = "nightly-2026-07-01";

/// Links the eBPF programs. 0.10 uses the LLVM inside the rustup toolchain; later ones need the
/// system to have the right LLVM.
pub(crate) const BPF_LINKER: &str = "0.10.4";

/// Checks licences, sources and duplicates of dependencies.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// Makes the Debian package.
pub(crate) const CARGO_DEB: &str = "3.8.0";
