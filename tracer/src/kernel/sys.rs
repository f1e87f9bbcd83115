//! The one bpf(2) call that aya does not make as we need it: a uprobe_multi link as a plain file
//! descriptor, which can be created from several threads and handed to another process.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `BPF_LINK_CREATE`, `BPF_TRACE_UPROBE_MULTI` and `BPF_F_UPROBE_MULTI_RETURN`, from
/// `include/uapi/linux/bpf.h`. Linux 6.6 or later.
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;

/// `union bpf_attr`, its member `link_create` with `uprobe_multi`.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

const _: () = assert!(size_of::<LinkCreate>() == 64);

/// Breakpoints of one file.
#[derive(Debug)]
pub(super) struct Points<'a> {
    /// The file.
    pub(super) path: &'a CStr,
    /// Where in the file.
    pub(super) offsets: &'a [u64],
    /// What `bpf_get_attach_cookie` gives there; as many as offsets.
    pub(super) cookies: &'a [u64],
    /// In this process only; in all if `None`.
    pub(super) pid: Option<u32>,
    /// At the return of the function that begins there.
    pub(super) at_return: bool,
}

/// Sets breakpoints. They go when the link's last descriptor is closed, which waits for a grace
/// period.
///
/// # Errors
///
/// EINVAL or ENOTSUPP (524) if a point is not a place for a breakpoint; none is set then. ESRCH:
/// there is no such process. EPERM, ENOMEM.
pub(super) fn create_link(program: BorrowedFd<'_>, points: &Points<'_>) -> io::Result<OwnedFd> {
    assert_eq!(points.offsets.len(), points.cookies.len(), "a cookie a point");
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_UPROBE_MULTI,
        path: points.path.as_ptr() as u64,
        offsets: points.offsets.as_ptr() as u64,
        cookies: points.cookies.as_ptr() as u64,
        cnt: points.offsets.len() as u32,
        multi_flags: if points.at_return { BPF_F_UPROBE_MULTI_RETURN } else { 0 },
        pid: points.pid.unwrap_or(0),
        ..LinkCreate::default()
    };
    // SAFETY: `attr` and all that it points to live through the call, and its size is its own.
    let descriptor = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of_val(&attr))
    };
    let Ok(descriptor) = i32::try_from(descriptor) else { return Err(io::ErrorKind::Other.into()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it (close-on-exec), and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
