//! Tries out, on functions and a child of our own, how some kernels harm traced programs.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
};

use tracer_common::{Action, program::FLAG_TRACK_RETURN};

use super::{
    Features, Links, LoadOptions, Programs, Progress,
    calibrate::{measured_return, red_zone},
    own_code,
};
use faultline_plan::{AttachPlan, KernelQuirks};
use faultline_resolve::Pid;
use faultline_spec::ValueType;

/// After this many calls the kernel has replaced a nop.
const CALLS: u64 = 100;
/// Exit status of a child that survived.
const SURVIVED: i32 = 7;

/// Tries all of them. Takes about a tenth of a second.
///
/// # Errors
///
/// Those of loading, attaching and starting a child.
pub(crate) fn try_quirks() -> anyhow::Result<KernelQuirks> {
    Ok(KernelQuirks {
        returns_kill_filtered: !filtered_child_survives()?,
        nop5_breaks_red_zone: !red_zone_survives()?,
    })
}

/// Attaches a plan of our own code in a process while `work` runs.
fn attached<T>(plan: &AttachPlan, pid: Pid, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let features = Features::probe()?;
    let action = if plan.probes.iter().any(|probe| probe.ret.is_some()) {
        Action::Latency
    } else {
        Action::Count
    };
    let options = LoadOptions { pids: vec![pid], ..LoadOptions::new(action, features) };
    let programs = Programs::load(plan, &options)?;
    let progress = Progress::default();
    let (links, report) = Links::attach_plan(&programs, plan, Some(pid), &progress)?;
    if let Some(refused) = report.refused.first() {
        anyhow::bail!("cannot try: {}", refused.reason);
    }
    programs.enable(true);
    let result = work();
    programs.enable(false);
    links.detach(&progress);
    Ok(result)
}

/// Whether a function's data below its stack pointer survives a probe.
fn red_zone_survives() -> anyhow::Result<bool> {
    let Some((function, nop5)) = red_zone() else { return Ok(true) };
    let plan = own_code::plan(vec![own_code::probe("red zone", nop5)?])?;
    // SAFETY: the function keeps the calling convention, and returns its argument.
    attached(&plan, Pid::own(), || (0..CALLS).all(|number| unsafe { function(number) } == number))
}

/// Whether a process under a seccomp filter gets through a function whose return is traced.
fn filtered_child_survives() -> anyhow::Result<bool> {
    let function = measured_return();
    let mut probe = own_code::probe("filtered", function as *const () as usize)?;
    probe.ret = Some(ValueType::U64);
    probe.program.flags = FLAG_TRACK_RETURN;
    let plan = own_code::plan(vec![probe])?;
    let mut child = FilteredChild::start(function)?;
    attached(&plan, child.pid, || child.go())?.map_err(Into::into)
}

/// A child that has given up nearly all system calls and is waiting.
struct FilteredChild {
    pid: Pid,
    go: io::PipeWriter,
    ready: io::PipeReader,
    waited_for: bool,
}

impl FilteredChild {
    fn start(function: unsafe extern "C" fn()) -> anyhow::Result<Self> {
        let (wait, go) = io::pipe()?;
        let (ready, tell) = io::pipe()?;
        let filter = filter();
        // SAFETY: the child only makes system calls, on what was prepared before the fork, and exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above.
            unsafe { be_filtered(&filter, wait.as_raw_fd(), tell.as_raw_fd(), function) }
        }
        let pid =
            u32::try_from(pid).ok().and_then(Pid::new).ok_or_else(io::Error::last_os_error)?;
        // Only the child holds the other ends now.
        drop((wait, tell));
        let mut child = Self { pid, go, ready, waited_for: false };
        if child.ready.read(&mut [0])? == 0 {
            anyhow::bail!("cannot try: no seccomp filter can be set");
        }
        Ok(child)
    }

    /// Makes it call the function; returns whether it survived.
    fn go(&mut self) -> io::Result<bool> {
        self.go.write_all(&[0])?;
        let status = self.wait()?;
        Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == SURVIVED)
    }

    fn wait(&mut self) -> io::Result<i32> {
        let mut status = 0;
        self.waited_for = true;
        // SAFETY: the process is our child and has not been waited for.
        match unsafe { libc::waitpid(self.pid.get().cast_signed(), &raw mut status, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(status),
        }
    }
}

impl Drop for FilteredChild {
    fn drop(&mut self) {
        if !self.waited_for {
            // SAFETY: the process is our child and has not been waited for.
            unsafe { libc::kill(self.pid.get().cast_signed(), libc::SIGKILL) };
            let _ = self.wait();
        }
    }
}

/// Allows `read`, `write` and `exit_group`; any other call kills the process.
fn filter() -> [libc::sock_filter; 6] {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, k| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    [
        // The number of the system call is the first field of the filter's input.
        step(load, 0, 0),
        step(equal, 3, libc::SYS_read as u32),
        step(equal, 2, libc::SYS_write as u32),
        step(equal, 1, libc::SYS_exit_group as u32),
        step(ret, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(ret, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// The child.
///
/// # Safety
///
/// Call this only after a fork: it never returns.
unsafe fn be_filtered(
    filter: &[libc::sock_filter; 6],
    wait: i32,
    tell: i32,
    function: unsafe extern "C" fn(),
) -> ! {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let mut byte = 0_u8;
    // SAFETY: a plain system call on a live structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core) };
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the filter and its program live through the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            0_i64,
            &raw const program,
        )
    };
    // SAFETY: a system call on a byte of ours.
    let announced = || unsafe { libc::write(tell, (&raw const byte).cast(), 1) } == 1;
    if set == 0 && announced() {
        // SAFETY: a system call on a byte of ours.
        let go = unsafe { libc::read(wait, (&raw mut byte).cast(), 1) };
        if go == 1 {
            // SAFETY: the function keeps the calling convention and does nothing.
            unsafe { function() };
        }
    }
    loop {
        // SAFETY: the call takes no pointer.
        unsafe { libc::syscall(libc::SYS_exit_group, libc::c_long::from(SURVIVED)) };
    }
}
