//! PID namespaces, and what runs in them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{
    Faultline, Running, faultline, in_pid_namespace,
    live::{Puppet, wait_counting},
    spawn,
};

/// A PID namespace with a `/proc` of its own. All that runs in it ends with it.
pub struct Namespace {
    unshare: Child,
    pids: File,
    mounts: File,
}

impl Namespace {
    /// As `unshare -pf --mount-proc` makes it, inside the one that the calling thread's children are in.
    pub fn start() -> Self {
        let mut command = Command::new("unshare");
        command
            .args([
                "-pf",
                "--mount-proc",
                "--kill-child",
                "sh",
                "-c",
                "echo ready; exec sleep 1000",
            ])
            .stdout(Stdio::piped());
        let mut unshare = spawn(&mut command);
        let mut ready = [0; 6];
        std::io::Read::read_exact(unshare.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let init = children_of(unshare.id()).remove(0);
        let open = |name: &str| File::open(format!("/proc/{init}/ns/{name}")).unwrap();
        Self { pids: open("pid"), mounts: open("mnt"), unshare }
    }

    /// Starts children inside.
    pub fn within<T>(&self, start: impl FnOnce() -> T) -> T {
        in_pid_namespace(&self.pids, start)
    }

    /// Has a run of faultline see the namespace's `/proc`.
    pub fn sees(&self, mut run: Faultline) -> Faultline {
        let mounts = self.mounts.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor is open in the parent, and so in the child before it executes; the
            // call takes no pointer.
            match unsafe { libc::setns(mounts, libc::CLONE_NEWNS) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only setns is called.
        unsafe { run.command().pre_exec(enter) };
        run
    }

    /// Starts faultline inside and waits until hits count.
    pub fn counting<S: AsRef<str>>(&self, args: &[S]) -> Running {
        let running = self.start_faultline(args);
        wait_counting(running.pid());
        running
    }

    pub fn start_faultline<S: AsRef<str>>(&self, args: &[S]) -> Running {
        let run = self.sees(faultline(args.iter().map(AsRef::as_ref)));
        self.within(|| run.start())
    }

    /// Starts a puppet inside.
    pub fn puppet(&self, program: &Path) -> Puppet {
        self.within(|| Puppet::start_program(program))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The number of a process in the innermost namespace that it is in.
pub fn inner_pid(puppet: &Puppet) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", puppet.pid())).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    numbers.split_ascii_whitespace().last().unwrap().parse().unwrap()
}
