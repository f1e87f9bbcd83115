//! Pins threads to CPUs and reads the CPU time they get.

use std::{io, mem};

/// The CPUs that this thread may run on.
pub(super) fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = empty_set();
    // SAFETY: `set` is valid for writes of its size.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: the index is below the size of the set.
    Ok((0..most).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Pins the calling thread to one CPU.
pub(super) fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = empty_set();
    // SAFETY: the index comes from a set of this size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid for reads of its size.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: a plain bit set, for which all zeroes is the empty one.
    unsafe { mem::zeroed() }
}
