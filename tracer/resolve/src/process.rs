//! What `/proc` says of a process: its mappings, its names, when it started.
//!
//! Takes process and thread ids; gives owned values. Reads only `/proc`. Paths are bytes: the
//! kernel does not promise UTF-8.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::address::{FileOffset, RuntimeAddr};

/// A process or thread id. Never 0: there is no "all processes" among its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(NonZeroU32);

impl Pid {
    /// `None` for 0, which no process has.
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        NonZeroU32::new(id).map(Self)
    }

    /// This program's own.
    #[must_use]
    pub fn own() -> Self {
        Self(NonZeroU32::new(std::process::id()).unwrap_or(NonZeroU32::MIN))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// `/proc/PID/FILE`.
    pub(super) fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{self}/{file}"))
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is no process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a process id is a number from 1 on")]
pub struct NotAPid;

impl FromStr for Pid {
    type Err = NotAPid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| NotAPid)
    }
}

/// `/proc` belongs to another PID namespace than the one that this program runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "/proc belongs to another PID namespace, so process numbers would be wrong (mount one for this \
     namespace: `unshare --mount-proc`, or `mount -t proc proc /proc`)"
)]
pub struct ForeignProc;

/// Makes sure that `/proc` numbers processes as this program's PID namespace does.
///
/// # Errors
/// If it numbers them as another does.
pub fn check_proc() -> Result<(), ForeignProc> {
    // The link's target is our number in the namespace that `/proc` was mounted in. If we have none there,
    // the link cannot be read.
    let seen = fs::read_link("/proc/self").ok();
    let own = Pid::own().to_string();
    if seen.is_some_and(|seen| seen.as_os_str() == own.as_str()) {
        Ok(())
    } else {
        Err(ForeignProc)
    }
}

/// When a process started, in clock ticks since boot: with its id it names the process for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartTime(pub u64);

/// Whether there is a process or thread with this id now.
#[must_use]
pub fn exists(pid: Pid) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// The name of the process's main thread, at most 15 bytes.
///
/// # Errors
/// `NotFound` if there is no such process.
pub fn comm(pid: Pid) -> io::Result<OsString> {
    let mut name = fs::read(pid.path("comm"))?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(OsString::from_vec(name))
}

/// The process that a thread belongs to.
///
/// # Errors
/// `NotFound` if there is no such thread, `InvalidData` if `/proc` is not as it should be.
pub fn thread_group(tid: Pid) -> io::Result<Pid> {
    let status = fs::read(tid.path("status"))?;
    status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Tgid:"))
        .and_then(|value| str::from_utf8(value).ok()?.trim().parse().ok())
        .ok_or_else(|| invalid("no Tgid"))
}

/// When the process or thread started.
///
/// # Errors
/// `NotFound` if there is no such process, `InvalidData` if `/proc` is not as it should be.
pub fn start_time(pid: Pid) -> io::Result<StartTime> {
    let stat = fs::read(pid.path("stat"))?;
    parse_start_time(&stat).ok_or_else(|| invalid("no start time"))
}

/// Whether the main thread of a process has ended; others may still run.
#[must_use]
pub fn main_thread_has_ended(pid: Pid) -> bool {
    fs::read(pid.path("stat")).is_ok_and(|stat| has_exited(&stat))
}

/// The parent of a process; `None` if it has none that this PID namespace knows.
///
/// # Errors
/// `NotFound` if there is no such process, `InvalidData` if `/proc` is not as it should be.
pub fn parent(pid: Pid) -> io::Result<Option<Pid>> {
    let stat = fs::read(pid.path("stat"))?;
    let parent = field(&stat, 4).and_then(|parent| parent.parse().ok());
    parent.map(Pid::new).ok_or_else(|| invalid("no parent"))
}

/// A field of `/proc/PID/stat`, by its number in proc(5), from 3 on. The name in field 2 may hold
/// spaces and parentheses, so the count begins after the last one.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_ascii_whitespace().nth(number - 3)
}

/// When a process started, and the clock ticks that it has run since, in user space or in the kernel.
///
/// # Errors
/// `NotFound` if there is no such process, `InvalidData` if `/proc` is not as it should be.
pub fn times(pid: Pid) -> io::Result<(StartTime, u64)> {
    parse_times(&fs::read(pid.path("stat"))?).ok_or_else(|| invalid("no times"))
}

