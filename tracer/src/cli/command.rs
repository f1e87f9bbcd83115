//! The command of `-c`: started, held before its first instruction until the probes are attached,
//! and waited for.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

use crate::resolve::Pid;

/// A command that waits to be let go.
#[derive(Debug)]
pub(super) struct HeldCommand {
    pid: Pid,
    gate: File,
    /// What `spawn` gives, once the command is let go and has been executed.
    spawned: thread::JoinHandle<io::Result<Child>>,
    name: String,
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct RunningCommand {
    pub(super) pid: Pid,
    /// Its exit status, once it ends.
    pub(super) ended: oneshot::Receiver<ExitStatus>,
}

impl HeldCommand {
    /// Forks the command's process, which has its final process id but runs nothing of its own yet.
    pub(super) fn start(words: &[String]) -> anyhow::Result<Self> {
        let (name, arguments) = words.split_first().ok_or_else(|| anyhow!("no command"))?;
        let context = || format!("failed to start `{}`", name.escape_debug());
        let (mut tell_pid, told_pid) = pipe().map(|(read, write)| (File::from(read), write))?;
        let (wait_gate, gate) = pipe()?;
        let stderr = io::stderr().as_fd().try_clone_to_owned().with_context(context)?;
        let mut command = Command::new(name);
        command.args(arguments).stdout(Stdio::from(stderr));
        let (pid_fd, gate_fd) = (told_pid.as_raw_fd(), wait_gate.as_raw_fd());
        // Not held open in the child: an end of the pipe that only we close opens the gate.
        let gate_end = gate.as_raw_fd();
        // SAFETY: between fork and exec only async-signal-safe calls are made: getpid, write,
        // close and read on descriptors that stay open until `spawn` has returned.
        unsafe {
            command.pre_exec(move || {
                let pid = libc::getpid().to_ne_bytes();
                if libc::write(pid_fd, pid.as_ptr().cast(), pid.len()) != pid.len() as isize {
                    return Err(io::Error::last_os_error());
                }
                libc::close(gate_end);
                let mut byte = 0u8;
                match libc::read(gate_fd, (&raw mut byte).cast(), 1) {
                    1 => Ok(()),
                    _ => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                }
            });
        }
        // `spawn` returns only when the command has been executed, so it waits on a thread.
        let spawned = thread::Builder::new().name("command".to_owned()).spawn(move || {
            let child = command.spawn();
            drop((told_pid, wait_gate));
            child
        })?;
        let mut pid = [0; 4];
        if tell_pid.read_exact(&mut pid).is_err() {
            let error = match spawned.join() {
                Ok(Err(error)) => error,
                _ => io::Error::other("its process did not start"),
            };
            return Err(error).with_context(context);
        }
        let pid = u32::try_from(i32::from_ne_bytes(pid)).ok().and_then(Pid::new);
        let pid = pid.ok_or_else(|| anyhow!("its process has no id")).with_context(context)?;
        Ok(Self { pid, gate: File::from(gate), spawned, name: name.clone() })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the command run.
    pub(super) fn release(mut self) -> anyhow::Result<RunningCommand> {
        let context = || format!("failed to start `{}`", self.name.escape_debug());
        self.gate.write_all(&[1]).with_context(context)?;
        let spawned = self.spawned.join().map_err(|_| anyhow!("its thread panicked"));
        let mut child = spawned.and_then(|child| Ok(child?)).with_context(context)?;
        let (tell, ended) = oneshot::channel();
        thread::Builder::new().name("wait".to_owned()).spawn(move || {
            if let Ok(status) = child.wait() {
                let _ = tell.send(status);
            }
        })?;
        Ok(RunningCommand { pid: self.pid, ended })
    }
}

/// A pipe that is not inherited: reading end, writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}
