//! Names the privilege that is missing, in the user's words.

use std::fs;

/// `CAP_…` numbers, from `include/uapi/linux/capability.h`.
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
const CAP_SYS_ADMIN: u32 = 21;

/// A capability that is needed but not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingPrivilege {
    /// Its name.
    pub capability: &'static str,
    /// What it is needed for.
    pub needed_to: &'static str,
}

impl std::fmt::Display for MissingPrivilege {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "missing {}, needed to {}", self.capability, self.needed_to)
    }
}

/// The first capability that tracing needs and this process lacks.
///
/// `CAP_SYS_ADMIN` implies both of the others.
pub fn missing_privilege() -> Option<MissingPrivilege> {
    missing(effective_capabilities()?)
}

fn missing(effective: u64) -> Option<MissingPrivilege> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    if has(CAP_SYS_ADMIN) {
        None
    } else if !has(CAP_BPF) {
        Some(MissingPrivilege { capability: "CAP_BPF", needed_to: "load eBPF programs" })
    } else if !has(CAP_PERFMON) {
        Some(MissingPrivilege {
            capability: "CAP_PERFMON",
            needed_to: "attach uprobes and read user memory",
        })
    } else {
        None
    }
}

/// The effective capability set; `None` if `/proc` does not say.
fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that each missing capability is named, and that root's set suffices.
    #[test]
    fn names_what_is_missing() {
        assert_eq!(missing(0).map(|missing| missing.capability), Some("CAP_BPF"));
        assert_eq!(missing(1 << CAP_BPF).map(|missing| missing.capability), Some("CAP_PERFMON"));
        assert_eq!(missing(1 << CAP_BPF | 1 << CAP_PERFMON), None);
        assert_eq!(missing(1 << CAP_SYS_ADMIN), None);
    }
}
