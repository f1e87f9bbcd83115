//! A guest: QEMU with one of Debian's kernels on top of this machine's own files, read-only.
//!
//! Always emulated, never accelerated, so that it is the same everywhere: where CI runs, `/dev/kvm` is
//! missing or does not work.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Scratch;
use super::initramfs::{self, Root};
use super::kernels::Kernel;
use super::results::Run;
use crate::apt::{self, Needed};
use crate::command::{shown, user_command};
use crate::workspace;

const QEMU: Needed = Needed {
    command: "qemu-system-x86_64",
    packages: &["qemu-system-x86"],
    why: "boots other kernels",
};

/// A test that hangs fails after two minutes and says so. A guest that prints nothing for longer than
/// that hangs as a whole.
const SILENCE: Duration = Duration::from_secs(200);

/// How long a guest may take in all.
const IN_ALL: Duration = Duration::from_secs(1800);

/// How many of the kernel's last messages are shown if the guest does not finish.
const LAST_LINES: usize = 25;

/// # Errors
/// If QEMU is missing and cannot be installed.
pub(crate) fn ensure() -> Result<()> {
    apt::ensure(&[QEMU])?;
    apt::ensure(initramfs::NEEDED)
}

/// What a guest is made of.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) scratch: &'a Scratch,
    folder: PathBuf,
}

/// Killed when dropped: an error must not leave a guest behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Guest<'a> {
    /// # Errors
    /// If the folder of the guest's files cannot be made.
    pub(crate) fn new(kernel: &'a Kernel, scratch: &'a Scratch, name: &str) -> Result<Self> {
        let folder = workspace::target().join("vm/run").join(kernel.series()).join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        Ok(Self { kernel, scratch, folder })
    }

    /// What the kernel said.
    pub(crate) fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What the tests printed.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.join("tests.log")
    }

    /// Boots it with its first line on this terminal.
    ///
    /// # Errors
    /// If QEMU cannot be started or fails.
    pub(crate) fn interactive(&self, script: &str) -> Result<()> {
        let mut command = self.command(script)?;
        shown(command.args(["-serial", "mon:stdio"]))
    }

    /// Boots it and follows its tests until they end or time out.
    ///
    /// # Errors
    /// If QEMU cannot be started. The results say what went wrong in the guest.
    pub(crate) fn run(&self, script: &str, mut each_line: impl FnMut(&str)) -> Result<Run> {
        let mut command = self.command(script)?;
        command.arg("-serial").arg(format!("file:{}", self.console().display()));
        command.args(["-serial", "stdio"]);
        let (qemu, lines) = start(&mut command)?;
        let mut log = File::create(self.output()).context("failed to make a log")?;
        let mut run = Run::default();
        let started = Instant::now();
        while !run.is_done {
            let left = IN_ALL.saturating_sub(started.elapsed());
            match lines.recv_timeout(left.min(SILENCE)) {
                Ok(line) => {
                    writeln!(log, "{line}").context("failed to write a log")?;
                    run.line(&line);
                    each_line(&line);
                }
                Err(why) => {
                    run.problems.push(self.gave_up(why, started.elapsed()));
                    break;
                }
            }
        }
        drop(qemu);
        run.kernel_log(&self.console_text());
        if run.release.is_empty() {
            run.release.clone_from(&self.kernel.release);
        }
        Ok(run)
    }

    fn gave_up(&self, why: RecvTimeoutError, after: Duration) -> String {
        let what = match why {
            RecvTimeoutError::Disconnected => "the guest ended".to_owned(),
            RecvTimeoutError::Timeout if after >= IN_ALL => {
                format!("the guest took more than {} s", IN_ALL.as_secs())
            }
            RecvTimeoutError::Timeout => {
                format!("the guest printed nothing for {} s", SILENCE.as_secs())
            }
        };
        let text = self.console_text();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n    ");
        format!(
            "{what}; {} s after it started, its tests were not done; last on its console ({}):\n    {last}",
            after.as_secs(),
            self.console().display()
        )
    }

    fn console_text(&self) -> String {
        fs::read(self.console())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    fn command(&self, script: &str) -> Result<Command> {
        let script_file = self.folder.join("init.sh");
        write(&script_file, script.as_bytes())?;
        let initramfs = self.folder.join("initramfs");
        initramfs::pack(&self.kernel.modules(), Root::Host, &initramfs)?;

        let append = format!(
            // All messages, or a crash of a program cannot be explained; a panic ends QEMU. The
            // emulated clock is as steady as any. The kernel's tests of its own ciphers are seconds
            // of computing.
            "console=ttyS0 loglevel=7 panic=-1 tsc=reliable cryptomgr.notests scratch={} run={}",
            self.scratch.mounted_at.display(),
            script_file.display()
        );
        let mut command = machine(self.kernel, &initramfs, &append);
        command
            .arg("-virtfs")
            .arg(
                // Files on different disks get different numbers.
                "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            )
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,snapshot=on", self.scratch.image.display()));
        Ok(command)
    }
}

/// A machine that boots this; its disks and serial lines are to be added.
///
/// Its two CPUs take turns on one thread: QEMU 7.2 with a thread for each runs stale code now and then
/// where one CPU changes what another executes, as setting a breakpoint does, and the kernel's own
/// switches (docs/kernels.md). On a busy machine, one thread is also faster.
pub(crate) fn machine(kernel: &Kernel, initramfs: &Path, append: &str) -> Command {
    let mut command = user_command(QEMU.command);
    command
        .args(["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max"])
        .args(["-smp", "2", "-m", "2G", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-device", "virtio-rng-pci"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", append]);
    command
}

/// Runs it until this has seen a line that it ends with, or QEMU ends.
///
/// # Errors
/// If QEMU cannot be started, or says nothing for too long.
pub(crate) fn each_line(
    command: &mut Command,
    mut goes_on: impl FnMut(&str) -> bool,
) -> Result<()> {
    let (_qemu, lines) = start(command)?;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) if goes_on(line.trim_end()) => {}
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest printed nothing for {} s", SILENCE.as_secs())
            }
        }
    }
}

/// Starts QEMU; what it prints, line by line.
fn start(command: &mut Command) -> Result<(Running, Receiver<String>)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("failed to start QEMU")?;
    let stdout = child.stdout.take().context("QEMU has no output")?;
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    Ok((Running(child), lines))
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(file, bytes).with_context(|| format!("failed to write {}", file.display()))
}
