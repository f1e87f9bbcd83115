//! Gives memory back: what one change needs for a moment is not to stay for months.
//!
//! The C library keeps what is freed, for each thread that ever allocated. The daemon has many
//! threads that do so once.

/// Has threads share two arenas. To be called before there are any.
#[cfg(target_env = "gnu")]
pub(super) fn keep_small() {
    // SAFETY: the call has no preconditions.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
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
