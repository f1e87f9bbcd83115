//! The command of `-c`. It is started, held before its first instruction until the probes are attached, and
//! waited for.

use std::{
    env,
    ffi::CString,
    fs,
    io::{self, PipeWriter, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

use faultline_resolve::Pid;

/// A command that is held before its first instruction.
#[derive(Debug)]
pub(super) struct HeldCommand {
    pid: Pid,
    /// Both are taken when the command is released.
    gate: Option<PipeWriter>,
    /// The result of `spawn`, once the command has been released and executed.
    spawned: Option<thread::JoinHandle<io::Result<Child>>>,
    name: String,
}

/// A command that is never released ends, and is waited for: its process reports to ours that it was not
/// executed, and complains on standard error if ours is gone by then.
impl Drop for HeldCommand {
    fn drop(&mut self) {
        drop(self.gate.take());
        if let Some(spawned) = self.spawned.take() {
            let _ = spawned.join();
        }
    }
}

/// A running command.
#[derive(Debug)]
pub(super) struct RunningCommand {
    pub(super) pid: Pid,
    /// How it ended, once it has.
    pub(super) ended: oneshot::Receiver<EndedCommand>,
}

/// A command that has ended.
#[derive(Debug)]
pub(super) struct EndedCommand {
    pub(super) status: ExitStatus,
    /// Its last `/proc/PID/stat`.
    pub(super) stat: Vec<u8>,
}

impl HeldCommand {
    /// Forks the command's process. It has its final process id, but runs none of its own code yet.
    pub(super) fn start(words: &[String]) -> anyhow::Result<Self> {
        let (name, arguments) = words.split_first().ok_or_else(|| anyhow!("no command"))?;
        // The held process would find out only after its release, with everything attached.
        find(name)?;
        let context = || failed_to_start(name);
        let (mut pid_reader, pid_writer) = io::pipe()?;
        let (wait_gate, gate) = io::pipe()?;
        let stderr = io::stderr().as_fd().try_clone_to_owned().with_context(context)?;
        let mut command = Command::new(name);
        command.args(arguments).stdout(Stdio::from(stderr));
        let gate_end = gate.as_raw_fd();
        let hold = move || {
            // Only the parent may hold the gate's end: if it dies, the command must not wait forever.
            // SAFETY: this runs in the forked child, where nothing else owns that copy.
            drop(unsafe { OwnedFd::from_raw_fd(gate_end) });
            (&pid_writer).write_all(&std::process::id().to_ne_bytes())?;
            match (&wait_gate).read(&mut [0])? {
                0 => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ => Ok(()),
            }
        };
        // SAFETY: between fork and exec only getpid, close, write and read are called, all of them
        // async-signal-safe; nothing is allocated.
        unsafe { command.pre_exec(hold) };
        // `spawn` returns only when the command has been executed, so it waits on a thread. Dropping
        // the command closes our copies of the child's ends.
        let spawned =
            thread::Builder::new().name("command".to_owned()).spawn(move || command.spawn())?;
        let mut pid = [0; 4];
        if pid_reader.read_exact(&mut pid).is_err() {
            let error = match spawned.join() {
                Ok(Err(error)) => error,
                _ => io::Error::other("its process did not start"),
            };
            return Err(error).with_context(context);
        }
        let pid = Pid::new(u32::from_ne_bytes(pid));
        let pid = pid.ok_or_else(|| anyhow!("its process has no id")).with_context(context)?;
        Ok(Self { pid, gate: Some(gate), spawned: Some(spawned), name: name.clone() })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Releases the command.
    pub(super) fn release(mut self) -> anyhow::Result<RunningCommand> {
        let context = || failed_to_start(&self.name);
        let released = || anyhow!("it was released before");
        let mut gate = self.gate.take().ok_or_else(released)?;
        gate.write_all(&[1]).with_context(context)?;
        let spawned = self.spawned.take().ok_or_else(released)?;
        let spawned = spawned.join().map_err(|_| anyhow!("its thread panicked"));
        let mut child = spawned.and_then(|child| Ok(child?)).with_context(context)?;
        let (sender, ended) = oneshot::channel();
        thread::Builder::new().name("wait".to_owned()).spawn(move || {
            let stat = last_stat(child.id());
            if let Ok(status) = child.wait() {
                let _ = sender.send(EndedCommand { status, stat });
            }
        })?;
        Ok(RunningCommand { pid: self.pid, ended })
    }
}

/// Waits until a child has ended, and reads its `/proc/PID/stat` while it still has one.
fn last_stat(pid: u32) -> Vec<u8> {
    // SAFETY: all zeros is a valid `siginfo_t`, which waitid fills in.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: the pointer is to a live value of the right type. Nobody else waits for this child.
    while unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, flags) } != 0 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Vec::new();
        }
    }
    fs::read(format!("/proc/{pid}/stat")).unwrap_or_default()
}

fn failed_to_start(name: &str) -> String {
    format!("failed to start `{}`", name.escape_debug())
}

/// Finds the program for a name, as `execvp(3)` does.
pub(super) fn find(name: &str) -> anyhow::Result<PathBuf> {
    search(name).with_context(|| failed_to_start(name))
}

fn search(name: &str) -> io::Result<PathBuf> {
    let may_be_run = |path: &Path| -> io::Result<()> {
        if fs::metadata(path)?.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a C string that lives through the call.
        match unsafe { libc::access(path.as_ptr(), libc::X_OK) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return may_be_run(&path).map(|()| path);
    }
    let folders = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut refused = io::Error::from_raw_os_error(libc::ENOENT);
    for folder in env::split_paths(&folders) {
        let path = folder.join(name);
        match may_be_run(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = error,
            Err(_) => {}
        }
    }
    Err(refused)
}
