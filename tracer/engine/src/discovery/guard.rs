//! Sends a child process ahead where a file system may never answer.
//!
//! The server of a FUSE or network file system may be gone. A process that opens or reads one of its files
//! then blocks, often uninterruptibly, and cannot even exit. So where a view has such mounts, a child first
//! does what we are about to do. If the child does not come back, we stay away and check on it the next
//! time.

use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use faultline_resolve::{Pid, Resolver, View};

use crate::notice::{Slow, Step};

/// The argument that turns this program into such a child.
const LOOKER: &str = "__look";
/// How long to wait for the child.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How often to check whether it has come back.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// File systems whose pages and names come from a server that may never answer.
const SERVED: [&str; 13] = [
    "fuse", "fuseblk", "nfs", "nfs4", "cifs", "smb3", "9p", "afs", "autofs", "ceph", "lustre",
    "orangefs", "virtiofs",
];

/// A target as the processes of a mount namespace see it.
type Asked = (String, u64);

/// Targets whose file systems do not answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unanswered(Arc<Mutex<HashMap<Asked, Waiting>>>);

#[derive(Debug)]
struct Waiting {
    child: Child,
    since: Instant,
    pid: Option<u32>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may not be able to exit yet. We do not wait for it.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

impl Unanswered {
    /// Asks whether a target can be accessed in a view; gives the reason if not.
    pub(super) fn ask(&self, target: &str, view: View) -> Result<(), Arc<str>> {
        let (folder, pid) = match view {
            View::Host => ("self".to_owned(), None),
            View::Process(pid) => (pid.to_string(), Some(pid.get())),
        };
        let namespace = fs::metadata(format!("/proc/{folder}/ns/mnt")).map_or(0, |at| at.ino());
        let key = (target.to_owned(), namespace);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = all.get_mut(&key) {
            if let Ok(None) = waiting.child.try_wait() {
                return Err(silent(waiting.since));
            }
            all.remove(&key);
        }
        drop(all);
        let mounts = fs::read_to_string(format!("/proc/{folder}/mountinfo")).unwrap_or_default();
        if !mounts.lines().any(is_served) {
            return Ok(());
        }
        let since = Instant::now();
        // If no child can be started, we go ourselves.
        let Ok(mut child) = start(target, pid) else { return Ok(()) };
        while since.elapsed() < ANSWERS_WITHIN {
            match child.try_wait() {
                Ok(None) => thread::sleep(LOOK_EVERY),
                // Its result does not matter: we will get the same one ourselves.
                _ => return Ok(()),
            }
        }
        let waiting = Waiting { child, since, pid };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, waiting);
        Err(silent(since))
    }

    /// Which targets do not answer, and for how long.
    pub(crate) fn slow(&self) -> Vec<Slow> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, waiting| matches!(waiting.child.try_wait(), Ok(None)));
        let slow = |((target, _), waiting): (&Asked, &Waiting)| Slow {
            step: Step::Opening { target: target.as_str().into(), pid: waiting.pid },
            since: waiting.since.elapsed(),
            given_up: true,
        };
        all.iter().map(slow).collect()
    }
}

fn silent(since: Instant) -> Arc<str> {
    format!("its file system has not answered for {:.0} s", since.elapsed().as_secs_f64()).into()
}

/// Whether a line of `mountinfo` describes a file system with a server behind it.
fn is_served(line: &str) -> bool {
    let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("");
    let base = kind.split('.').next().unwrap_or(kind);
    SERVED.contains(&base)
}

fn start(target: &str, pid: Option<u32>) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("faultline").arg(LOOKER).arg(target).args(pid.map(|pid| pid.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // In its own process group: Ctrl-C is meant for us.
    command.process_group(0).spawn()
}

/// Accesses the target if this process was started for that.
pub(crate) fn look_if_asked() -> bool {
    let mut arguments = env::args().skip(1);
    if arguments.next().is_none_or(|argument| argument != LOOKER) {
        return false;
    }
    let Some(target) = arguments.next() else { return true };
    let pid = arguments.next().and_then(|pid| pid.parse::<Pid>().ok());
    let mut resolver = Resolver::new(pid.map_or(View::Host, View::Process));
    if let Ok(file) = resolver.target(&target)
        && let Ok(mut file) = File::open(file.attach_path())
    {
        // The kernel reads the target's code when it attaches.
        let _ = io::copy(&mut file, &mut io::sink());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that file systems with a server are distinguished from others, whatever their subtype.
    #[test]
    fn served_file_systems() {
        let line = |kind: &str| format!("36 35 98:0 /a /b rw shared:1 - {kind} source rw,errors=x");
        for kind in ["fuse", "fuse.sshfs", "fuseblk", "nfs4", "9p"] {
            assert!(is_served(&line(kind)), "{kind}");
        }
        for kind in ["ext4", "overlay", "fusectl", "tmpfs", "proc"] {
            assert!(!is_served(&line(kind)), "{kind}");
        }
        assert!(!is_served(""));
    }
}
