//! Where events are written: standard output or a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use faultline_engine::collect::drain::Patience;

/// How often a write that cannot proceed looks whether it is still wanted.
const PATIENCE_MS: i32 = 50;

/// An output that never blocks for longer than it is wanted.
#[derive(Debug)]
pub struct Output {
    file: File,
    terminal: bool,
}

impl Output {
    /// Standard output.
    ///
    /// A pipe or terminal is opened again, without blocking: a reader that does not read, or
    /// Ctrl-S, must not keep the run from ending. Setting the flag on standard output itself would
    /// change it for every process that shares it.
    ///
    /// # Errors
    ///
    /// Standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let own = stdout.as_fd().try_clone_to_owned()?;
        let kind = File::from(own).metadata()?.file_type();
        if (kind.is_fifo() || terminal)
            && let Ok(file) = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open("/proc/self/fd/1")
        {
            return Ok(Self { file, terminal });
        }
        // SAFETY: descriptor 1 is open (it was just cloned); the duplicate is ours alone.
        let duplicate = unsafe { libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3) };
        if duplicate < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let file = unsafe { File::from_raw_fd(duplicate) };
        Ok(Self { file, terminal })
    }

    /// A file, created or emptied.
    ///
    /// # Errors
    ///
    /// Whatever opening it gives.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, terminal: false })
    }

    /// A file, to add to.
    ///
    /// # Errors
    ///
    /// Whatever opening it gives.
    pub fn append(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).open(path)?, terminal: false })
    }

    /// Whether people see it as it comes.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes all of `bytes`; how many were written before it failed or was given up.
    pub fn write(&mut self, bytes: &[u8], patience: &Patience) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
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
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    fn wait_writable(&self) {
        let mut poll =
            libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd; an error or timeout only means that the write is tried again.
        unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
    }
}
