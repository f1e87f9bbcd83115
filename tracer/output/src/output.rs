//! Where output goes: standard output or a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use faultline_engine::collect::drain::Patience;

/// How often a blocked write checks whether it is still wanted.
const PATIENCE_MS: i32 = 50;

/// An output that never blocks for longer than it is wanted.
///
/// Lines arrive whole. A pipe takes them in pieces that it accepts whole or not at all, so that a
/// reader that comes late, or not, finds no half line at the end; a line longer than `PIPE_BUF` (4
/// KiB) is the exception. From a file that takes no more, the beginning of a line is removed.
#[derive(Debug)]
pub struct Output {
    file: File,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Terminal,
    /// A pipe that does not block.
    Pipe,
    Other,
}

impl Output {
    /// Standard output.
    ///
    /// A pipe or terminal is reopened as non-blocking: a reader that does not read, or Ctrl-S, must not
    /// keep the run from ending. Setting the flag on standard output itself would change it for every
    /// process that shares it.
    ///
    /// # Errors
    ///
    /// Standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let own = stdout.as_fd().try_clone_to_owned()?;
        let file_type = File::from(own).metadata()?.file_type();
        if (file_type.is_fifo() || terminal)
            && let Ok(file) = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open("/proc/self/fd/1")
        {
            return Ok(Self { file, kind: if terminal { Kind::Terminal } else { Kind::Pipe } });
        }
        // SAFETY: descriptor 1 is open (it was just cloned); the duplicate is ours alone.
        let duplicate = unsafe { libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3) };
        if duplicate < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let file = unsafe { File::from_raw_fd(duplicate) };
        Ok(Self { file, kind: if terminal { Kind::Terminal } else { Kind::Other } })
    }

    /// A file, created or emptied.
    ///
    /// # Errors
    ///
    /// Whatever opening it gives.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, kind: Kind::Other })
    }

    /// A file, to add to.
    ///
    /// # Errors
    ///
    /// Whatever opening it gives.
    pub fn append(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).open(path)?, kind: Kind::Other })
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Writes all of `bytes`, which are whole lines; how many were written before it failed or was
    /// given up.
    pub fn write(&mut self, bytes: &[u8], patience: &Patience) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            let piece = if self.kind == Kind::Pipe { taken_whole(rest) } else { rest };
            match self.file.write(piece) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count;
                    patience.renew();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if patience.is_over() {
                        return (written, Err(error));
                    }
                    self.wait_writable();
                }
                Err(error) => {
                    let kept = self.remove_half_line(&bytes[..written]);
                    return (kept, Err(error));
                }
            }
        }
        (written, Ok(()))
    }

    /// Removes the beginning of a line from the end of a regular file. How many of the bytes that were
    /// `written` are left.
    fn remove_half_line(&mut self, written: &[u8]) -> usize {
        let whole = whole_lines(written);
        let mut remove = || -> io::Result<bool> {
            let half = (written.len() - whole) as u64;
            let metadata = self.file.metadata()?;
            let position = self.file.stream_position()?;
            // Only what nobody else has written after it.
            let Some(end) = position.checked_sub(half).filter(|_| position == metadata.len())
            else {
                return Ok(false);
            };
            self.file.set_len(end)?;
            self.file.seek(SeekFrom::Start(end))?;
            Ok(true)
        };
        if whole < written.len() && remove().unwrap_or(false) { whole } else { written.len() }
    }

    fn wait_writable(&self) {
        let mut poll =
            libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd; an error or timeout only means that the write is tried again.
        unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
    }
}

/// The bytes up to the end of the last whole line.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
}

/// As many whole lines as a pipe takes whole or not at all; a longer line alone.
fn taken_whole(lines: &[u8]) -> &[u8] {
    let Some(first) = lines.get(..libc::PIPE_BUF) else { return lines };
    match whole_lines(first) {
        0 => {
            let newline = lines.iter().position(|byte| *byte == b'\n');
            newline.map_or(lines, |newline| &lines[..=newline])
        }
        whole => &first[..whole],
    }
}

/// Makes a write beyond `ulimit -f` fail with `EFBIG`, as one to a full disk does with `ENOSPC`. The
/// signal that comes with it would otherwise end the process, without a summary.
///
/// What is executed later gets back the default: a signal that is caught, unlike one that is ignored,
/// is reset by `execve(2)`.
pub fn survive_file_size_limit() {
    extern "C" fn go_on(_signal: libc::c_int) {}
    // SAFETY: all zeros is a `sigaction`: integers, a mask and pointers that may be null.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    let mut before = action;
    action.sa_sigaction = go_on as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `before` is valid for writes, and null changes nothing.
    let asked = unsafe { libc::sigaction(libc::SIGXFSZ, std::ptr::null(), &raw mut before) };
    if asked == 0 && before.sa_sigaction == libc::SIG_DFL {
        // SAFETY: the handler does nothing, so it may run at any moment.
        unsafe { libc::sigaction(libc::SIGXFSZ, &raw const action, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a pipe gets whole lines, as many as it takes at once, and a longer one alone.
    #[test]
    fn pieces_are_whole_lines() {
        let line = |length: usize| {
            let mut line = vec![b'x'; length - 1];
            line.push(b'\n');
            line
        };
        let sizes = |lengths: &[usize]| {
            let lines: Vec<u8> = lengths.iter().flat_map(|length| line(*length)).collect();
            let (mut rest, mut sizes) = (&lines[..], Vec::new());
            while !rest.is_empty() {
                let piece = taken_whole(rest);
                sizes.push(piece.len());
                rest = &rest[piece.len()..];
            }
            sizes
        };
        assert_eq!(sizes(&[10, 20]), [30]);
        assert_eq!(sizes(&[4096]), [4096]);
        assert_eq!(sizes(&[4000, 96, 1]), [4096, 1]);
        assert_eq!(sizes(&[4000, 97, 1]), [4000, 98]);
        assert_eq!(sizes(&[10, 5000, 10]), [10, 5000, 10]);
        assert_eq!(taken_whole(&[b'x'; 5000]).len(), 5000, "what has no end is not kept back");
    }
}
