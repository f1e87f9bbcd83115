//! Files and paths as the host, or as one process, sees them.
//!
//! Takes paths as that side writes them; gives open files. With a process, every path is walked by
//! the kernel inside `/proc/PID/root` (openat2 with `RESOLVE_IN_ROOT`), so an absolute symlink in
//! a container means the container's file and never the host's.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::ResolveError;
use super::process::{self, Pid, StartTime};

/// How names and paths are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// As this program sees them.
    Host,
    /// As that process sees them, through its root.
    Process(Pid),
}

/// A view that is in use: its root stays open, and its process is known to be the same one.
#[derive(Debug)]
pub(super) enum Root {
    Host,
    Process(ProcessRoot),
}

#[derive(Debug)]
pub(super) struct ProcessRoot {
    pub(super) pid: Pid,
    started: StartTime,
    root: File,
    /// The root as this program would write it: `/` but for a chroot without its own mounts.
    prefix: PathBuf,
}

/// Not `O_RDONLY` alone: opening a pipe or a terminal must neither wait nor take it over.
const OPEN_FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

impl Root {
    pub(super) fn open_view(view: View) -> Result<Self, ResolveError> {
        let View::Process(pid) = view else { return Ok(Self::Host) };
        let started =
            process::start_time(pid).map_err(|source| process_error(pid, "stat", source))?;
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(pid.path("root"))
            .map_err(|source| process_error(pid, "root", source))?;
        let prefix =
            fs::read_link(pid.path("root")).map_err(|source| process_error(pid, "root", source))?;
        Ok(Self::Process(ProcessRoot { pid, started, root, prefix }))
    }

    /// Opens a file or directory for reading. The path is absolute.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        match self {
            Self::Host => OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(path),
            Self::Process(process) => open_in_root(&process.root, path),
        }
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut self.open(path)?, &mut bytes)?;
        Ok(bytes)
    }

    /// The names in a directory; none where it cannot be read.
    pub(super) fn names_in(&self, directory: &Path) -> Vec<OsString> {
        let Ok(directory) = self.open(directory) else { return Vec::new() };
        let Ok(entries) = fs::read_dir(descriptor_path(&directory)) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
    }

    /// The path as this program would open it.
    pub(super) fn outside(&self, path: &Path) -> PathBuf {
        match self {
            Self::Host => path.to_owned(),
            Self::Process(process) => {
                let inside = path.strip_prefix("/").unwrap_or(path);
                process.pid.path("root").join(inside)
            }
        }
    }

    /// The path that an open file has in this view, symlinks followed.
    pub(super) fn path_of(&self, file: &File) -> io::Result<PathBuf> {
        Ok(self.inside(fs::read_link(descriptor_path(file))?))
    }

    /// From a path that the kernel printed for this program to the view's.
    pub(super) fn inside(&self, printed: PathBuf) -> PathBuf {
        match self {
            Self::Host => printed,
            Self::Process(process) => match printed.strip_prefix(&process.prefix) {
                Ok(rest) => Path::new("/").join(rest),
                Err(_) => printed,
            },
        }
    }
}

impl ProcessRoot {
    /// Fails if the process ended, even if another one got its number since.
    pub(super) fn check_alive(&self) -> Result<(), ResolveError> {
        let started = process::start_time(self.pid)
            .map_err(|source| process_error(self.pid, "stat", source))?;
        if started == self.started {
            Ok(())
        } else {
            Err(ResolveError::NoSuchProcess { pid: self.pid })
        }
    }
}

/// A path that names an open file of this program, whatever happened to the file's own name.
pub(super) fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// What failed on a file of `/proc/PID`, in the user's terms.
pub(super) fn process_error(pid: Pid, file: &str, source: io::Error) -> ResolveError {
    let path = pid.path(file);
    match source.raw_os_error() {
        // ESRCH: the process ended between the opening of the file and its reading.
        Some(libc::ENOENT | libc::ESRCH) => ResolveError::NoSuchProcess { pid },
        Some(libc::EACCES | libc::EPERM) => ResolveError::ProcessDenied { pid, path },
        _ => ResolveError::Process { pid, path, source },
    }
}

/// `struct open_how` of linux/openat2.h.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `RESOLVE_IN_ROOT` of linux/openat2.h (Linux 5.6).
const RESOLVE_IN_ROOT: u64 = 0x10;

fn open_in_root(root: &File, path: &Path) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = u64::from((libc::O_RDONLY | OPEN_FLAGS).cast_unsigned());
    let how = OpenHow { flags, mode: 0, resolve: RESOLVE_IN_ROOT };
    // A rename anywhere in the system during a walk over `..` gives EAGAIN; it passes.
    const TRIES: usize = 16;
    let mut last = io::Error::from_raw_os_error(libc::EAGAIN);
    for _ in 0..TRIES {
        // SAFETY: `path` is NUL-terminated and `how` is an `open_how` of the size given; both
        // outlive the call, which writes to neither.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => {
                // SAFETY: the kernel has just given this descriptor to nobody else.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                return Ok(File::from(fd));
            }
            _ => last = io::Error::last_os_error(),
        }
        if last.raw_os_error() != Some(libc::EAGAIN) {
            break;
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::super::testbed::Testbed;
    use super::*;

    /// Check that an absolute symlink stays inside the root, and so does a climb out of it.
    #[test]
    fn symlinks_stay_inside_the_root() {
        let bed = Testbed::new("view-root");
        fs::create_dir_all(bed.path("jail/opt")).unwrap();
        fs::create_dir_all(bed.path("jail/lib")).unwrap();
        fs::write(bed.path("jail/opt/real"), "inside").unwrap();
        symlink("/opt/real", bed.path("jail/lib/absolute")).unwrap();
        symlink("../../../../opt/real", bed.path("jail/lib/climbing")).unwrap();
        let root = File::open(bed.path("jail")).unwrap();
        for name in ["/lib/absolute", "/lib/climbing"] {
            let mut text = String::new();
            open_in_root(&root, Path::new(name)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{name}");
        }
        let error = open_in_root(&root, Path::new("/etc/passwd")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// Check that a process that does not exist is named in the error.
    #[test]
    fn dead_process_is_an_error() {
        let pid = Pid::new(0x7fff_fff0).unwrap();
        let error = Root::open_view(View::Process(pid)).unwrap_err();
        assert_eq!(error.to_string(), "no process 2147483632");
    }

    /// Check that a refusal is not reported as an absence.
    #[test]
    fn refusal_is_not_absence() {
        let pid = Pid::new(7).unwrap();
        let text =
            |code| process_error(pid, "maps", io::Error::from_raw_os_error(code)).to_string();
        assert_eq!(text(libc::ESRCH), "no process 7");
        assert_eq!(
            text(libc::EACCES),
            "no permission to inspect process 7 (`/proc/7/maps` needs root, or the same user and CAP_SYS_PTRACE)"
        );
        assert_eq!(text(libc::EIO), "failed to read `/proc/7/maps` of process 7");
    }
}
