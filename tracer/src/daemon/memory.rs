//! Gives memory back: what one change or scrape needs for a moment is not to stay for months.
//!
//! The C library keeps what is freed, for each thread that ever allocated. The daemon has many
//! threads that do so once.

/// What is larger has a mapping of its own, which goes when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 * 1024;

/// Has threads share two arenas, and what is large given back at once: the C library would raise
/// that limit with every large piece that is freed. To be called before there are any threads.
#[cfg(target_env = "gnu")]
pub(super) fn keep_small() {
    // SAFETY: the call has no preconditions.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
}

/// Gives what is free back to the kernel.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: the call has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have nothing of the kind.
#[cfg(not(target_env = "gnu"))]
pub(super) fn keep_small() {}

/// As above.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