/// The same for the calling thread.
///
/// # Errors
/// `InvalidData` if `/proc` is not as it should be.
pub fn own_thread_times() -> io::Result<(StartTime, u64)> {
    parse_times(&fs::read("/proc/thread-self/stat")?).ok_or_else(|| invalid("no times"))
}

fn parse_times(stat: &[u8]) -> Option<(StartTime, u64)> {
    let ticks = |number| field(stat, number)?.parse::<u64>().ok();
    Some((parse_start_time(stat)?, ticks(14)? + ticks(15)?))
}

fn parse_start_time(stat: &[u8]) -> Option<StartTime> {
    field(stat, 22)?.parse().ok().map(StartTime)
}

/// Whether the process that started then has ended. One that its parent has not waited for yet
/// has, if its threads have too.
#[must_use]
pub fn has_ended(pid: Pid, started: StartTime) -> bool {
    let Ok(stat) = fs::read(pid.path("stat")) else { return true };
    parse_start_time(&stat) != Some(started) || is_dead(&stat)
}

/// A zombie with no thread but itself.
fn is_dead(stat: &[u8]) -> bool {
    let threads = field(stat, 20).and_then(|number| number.parse::<u32>().ok());
    has_exited(stat) && threads.is_none_or(|threads| threads <= 1)
}

/// Whether the task that this is the `stat` of executes nothing any more, in the kernel either.
pub fn has_exited(stat: &[u8]) -> bool {
    matches!(field(stat, 3), Some("Z" | "X"))
}

/// Page faults of the children that it has waited for, from the `stat` of a process.
#[must_use]
pub fn faults_of_children(stat: &[u8]) -> Option<u64> {
    let [minor, major] = [11, 13].map(|number| field(stat, number)?.parse::<u64>().ok());
    Some(minor?.saturating_add(major?))
}

/// `PF_KTHREAD`, from `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Whether it is a thread of the kernel, which runs no code of any file.
///
/// # Errors
/// `NotFound` if there is no such process.
pub fn is_kernel_thread(pid: Pid) -> io::Result<bool> {
    let stat = fs::read(pid.path("stat"))?;
    parse_flags(&stat).map(|flags| flags & KERNEL_THREAD != 0).ok_or_else(|| invalid("no flags"))
}

/// Whether any thread of a process runs under a seccomp filter.
///
/// # Errors
/// `NotFound` if there is no such process.
pub fn has_seccomp_filter(pid: Pid) -> io::Result<bool> {
    /// `SECCOMP_MODE_FILTER`.
    const FILTER: &str = "2";
    for task in fs::read_dir(pid.path("task"))? {
        // A thread that has ended meanwhile has no filter any more.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        if mode.is_some_and(|mode| mode.trim() == FILTER) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn parse_flags(stat: &[u8]) -> Option<u64> {
    field(stat, 9)?.parse().ok()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: RuntimeAddr,
    /// First address after it.
    pub end: RuntimeAddr,
    /// What the process may do there.
    pub permissions: Permissions,
    /// Where in the file the mapping begins; 0 without a file.
    pub offset: FileOffset,
    /// The device of the file's filesystem; 0:0 without a file.
    pub device: Device,
    /// The file's inode; 0 without a file.
    pub inode: u64,
    /// What is mapped.
    pub source: MappingSource,
}

/// What a mapping shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingSource {
    /// A file, as the process's mount namespace names it.
    File {
        /// Its path when it was mapped.
        path: PathBuf,
        /// The path is gone, or names another file by now.
        deleted: bool,
    },
    /// `[heap]`, `[stack]`, `[vdso]`, `[anon:…]`.
    Special(OsString),
    /// Memory without a name.
    Anonymous,
}

/// What a process may do with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
    /// `s`; private if not.
    pub shared: bool,
}

/// A filesystem's device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Its driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

/// Every mapping of the process, by rising address.
///
/// # Errors
/// `NotFound` if there is no such process, `PermissionDenied` without the right to trace it.
pub fn maps(pid: Pid) -> io::Result<Vec<Mapping>> {
    let text = fs::read(pid.path("maps"))?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse_mapping).collect())
}

