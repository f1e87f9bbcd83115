//! Finds tasks that are stuck in a page fault that we caused by reading an argument.
//!
//! The server of a page (userfaultfd, FUSE, NFS) may never deliver it. The task then hangs in our handler.
//! It would have hung at its own first access too, but we got there first. We report such a process to the
//! user and read it without faulting from then on.

use std::{collections::HashSet, time::Duration};

use crate::kernel::{Faults, KernelError, StuckTask};
use faultline_resolve::process::{self, MappingSource};

/// A fault that takes longer than this counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// The watch.
#[derive(Debug)]
pub(crate) struct StuckWatch {
    faults: Faults,
    /// By [`StuckTask::key`].
    reported: HashSet<u64>,
    /// By [`StuckTask::process_key`].
    silenced: HashSet<u32>,
}

/// A task that is stuck in a fault.
#[derive(Debug, Clone)]
pub struct StuckReport {
    /// The task, its process, the address, and for how long.
    pub task: StuckTask,
    /// The task's name, if it still has one.
    pub comm: String,
    /// The mapping that contains the address, named for people.
    pub mapping: String,
}

impl std::fmt::Display for StuckReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StuckTask { ids, address, waited, .. } = self.task;
        match ids {
            Some((pid, tid)) => write!(f, "process {pid} ({}), task {tid}", self.comm)?,
            None => f.write_str("a process outside of faultline's PID namespace")?,
        }
        let seconds = waited.as_secs_f64();
        write!(f, ": inside a page fault at {address} in {} for {seconds:.1} s", self.mapping)
    }
}

impl StuckWatch {
    /// Watches these faults.
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, reported: HashSet::new(), silenced: HashSet::new() }
    }

    /// Looks once: switches stuck processes to reading without faulting, and gives the tasks that were not
    /// reported before.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if there are too many such processes.
    pub(crate) fn check(&mut self) -> Result<Vec<StuckReport>, KernelError> {
        let mut reports = Vec::new();
        for task in self.faults.waiting(STUCK_AFTER) {
            if self.silenced.insert(task.process_key()) {
                self.faults.stop_faulting(&task)?;
            }
            if self.reported.insert(task.key) {
                reports.push(report(task));
            }
        }
        Ok(reports)
    }

    /// How many tasks are inside a fault at this moment.
    pub(crate) fn inside(&self) -> usize {
        self.faults.waiting(Duration::ZERO).len()
    }

    /// Whether any task is inside a fault at this moment.
    pub(crate) fn anyone_inside(&self) -> bool {
        !self.faults.waiting(Duration::ZERO).is_empty()
    }

    /// The tasks that have been inside a fault for longer than an ordinary one takes: a detach waits for
    /// these.
    pub(crate) fn waiting(&self) -> Vec<StuckReport> {
        self.faults.waiting(Duration::from_millis(200)).into_iter().map(report).collect()
    }
}

fn report(task: StuckTask) -> StuckReport {
    let Some((pid, tid)) = task.ids else {
        return StuckReport { task, comm: "?".to_owned(), mapping: "its memory".to_owned() };
    };
    let comm = process::comm(tid)
        .map_or_else(|_| "?".to_owned(), |comm| comm.to_string_lossy().escape_debug().to_string());
    let mapping = match process::mapping_at(pid, task.address) {
        Ok(Some(mapping)) => match mapping.source {
            MappingSource::File { path, .. } => path.to_string_lossy().escape_debug().to_string(),
            MappingSource::Anonymous => "anonymous memory".to_owned(),
            MappingSource::Special(name) => name.to_string_lossy().into_owned(),
        },
        Ok(None) => "no mapping".to_owned(),
        Err(error) => format!("a mapping that cannot be read ({error})"),
    };
    StuckReport { task, comm, mapping }
}
