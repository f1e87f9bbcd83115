//! The PID namespace that faultline runs in. The user reads and writes process numbers of this namespace.
//!
//! A program can find out two numbers of the current task: the one in the initial namespace, and, with
//! `bpf_get_ns_current_pid_tgid` (Linux 5.7), the one in the task's own namespace. In a container, the latter
//! is the number that the user knows, unless the task runs in a namespace inside the container's.

use std::{fs, io, os::unix::fs::MetadataExt as _};

use faultline_resolve::{Pid, process};

use super::KernelError;

/// The inode of the initial namespace, on every kernel: `PROC_PID_INIT_INO` in `include/linux/proc_ns.h`.
const INITIAL: u64 = 0xEFFF_FFFC;

/// A PID namespace other than the initial one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PidNamespace {
    /// The device of its file, as the kernel numbers devices.
    pub(super) device: u64,
    /// The inode of its file.
    pub(super) inode: u64,
}

impl PidNamespace {
    /// That of this process; `None` in the initial one.
    ///
    /// # Errors
    ///
    /// [`KernelError::ForeignProc`] if `/proc` numbers processes as another namespace does.
    pub(super) fn own() -> Result<Option<Self>, KernelError> {
        process::check_proc()?;
        let namespace = Self::of(Pid::own())
            .map_err(|source| KernelError::PidNamespace { pid: Pid::own(), source })?;
        Ok(Some(namespace).filter(|namespace| namespace.inode != INITIAL))
    }

    /// That of a process.
    fn of(pid: Pid) -> io::Result<Self> {
        let file = fs::metadata(format!("/proc/{pid}/ns/pid"))?;
        // `MKDEV` of the kernel: twenty bits for the minor number.
        let (major, minor) = (libc::major(file.dev()), libc::minor(file.dev()));
        Ok(Self { device: u64::from(major) << 20 | u64::from(minor), inode: file.ino() })
    }

    /// Makes sure that the programs can recognise a process by its number in this namespace.
    ///
    /// # Errors
    ///
    /// [`KernelError::NestedNamespace`] if it runs in a namespace inside this one. A process that has ended
    /// is no error here: whoever needs it reports that.
    pub(super) fn check(self, pid: Pid) -> Result<(), KernelError> {
        match Self::of(pid) {
            Ok(other) if other != self => Err(KernelError::NestedNamespace { pid }),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(KernelError::PidNamespace { pid, source }),
        }
    }
}
