//! Releases links in a separate process.
//!
//! Closing the last descriptor of a link waits, uninterruptibly, until no task is inside a handler. A task
//! that is stuck in a page fault would thus keep us from exiting, however often we are signalled. So if a
//! task is inside a fault, a child gets the descriptors and closes them: the child may get stuck, but we do
//! not. If each breakpoint has its own link and the kernel takes minutes to close them, we do not have to
//! wait for that either.
//!
//! The child reads from its standard input the numbers of the descriptors to close, up to the end of the
//! input; there are none if its parent has died. To its standard output it writes, for each link, how many
//! nanoseconds the close took.

use std::{
    env,
    io::{self, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{
    DetachReport, Links, Progress,
    links::{Link, LinkKind, release_each},
};

/// The argument that turns this program into a releaser.
const RELEASER: &str = "__release-links";

/// A child that holds the links.
#[derive(Debug)]
pub struct Releaser {
    child: Child,
    hold: ChildStdin,
    told: ChildStdout,
    /// Each link's descriptor and breakpoints.
    links: Vec<(RawFd, usize)>,
}

impl Links {
    /// Hands the links to a child. The breakpoints stay until the child is asked to release them.
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

    /// Releases the links, in a child if there is a `helper`, and waits this long; returns whether they are
    /// gone. If a task is stuck inside a handler, they are released when it continues.
    pub fn detach_within(self, patience: Duration, helper: bool) -> bool {
        if self.is_empty() {
            return true;
        }
        let releaser =
            if helper { self.hand_over() } else { Err((self, io::ErrorKind::Unsupported.into())) };
        let (tell, told) = mpsc::channel();
        let wait = move || {
            match releaser {
                Ok(releaser) => releaser.release(&Progress::default()),
                Err((links, _)) => links.detach(&Progress::default()),
            };
            let _ = tell.send(());
        };
        let waits = thread::Builder::new().name("handed over".to_owned()).spawn(wait);
        // If no thread can be started, they are released by what is dropped here.
        waits.is_ok() && told.recv_timeout(patience).is_ok()
    }

    fn spawn_releaser(&self) -> io::Result<Releaser> {
        let links: Vec<_> =
            self.iter().map(|link| (link.descriptor.as_raw_fd(), link.points)).collect();
        let descriptors: Vec<RawFd> = links.iter().map(|(descriptor, _)| *descriptor).collect();
        let mut command = Command::new("/proc/self/exe");
        command.arg0("faultline").arg(RELEASER).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A reader of our output must not have to wait for the child's end.
        command.stderr(Stdio::null());
        // In its own process group: Ctrl-C is meant for us.
        command.process_group(0);
        let inherit = move || {
            for descriptor in &descriptors {
                // SAFETY: fcntl is async-signal-safe, and only clears close-on-exec in the child.
                if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // A holder handles no signals, and its child would not either.
            let mut none = MaybeUninit::uninit();
            // SAFETY: the call fills the set, and is async-signal-safe.
            unsafe { libc::sigemptyset(none.as_mut_ptr()) };
            // SAFETY: the set is filled; the call is async-signal-safe.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
            Ok(())
        };
        // SAFETY: between fork and exec only such calls are made; nothing is allocated.
        unsafe { command.pre_exec(inherit) };
        let mut child = command.spawn()?;
        let hold = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let told = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Releaser { child, hold, told, links })
    }
}

impl Releaser {
    /// Makes the child release the links, and waits for it.
    ///
    /// Blocks while a task is inside a handler: do not call it from async code.
    pub fn release(self, progress: &Progress) -> DetachReport {
        let started = Instant::now();
        let Self { mut child, mut hold, mut told, links } = self;
        progress.begin(links.iter().map(|(_, points)| points).sum());
        let numbers: Vec<u8> =
            links.iter().flat_map(|(descriptor, _)| descriptor.to_ne_bytes()).collect();
        // A child that has exited has released them.
        let _ = hold.write_all(&numbers);
        drop(hold);
        let points = progress.total().checked_div(links.len()).unwrap_or(0);
        let mut grace: Option<Duration> = None;
        let mut took_ns = [0; 8];
        while told.read_exact(&mut took_ns).is_ok() {
            let took = Duration::from_nanos(u64::from_ne_bytes(took_ns));
            grace = Some(grace.map_or(took, |grace| grace.min(took)));
            progress.add(points);
        }
        // The child has nothing more to report; it exits when the last link is closed.
        let _ = child.wait();
        DetachReport { took: started.elapsed(), grace }
    }
}

/// Acts as a releaser if this process was started as one, and then returns only once its work is done.
pub(crate) fn be_releaser_if_asked() -> bool {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != RELEASER) {
        return false;
    }
    // Waits until our parent closes its end or dies. Descriptors that are not named are closed when we
    // exit.
    let mut numbers = Vec::new();
    let _ = io::stdin().lock().read_to_end(&mut numbers);
    let (numbers, _) = numbers.as_chunks();
    let links = numbers.iter().map(|number| {
        // SAFETY: the parent left us its links under these numbers, and nothing else here owns them.
        let descriptor = unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) };
        Link { descriptor, points: 0, kind: LinkKind::Single, number: 0 }
    });
    release_each(links.collect(), LinkKind::Single.at_once(), |_, took| {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Our parent may have died.
        let _ = io::stdout().lock().write_all(&took_ns.to_ne_bytes());
        let _ = io::stdout().lock().flush();
    });
    true
}
