//! System calls that aya does not make in the form we need: uprobe links as plain file descriptors, which
//! can be created from several threads and handed to another process.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// From `include/uapi/linux/bpf.h`; [`BPF_TRACE_UPROBE_MULTI`] is Linux 6.6 or later.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_PERF_EVENT: u32 = 41;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;
const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// From `include/uapi/linux/perf_event.h`.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Where the kernel describes the perf events that are uprobes.
const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe";

/// `union bpf_attr`, its member `link_create` with `uprobe_multi`.
#[repr(C)]
#[derive(Default)]
struct MultiLinkCreate {
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

const _: () = assert!(size_of::<MultiLinkCreate>() == 64);

/// `union bpf_attr`, its member `link_create` with `perf_event`.
#[repr(C)]
#[derive(Default)]
struct PerfLinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

const _: () = assert!(size_of::<PerfLinkCreate>() == 24);

/// `union bpf_attr`, as much of it as loading a program without a log needs.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

const _: () = assert!(size_of::<ProgLoad>() == 48);

/// `struct perf_event_attr` in its second size (`PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Default)]
struct PerfEvent {
    event_type: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

const _: () = assert!(size_of::<PerfEvent>() == 72);

/// Breakpoints of one file.
#[derive(Debug)]
pub(super) struct Points<'a> {
    /// The file.
    pub(super) path: &'a CStr,
    /// Where in the file.
    pub(super) offsets: &'a [u64],
    /// What `bpf_get_attach_cookie` returns there; one per offset.
    pub(super) cookies: &'a [u64],
    /// In this process only; in all if `None`.
    pub(super) pid: Option<u32>,
    /// At the return of the function that begins there.
    pub(super) at_return: bool,
}

/// Sets breakpoints. They are removed when the link's last descriptor is closed, which waits for a grace
/// period.
///
/// # Errors
///
/// EINVAL or ENOTSUPP (524) if a breakpoint cannot be set at one of the points; then none is set. ESRCH if
/// there is no such process. EPERM, ENOMEM.
pub(super) fn create_multi_link(
    program: BorrowedFd<'_>,
    points: &Points<'_>,
) -> io::Result<OwnedFd> {
    assert_eq!(points.offsets.len(), points.cookies.len(), "a cookie a point");
    let attr = MultiLinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_UPROBE_MULTI,
        path: points.path.as_ptr() as u64,
        offsets: points.offsets.as_ptr() as u64,
        cookies: points.cookies.as_ptr() as u64,
        cnt: points.offsets.len() as u32,
        multi_flags: if points.at_return { BPF_F_UPROBE_MULTI_RETURN } else { 0 },
        pid: points.pid.unwrap_or(0),
        ..MultiLinkCreate::default()
    };
    // SAFETY: all that `attr` points to lives through the call.
    unsafe { bpf(BPF_LINK_CREATE, &attr) }
}

/// The perf events that are uprobes, as this kernel numbers them.
#[derive(Debug, Clone, Copy)]
pub(super) struct UprobePmu {
    event_type: u32,
    return_config: u64,
}

impl UprobePmu {
    /// Reads the kernel's description.
    ///
    /// # Errors
    ///
    /// NotFound if the kernel has no such events, or `/sys` is not mounted.
    pub(super) fn find() -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("{UPROBE_PMU}/{file}"));
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the uprobe PMU's description is not understood",
            )
        };
        let event_type = read("type")?.trim().parse().map_err(|_| invalid())?;
        let bit = read("format/retprobe")?;
        let bit = bit.trim().strip_prefix("config:").and_then(|bit| bit.parse::<u32>().ok());
        let return_config = bit.and_then(|bit| 1u64.checked_shl(bit)).ok_or_else(invalid)?;
        Ok(Self { event_type, return_config })
    }

    /// Sets the first of the breakpoints, on a link of its own. Linux 5.15 or later.
    ///
    /// The link is limited to a process with all its threads. Perf events usually belong to one thread, but
    /// here the kernel compares address spaces.
    ///
    /// # Errors
    ///
    /// As [`create_multi_link`], and EMFILE.
    pub(super) fn create_link(
        self,
        program: BorrowedFd<'_>,
        points: &Points<'_>,
    ) -> io::Result<OwnedFd> {
        let (Some(offset), Some(cookie)) = (points.offsets.first(), points.cookies.first()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let event = self.open_event(points, *offset)?;
        let attr = PerfLinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_fd: event.as_raw_fd().cast_unsigned(),
            attach_type: BPF_PERF_EVENT,
            flags: 0,
            cookie: *cookie,
        };
        // The link keeps the event; the event's own descriptor is no longer needed.
        // SAFETY: `attr` points to nothing.
        unsafe { bpf(BPF_LINK_CREATE, &attr) }
    }

    fn open_event(self, points: &Points<'_>, offset: u64) -> io::Result<OwnedFd> {
        let event = PerfEvent {
            event_type: self.event_type,
            size: size_of::<PerfEvent>() as u32,
            config: if points.at_return { self.return_config } else { 0 },
            config1: points.path.as_ptr() as u64,
            config2: offset,
            ..PerfEvent::default()
        };
        // An event belongs to a process or to a CPU. A CPU's event still sets its breakpoint for all CPUs.
        let (pid, cpu) = match points.pid {
            Some(pid) => (pid.cast_signed(), -1),
            None => (-1, 0),
        };
        // SAFETY: `event` and the path that it points to live through the call.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const event,
                pid,
                cpu,
                -1,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        owned(descriptor)
    }
}

/// Whether the kernel takes uprobe programs that may sleep: Linux 6.0 or later.
///
/// # Errors
///
/// EPERM, and any other error that does not answer the question.
pub(super) fn loads_sleepable() -> io::Result<bool> {
    /// `r0 = 0; exit`.
    const RETURN_0: [u64; 2] = [0xb7, 0x95];
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_KPROBE,
        insn_cnt: RETURN_0.len() as u32,
        insns: RETURN_0.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_flags: BPF_F_SLEEPABLE,
        ..ProgLoad::default()
    };
    // SAFETY: all that `attr` points to lives through the call.
    match unsafe { bpf(BPF_PROG_LOAD, &attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A bpf(2) command that gives a file descriptor.
///
/// # Safety
///
/// `attr` is the kernel's structure for this command, and what it points to is valid for it.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: upheld by the caller; the size is `attr`'s own.
    let descriptor =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    owned(descriptor)
}

/// The result of a system call that makes a (close-on-exec) descriptor.
fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just made it, and nothing else owns it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        Ok(_) => Err(io::Error::last_os_error()),
        Err(_) => Err(io::ErrorKind::Other.into()),
    }
}
