//! A process that is not our child, held by a descriptor: how it ended can be asked for after it has gone.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use faultline_resolve::Pid;

/// `struct pidfd_info` of `include/uapi/linux/pidfd.h` in its first size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// `PIDFD_INFO_EXIT` (Linux 6.15): the exit status, once the process has been waited for.
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong = 3 << 30 | (size_of::<PidfdInfo>() as libc::c_ulong) << 16 | 0xff0b;

/// A process.
#[derive(Debug)]
pub struct HeldProcess(OwnedFd);

impl HeldProcess {
    /// The process that has this id now; `None` if it has ended.
    #[must_use]
    pub fn open(pid: Pid) -> Option<Self> {
        // SAFETY: the call takes no pointer.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.get(), 0) };
        let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
        // SAFETY: the descriptor is new, and nobody else's.
        Some(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// The signal that ended it. `None` if it has not ended, has ended otherwise, was not waited for yet,
    /// or if the kernel does not say.
    #[must_use]
    pub fn ended_by(&self) -> Option<i32> {
        let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the pointer is to a live structure of the size that is part of the request.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), GET_INFO, &raw mut info) };
        let is_known = result == 0 && info.mask & INFO_EXIT != 0;
        Some(info.exit_code & 0x7f).filter(|signal| is_known && *signal != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the layout is accepted by the kernel: a living process has no exit status, and an unknown
    /// one cannot be held.
    #[test]
    fn own_process_lives() {
        let own = HeldProcess::open(Pid::own()).unwrap();
        assert_eq!(own.ended_by(), None);
    }
}
