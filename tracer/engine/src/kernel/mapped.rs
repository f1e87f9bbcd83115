//! Array maps mapped into our memory, so that reading or writing ten thousand elements takes no system
//! call.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;

/// An array map of `T`, created with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    base: NonNull<T>,
    bytes: usize,
    len: usize,
}

// SAFETY: the mapping is shared memory that is not tied to any thread; all access goes through volatile
// writes, atomics, or the addresses of elements, whose users see to it.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Maps the `len` elements of `map`.
    ///
    /// # Errors
    ///
    /// Those of `mmap(2)`: EINVAL for a map that was not created mappable, ENOMEM.
    pub(super) fn new(map: impl AsFd, len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel pads elements to 8 bytes") };
        let bytes = len * size_of::<T>();
        // SAFETY: a fresh shared mapping of a file descriptor that we own.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, bytes, len })
    }

    /// Writes an element; the eBPF programs may read it at any time.
    pub(super) fn write(&self, index: usize, value: T) {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: in bounds (checked).
        let element = unsafe { self.base.add(index) };
        // SAFETY: the mapping is page-aligned, readable and writable, and lives as long as `self`.
        unsafe { element.write_volatile(value) };
    }
}

impl<T> MappedArray<T> {
    /// The address of an element, valid as long as `self`. The eBPF programs may write to it.
    pub(super) fn element(&self, index: usize) -> *mut T {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: in bounds (checked).
        unsafe { self.base.add(index) }.as_ptr()
    }
}

impl MappedArray<u64> {
    /// Reads an element that the eBPF programs add to.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.atomic(index).load(Ordering::Relaxed)
    }

    /// Adds to an element that the eBPF programs add to.
    pub(super) fn add(&self, index: usize, amount: u64) {
        self.atomic(index).fetch_add(amount, Ordering::Relaxed);
    }

    /// Writes an element that the eBPF programs read.
    pub(super) fn store(&self, index: usize, value: u64) {
        self.atomic(index).store(value, Ordering::Release);
    }

    fn atomic(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: in bounds (checked).
        let element = unsafe { self.base.add(index) };
        // SAFETY: the mapping is page-aligned and lives as long as `self`; all access is atomic.
        unsafe { AtomicU64::from_ptr(element.as_ptr()) }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
