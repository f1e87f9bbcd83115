//! A thread that keeps hitting a sleepable probe, each time with a page that is not resident. Its handler
//! sleeps until the page has been read, and a detach has to wait for it.

use std::{
    ffi::c_char,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use tracer_common::{Action, counter::Counter};

use super::{
    Work,
    attached::Own,
    code::{self, Function, INSTRUCTIONS},
};
use crate::kernel::Features;

/// The called function's position in its row: no case uses it.
const SLOT: usize = 15;
const PAGE_BYTES: usize = 4096;
const PAGES: usize = 64;
const BUFFER_BYTES: u32 = 1 << 20;

/// The probe, and the pages.
pub(super) struct Faulter {
    own: Own,
    pages: ColdPages,
    /// Calls made.
    pub(super) calls: u64,
}

impl Faulter {
    pub(super) fn new(features: Features) -> anyhow::Result<Self> {
        let function = Function::of(&INSTRUCTIONS[0], SLOT);
        let plan = code::plan([function], |probe| Work::EventString.shape(probe))?;
        let own = Own::attach(&plan, Action::Events, features, BUFFER_BYTES)?;
        Ok(Self { own, pages: ColdPages::new()?, calls: 0 })
    }

    /// Calls until asked to stop.
    pub(super) fn call_until(&mut self, over: &AtomicBool) {
        let function = Function::of(&INSTRUCTIONS[0], SLOT);
        while !over.load(Ordering::Relaxed) {
            self.pages.forget();
            for page in 0..PAGES {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                function.call_with(self.pages.text(page), 1);
                self.calls += 1;
            }
            self.own.drain();
        }
    }

    /// Pages faulted in for its arguments, and the nanoseconds this took.
    pub(super) fn faults(&self) -> (u64, u64) {
        (self.own.sum(Counter::Faults), self.own.sum(Counter::FaultWaitNs))
    }

    /// Detaches it.
    pub(super) fn end(mut self) -> super::Check {
        self.own.drain();
        let check = self.own.check_all(self.calls);
        self.own.detach();
        check
    }
}

/// Pages of an unlinked file, with a string in each.
struct ColdPages {
    file: File,
    base: *mut libc::c_void,
}

// SAFETY: the mapping is not tied to any thread and is only read.
unsafe impl Send for ColdPages {}

impl ColdPages {
    fn new() -> io::Result<Self> {
        // Not on a file system in memory: a dropped page must be read back from a disk.
        let file = in_folder("/var/tmp")
            .or_else(|_| in_folder(&std::env::temp_dir().to_string_lossy()))?;
        // SAFETY: a fresh shared mapping of a file of that size that we hold open.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGES * PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = Self { file, base };
        // Each page is read by itself, without readahead.
        // SAFETY: the mapping is ours.
        unsafe { libc::madvise(base, PAGES * PAGE_BYTES, libc::MADV_RANDOM) };
        Ok(pages)
    }

    /// Evicts all of them from memory, as far as the file system allows.
    fn forget(&self) {
        // SAFETY: the mapping is ours, and what is dropped comes back from the file.
        unsafe { libc::madvise(self.base, PAGES * PAGE_BYTES, libc::MADV_DONTNEED) };
        // SAFETY: the descriptor is open.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }

    /// The string in a page.
    fn text(&self, page: usize) -> *const c_char {
        assert!(page < PAGES, "page {page} of {PAGES}");
        // SAFETY: inside the mapping.
        unsafe { self.base.byte_add(page * PAGE_BYTES) }.cast()
    }
}

fn in_folder(folder: &str) -> io::Result<File> {
    let path = format!("{folder}/.faultline-bench.{}", std::process::id());
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    let mut page = [0; PAGE_BYTES];
    page[..31].copy_from_slice(b"/usr/share/doc/faultline/README");
    for _ in 0..PAGES {
        file.write_all(&page)?;
    }
    // A page that is not yet on disk cannot be evicted.
    file.sync_all()?;
    Ok(file)
}

impl Drop for ColdPages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.base, PAGES * PAGE_BYTES) };
    }
}
