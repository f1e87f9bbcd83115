//! Returns memory to the kernel: what one change or scrape needs for a moment must not stay for months.
//!
//! The C library keeps freed memory for each thread that ever allocated. The daemon has many threads
//! that do so once.

/// Larger blocks get a mapping of their own, which is unmapped when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 * 1024;

/// Makes threads share two arenas, and returns large blocks at once: by default, the C library raises
/// that threshold with every large block that is freed. Must be called before there are threads.
#[cfg(target_env = "gnu")]
pub(super) fn keep_small() {
    // SAFETY: the call has no preconditions.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
}

/// Returns free memory to the kernel.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: the call has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub(super) fn keep_small() {}

/// As above.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
