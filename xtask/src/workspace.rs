//! Where things are in this checkout.

use std::path::{Path, PathBuf};

/// The checkout's top folder.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Everything that tasks make goes below this folder, even if `CARGO_TARGET_DIR` is set: the README
/// promises `target/release/faultline`.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// The binary that `cargo xtask build` leaves.
pub(crate) fn faultline() -> PathBuf {
    target().join("release/faultline")
}
