//! What the kernel side remembers about tasks: page faults in progress and open calls.

use std::{fs, io, time::Duration};

use aya::maps::{HashMap, MapData};
use tracer_common::{
    counter::Counter,
    task::{CallStack, FaultInProgress, MAX_OPEN_CALLS},
};

use super::{Counters, KernelError, clock::monotonic_ns, programs::map_error};
use faultline_plan::ProbeId;
use faultline_resolve::{Pid, RuntimeAddr, process};

/// A task that has been inside a page fault on our behalf for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StuckTask {
    /// Process (upper half) and task (lower half), as the kernel numbers them.
    pub key: u64,
    /// Its process and the task; `None` if it runs outside faultline's PID namespace.
    pub ids: Option<(Pid, Pid)>,
    /// The address it is waiting for.
    pub address: RuntimeAddr,
    /// How long it has waited.
    pub waited: Duration,
    /// The probe whose argument is being read.
    pub probe: ProbeId,
}

impl StuckTask {
    /// Its process, as the kernel numbers it.
    pub fn process_key(&self) -> u32 {
        (self.key >> 32) as u32
    }
}

/// The page faults in progress.
#[derive(Debug)]
pub struct Faults {
    in_progress: HashMap<MapData, u64, FaultInProgress>,
    no_fault: HashMap<MapData, u32, u8>,
}

impl Faults {
    pub(super) fn new(
        in_progress: HashMap<MapData, u64, FaultInProgress>,
        no_fault: HashMap<MapData, u32, u8>,
    ) -> Self {
        Self { in_progress, no_fault }
    }

    /// The tasks that have been inside a fault for at least `least`.
    pub fn waiting(&self, least: Duration) -> Vec<StuckTask> {
        let now_ns = monotonic_ns();
        // An entry that vanishes while we look is a fault that ended.
        self.in_progress
            .iter()
            .flatten()
            .filter_map(|(key, fault)| {
                let waited = Duration::from_nanos(now_ns.saturating_sub(fault.since_ns));
                (waited >= least).then_some(StuckTask {
                    key,
                    ids: ids(fault.tid),
                    address: RuntimeAddr(fault.address),
                    waited,
                    probe: ProbeId(fault.probe),
                })
            })
            .collect()
    }

    /// From now on, reads the process of this task without faulting.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if there are too many such processes.
    pub fn stop_faulting(&mut self, task: &StuckTask) -> Result<(), KernelError> {
        self.no_fault.insert(&task.process_key(), &1, 0).map_err(map_error("write", "NO_FAULT"))
    }
}

/// The process and the task, from the task's number; `None` if it has ended in the meantime.
fn ids(tid: u32) -> Option<(Pid, Pid)> {
    let tid = Pid::new(tid)?;
    Some((process::thread_group(tid).ok()?, tid))
}

/// The calls that were entered and have not returned.
#[derive(Debug)]
pub struct Calls(HashMap<MapData, u64, CallStack>);

impl Calls {
    pub(super) fn new(calls: HashMap<MapData, u64, CallStack>) -> Self {
        Self(calls)
    }

    /// The probe of every open call.
    pub fn open(&self) -> Vec<ProbeId> {
        self.0.iter().flatten().flat_map(|(_, stack)| open_calls(stack)).collect()
    }

    /// Counts the open calls of tasks that have ended as lost, and forgets those tasks.
    ///
    /// One of our programs does so whenever a task exits, if the kernel runs it. The kernel runs a
    /// tracepoint's program only once at a time on each CPU, and counts skipped runs as `recursion_misses`.
    /// On 7.2 (but not on 6.18) a task can be preempted inside a tracepoint; another task that exits on
    /// that CPU before it continues is then missed. And nobody says when a goroutine ends, or its process
    /// while it waits inside a call.
    pub fn forget_ended(&mut self, counters: &Counters) {
        // A process may have many goroutines.
        let mut known = std::collections::HashMap::new();
        let mut ended = |task| *known.entry(task).or_insert_with(|| has_ended(task));
        let stacks = self.0.iter().flatten();
        let keys: Vec<u64> =
            stacks.filter(|(_, stack)| ended(stack.pid_tgid)).map(|(key, _)| key).collect();
        for key in keys {
            // An entry that has gone in the meantime is already counted.
            let Ok(stack) = self.0.get(&key, 0) else { continue };
            if self.0.remove(&key).is_ok() {
                for probe in open_calls(stack) {
                    counters.add(probe, Counter::CallsLost, 1);
                }
            }
        }
    }
}

/// The probes of a task's open calls.
fn open_calls(stack: CallStack) -> impl Iterator<Item = ProbeId> {
    let depth = stack.depth.min(MAX_OPEN_CALLS as u64) as usize;
    let open = stack.calls.into_iter().take(depth).filter(|call| call.returned == 0);
    open.map(|call| ProbeId(call.probe))
}

/// Whether there is no such task, or it has finished exiting. The upper half of the number is the process,
/// the lower half the task. A task without a number here counts as alive.
pub(super) fn has_ended(pid_tgid: u64) -> bool {
    if pid_tgid == 0 {
        return false;
    }
    let (process, task) = (pid_tgid >> 32, pid_tgid & 0xffff_ffff);
    match fs::read(format!("/proc/{process}/task/{task}/stat")) {
        Ok(stat) => process::has_exited(&stat),
        // Any other error, such as running out of descriptors, says nothing about the task.
        Err(error) => {
            error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
        }
    }
}
