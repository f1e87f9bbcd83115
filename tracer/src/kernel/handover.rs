//! Releases links in a process of its own.
//!
//! Closing the last descriptor of a link waits, uninterruptibly, until no task is inside a handler.
//! A task that hangs in a page fault would so keep us from ending, however often we are told to. So
//! where a task is inside a fault, a child of ours gets the descriptors and closes them; it may
//! hang, and we need not.

use std::{
    env, io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, ChildStdin, Command, Stdio},
};

use super::Links;

/// The argument that makes this program a releaser.
const RELEASER: &str = "__release-links";

/// A child that holds the links.
#[derive(Debug)]
pub struct Releaser {
    child: Child,
    hold: ChildStdin,
}

impl Links {
    /// Hands the links to a child. The breakpoints stay until it is told to release them.
    ///
    /// # Errors
    ///
    /// The links are still ours if the child cannot be started.
    pub fn hand_over(self) -> Result<Releaser, (Self, io::Error)> {
        match self.spawn_releaser() {
            Ok(releaser) => Ok(releaser),
            Err(error) => Err((self, error)),
        }
    }

    fn spawn_releaser(&self) -> io::Result<Releaser> {
        let descriptors: Vec<RawFd> = self.descriptors().map(|link| link.as_raw_fd()).collect();
        let mut command = Command::new("/proc/self/exe");
        command.arg0("faultline").arg(RELEASER).stdin(Stdio::piped());
        // Nobody who reads what we write must wait for its end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // Out of the terminal's foreground group: Ctrl-C is for us.
        command.process_group(0);
        let inherit = move || {
            for descriptor in &descriptors {
                // SAFETY: fcntl is async-signal-safe, and only clears close-on-exec in the child.
                if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only fcntl is called; nothing is allocated.
        unsafe { command.pre_exec(inherit) };
        let mut child = command.spawn()?;
        let hold = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Releaser { child, hold })
    }
}

impl Releaser {
    /// Has the links released, and waits until they are.
    ///
    /// Blocks as long as a task is inside a handler: not for the async threads.
    pub fn release(self) {
        let Self { mut child, hold } = self;
        drop(hold);
        // The child has nothing to say; it ends when the last link is closed.
        let _ = child.wait();
    }
}

/// If this process was started as a releaser, is one, and does not return until its time has come.
pub fn be_releaser_if_asked() -> bool {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != RELEASER) {
        return false;
    }
    // Until our parent closes its end, or is no more. The descriptors close when we end.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    true
}