/// The mapping that holds the address, if one does.
///
/// # Errors
/// As [`maps`].
pub fn mapping_at(pid: Pid, address: RuntimeAddr) -> io::Result<Option<Mapping>> {
    let holds = |mapping: &Mapping| mapping.start <= address && address < mapping.end;
    Ok(maps(pid)?.into_iter().find(holds))
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE   NAME`; `None` for anything else.
fn parse_mapping(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (field, tail) = rest.split_at(end);
        rest = tail.strip_prefix(b" ").unwrap_or(tail);
        str::from_utf8(field).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = parse_permissions(field()?)?;
    let offset = FileOffset(hex(field()?)?);
    let (major, minor) = field()?.split_once(':')?;
    let device = Device {
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
    };
    let inode = field()?.parse().ok()?;
    Some(Mapping {
        start: RuntimeAddr(hex(start)?),
        end: RuntimeAddr(hex(end)?),
        permissions,
        offset,
        device,
        inode,
        source: parse_source(rest.trim_ascii_start()),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn parse_permissions(text: &str) -> Option<Permissions> {
    let &[read, write, execute, shared] = text.as_bytes() else { return None };
    Some(Permissions {
        read: read == b'r',
        write: write == b'w',
        execute: execute == b'x',
        shared: shared == b's',
    })
}

fn parse_source(name: &[u8]) -> MappingSource {
    match name.first() {
        None => MappingSource::Anonymous,
        Some(b'/') => {
            let (name, deleted) = match name.strip_suffix(b" (deleted)") {
                Some(name) => (name, true),
                None => (name, false),
            };
            let path = PathBuf::from(OsString::from_vec(unescape(name)));
            MappingSource::File { path, deleted }
        }
        Some(_) => MappingSource::Special(OsString::from_vec(name.to_vec())),
    }
}

/// Undoes the one escape that the kernel makes in this file: a newline as `\012`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = tail;
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    /// Check that every kind of line is read, with a space, a newline and a raw byte in the path.
    #[test]
    fn lines_of_maps_are_read() {
        let line =
            b"7f00-7f10 r-xs 00001000 103:0a 1234                 /opt/a b\\012\xff.so (deleted)";
        let mapping = parse_mapping(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (RuntimeAddr(0x7f00), RuntimeAddr(0x7f10)));
        assert!(mapping.permissions.execute && mapping.permissions.shared);
        assert!(!mapping.permissions.write);
        assert_eq!(mapping.offset, FileOffset(0x1000));
        assert_eq!(mapping.device, Device { major: 0x103, minor: 10 });
        assert_eq!(mapping.inode, 1234);
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/opt/a b\n\xff.so")).to_owned();
        assert_eq!(mapping.source, MappingSource::File { path, deleted: true });

        let source = |line: &[u8]| parse_mapping(line).unwrap().source;
        assert_eq!(source(b"1-2 rw-p 0 00:00 0 "), MappingSource::Anonymous);
        assert_eq!(
            source(b"1-2 rw-p 0 00:00 0      [heap]"),
            MappingSource::Special("[heap]".into())
        );
        assert_eq!(parse_mapping(b""), None);
        assert_eq!(parse_mapping(b"1-2 rw-p zz 00:00 0"), None);
    }

    /// Check that a name that looks like the fields after it does not mislead.
    #[test]
    fn start_time_follows_the_last_parenthesis() {
        let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 998877 11 12";
        assert_eq!(parse_start_time(stat), Some(StartTime(998_877)));
        assert_eq!(parse_start_time(b"7 (a"), None);
    }

    /// Check that a process whose first thread alone has exited has not ended.
    #[test]
    fn only_a_zombie_without_threads_is_dead() {
        let stat = |state: &str, threads: &str| {
            format!("7 (Z 1 (a) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 9 1")
        };
        assert!(is_dead(stat("Z", "1").as_bytes()));
        assert!(!is_dead(stat("Z", "2").as_bytes()));
        assert!(!is_dead(stat("S", "1").as_bytes()));
    }

    /// Check that this program finds itself.
    #[test]
    fn own_process_is_seen() {
        let own = Pid::own();
        assert!(exists(own));
        assert_eq!(thread_group(own).unwrap(), own);
        assert!(!comm(own).unwrap().is_empty());
        assert_eq!(start_time(own).unwrap(), start_time(own).unwrap());
        let here = RuntimeAddr(own_process_is_seen as *const () as u64);
        let mapping = mapping_at(own, here).unwrap().unwrap();
        assert!(mapping.permissions.execute);
        assert_eq!(mapping_at(own, RuntimeAddr(0)).unwrap(), None);
    }
}
