//! Gives up every privilege that the daemon does not need.
//!
//! Must be called before the first thread is started: capabilities belong to a thread.

use std::{fs, io};

/// What is kept, by number (`linux/capability.h`), and why.
const KEPT: [(u32, &str, &str); 5] = [
    (39, "CAP_BPF", "loads eBPF programs"),
    (38, "CAP_PERFMON", "attaches uprobes and reads user memory"),
    (19, "CAP_SYS_PTRACE", "reads /proc/PID/root and maps of other users' processes"),
    (2, "CAP_DAC_READ_SEARCH", "reads programs and libraries that not everyone may read"),
    (40, "CAP_CHECKPOINT_RESTORE", "opens mapped files that were deleted (/proc/PID/map_files)"),
];

/// Also kept where each probe takes a link of its own: perf events on uprobes need it.
const SYS_ADMIN: (u32, &str, &str) = (21, "CAP_SYS_ADMIN", "opens perf events on uprobes");

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up, for good, every capability but those in [`KEPT`] and, with `perf_links`, those of a
/// kernel without links for many probes. Returns the names of those kept.
///
/// # Errors
///
/// The kernel does not allow it.
pub(super) fn drop_unneeded(perf_links: bool) -> io::Result<Vec<&'static str>> {
    // A program started by the daemon must never have more privileges.
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let has = permitted()?;
    let keep: Vec<_> = KEPT.into_iter().chain(perf_links.then_some(SYS_ADMIN)).collect();
    let wanted = keep.iter().fold(0_u64, |set, (number, ..)| set | 1 << number);
    let kept = has & wanted;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    const CAP_SETPCAP: u32 = 8;
    if has & (1 << CAP_SETPCAP) != 0 {
        for number in 0..64 {
            // The kernel refuses unknown numbers, which need no dropping.
            if wanted & (1 << number) == 0 && prctl(libc::PR_CAPBSET_DROP, number).is_err() {
                break;
            }
        }
    }
    let word = |shift: u32| {
        let bits = (kept >> shift) as u32;
        Sets { effective: bits, permitted: bits, inheritable: 0 }
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let sets = [word(0), word(32)];
    // SAFETY: both are as the version says, and live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(keep.iter().filter(|(number, ..)| kept & (1 << number) != 0).map(|kept| kept.1).collect())
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: none of the options that are used takes a pointer.
    let done = unsafe { libc::prctl(option, value, 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn permitted() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap_or("0");
    u64::from_str_radix(set.trim(), 16).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Raises the limit of open files as far as allowed: each link is one.
pub(super) fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is valid for reads.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
