//! The limit on open files: each link takes one, and before Linux 6.6 each breakpoint takes a link.

use std::{fs, io};

use super::KernelError;

/// Spare files to open after the links: what a run reads in `/proc`, a daemon's connections.
const OTHERS: usize = 64;

/// Files that the maps and the programs of a set take, at most.
const MAPS_AND_PROGRAMS: usize = 48;

/// Makes room for maps, programs and a link, as [`make_room`] does.
pub(super) fn make_room_to_load(probes: usize) -> Result<(), KernelError> {
    make_room(MAPS_AND_PROGRAMS + 1, probes)
}

/// Whether something failed because no file can be opened any more.
pub(super) fn is_out_of_files(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.raw_os_error() == Some(libc::EMFILE))
}

/// Makes room for this many links, raising the limit as far as allowed.
///
/// # Errors
///
/// [`KernelError::TooManyLinks`] if the hard limit does not allow it.
pub(super) fn make_room(links: usize, probes: usize) -> Result<(), KernelError> {
    let limit = limit().map_err(|source| KernelError::Features { source })?;
    // More files can be open already than the limit allows, but we cannot rely on that.
    let open = fs::read_dir("/proc/self/fd").map_or(OTHERS, Iterator::count);
    let needed = (links + open + OTHERS) as u64;
    if limit.rlim_cur >= needed {
        return Ok(());
    }
    // Root may raise the hard limit too, up to fs.nr_open.
    let raised = libc::rlimit { rlim_cur: needed, rlim_max: limit.rlim_max.max(needed) };
    // SAFETY: `raised` lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        return Ok(());
    }
    Err(KernelError::TooManyLinks { probes, needed, limit: limit.rlim_max })
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        Ok(limit)
    } else {
        Err(io::Error::last_os_error())
    }
}
