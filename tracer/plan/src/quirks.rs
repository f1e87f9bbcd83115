//! Kernel bugs that can harm a traced program.

use serde::{Deserialize, Serialize};

/// Kernel bugs that kill or corrupt traced programs; found by trying, never inferred from the version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelQuirks {
    /// A return probe kills a program whose seccomp filter does not allow the `uretprobe` system call
    /// (x86-64, since 6.11; fixed in 6.14).
    pub returns_kill_filtered: bool,
    /// A probe on a five-byte nop writes below the stack pointer, where a leaf function keeps its
    /// variables (x86-64, 6.18 before its stable fix).
    pub nop5_breaks_red_zone: bool,
}
