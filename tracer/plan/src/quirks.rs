//! What can hurt a traced program on this kernel.

use serde::{Deserialize, Serialize};

/// Bugs of kernels that end or change traced programs; found by trying, never by the version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelQuirks {
    /// A return probe ends a program whose seccomp filter does not let the `uretprobe` system call
    /// through (x86-64, from 6.11 on; mended in 6.14).
    pub returns_kill_filtered: bool,
    /// A probe on a nop of five bytes writes below the stack pointer, where a function that calls no
    /// other keeps its variables (x86-64, 6.18 before its stable fix).
    pub nop5_breaks_red_zone: bool,
}
