//! Children of traced processes: followed from their first instruction, or freed of the breakpoints that
//! they inherit.
//!
//! A child that is forked has a copy of its parent's memory, with the breakpoints. The kernel handles a hit
//! there for every link of the place, and a link that is limited to a process ignores it. So a child pays
//! for each call without being traced.
//!
//! - To follow children, links are not limited to a process. The programs decide whose hits count, and the
//!   kernel runs one of them at each fork, before the child runs ([`Children::Followed`]).
//! - Otherwise forks are only counted ([`Children::Counted`]). Whenever a link is released, the kernel asks
//!   the remaining links of each place in which processes they want a breakpoint, and removes it from all
//!   others. So one more link on the same places, which is released at once, frees all children of their
//!   breakpoints ([`Programs::free_children`]). The links that count are left alone.
//!
//! Where each breakpoint has its own link, the kernel does the latter itself, at a child's first hit. A
//! child that shares its parent's memory (`vfork`) shares the breakpoints, which must stay, until it
//! executes a program.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, sync::PoisonError};

use super::{
    Features, KernelError, Links, LoadOptions, Programs,
    attach::MAX_POINTS,
    btf::Btf,
    exchange::ControlWords,
    links::{Link, LinkKind},
    sys::{Points, create_multi_link},
};
use faultline_resolve::{FileOffset, ObjectFile, Pid, process};

/// How many children may be followed at once.
const MAX_FOLLOWED: u32 = 64 * 1024;

/// The program that does nothing.
const NOTHING: &str = "empty_multi";

/// What becomes of children of the traced processes.
#[derive(Debug)]
pub(super) enum Children {
    /// Nothing: all processes are traced, or the kernel does what is needed.
    Ignored,
    /// They are counted, and can be freed of their breakpoints.
    Counted,
    /// They are traced too.
    Followed(TaskLayout),
}

/// Where the kernel keeps what the programs read of a task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TaskLayout {
    pub(super) tgid: u64,
    pub(super) signal: u64,
    pub(super) live: u64,
}

impl TaskLayout {
    fn of_kernel() -> io::Result<Self> {
        let btf = Btf::of_kernel()?;
        let offset = |structure: &str, member: &str| {
            btf.offset_of(structure, member).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no `{member}` in `{structure}`"))
            })
        };
        Ok(Self {
            tgid: offset("task_struct", "tgid")?,
            signal: offset("task_struct", "signal")?,
            live: offset("signal_struct", "live")?,
        })
    }
}

impl Children {
    pub(super) fn of(options: &LoadOptions) -> Result<Self, KernelError> {
        let filters = !options.pids.is_empty() || options.more_pids != 0;
        let frees = options.features.frees_children();
        Ok(match (filters, options.follow) {
            (true, true) => Self::Followed(
                TaskLayout::of_kernel().map_err(|source| KernelError::Layout { source })?,
            ),
            (true, false) if frees => Self::Counted,
            _ => Self::Ignored,
        })
    }

    pub(super) fn follows(&self) -> bool {
        matches!(self, Self::Followed(_))
    }

    pub(super) fn layout(&self) -> TaskLayout {
        match self {
            Self::Followed(layout) => *layout,
            Self::Ignored | Self::Counted => TaskLayout::default(),
        }
    }

    /// How many may be followed at once.
    pub(super) fn room(&self) -> u32 {
        if self.follows() { MAX_FOLLOWED } else { 1 }
    }
}

/// What the programs count of children.
#[derive(Debug)]
pub struct ChildCounts(ControlWords);

impl ChildCounts {
    /// Children that traced processes have forked with a copy of the breakpoints; always 0 if they are
    /// followed, or if the kernel itself frees them.
    pub fn forked(&self) -> u64 {
        self.0.forked()
    }

    /// Children that were followed.
    pub fn followed(&self) -> u64 {
        self.0.followed()
    }

    /// Children that there was no room for.
    pub fn unfollowed(&self) -> u64 {
        self.0.unfollowed()
    }
}

impl Features {
    /// Whether children inherit breakpoints of links that are limited to another process, and can be freed
    /// of them.
    pub(super) fn frees_children(self) -> bool {
        self.batches() && self.pid_filter
    }
}

impl Programs {
    /// Whether links are limited to a process with all its threads.
    pub fn filters_by_process(&self) -> bool {
        !self.children.follows() && self.features().filters_by_process()
    }

    /// Whether children of traced processes are traced too.
    pub fn follows_children(&self) -> bool {
        self.children.follows()
    }

    pub(super) fn watch_children(&mut self) -> Result<(), KernelError> {
        match self.children {
            Children::Ignored => Ok(()),
            Children::Counted => {
                self.load_uprobe(NOTHING)?;
                self.attach_tracepoint("child_copied", "task_newtask")
            }
            Children::Followed(_) => {
                self.attach_tracepoint("followed_ends", "sched_process_exit")?;
                self.attach_tracepoint("child_begins", "task_newtask")?;
                self.attach_tracepoint("child_begins_too", "sched_process_fork")
            }
        }
    }

    /// What the programs count of children.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if it cannot be mapped.
    pub fn child_counts(&self) -> Result<ChildCounts, KernelError> {
        self.map_control().map(ChildCounts)
    }

    /// Whether a child that is followed has not ended.
    pub fn has_followed(&self) -> bool {
        self.children.follows() && self.forget_followed() != 0
    }

    /// Forgets followed children that have ended; returns how many are left.
    ///
    /// One of our programs does so when they end, if the kernel runs it: see
    /// [`Calls::forget_ended`](super::Calls::forget_ended).
    pub fn forget_followed(&self) -> usize {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers: Vec<u32> = followed.keys().flatten().collect();
        // Numbers of another PID namespace cannot be asked for.
        let has_ended = |number: u32| {
            self.namespace.is_none() && Pid::new(number).is_none_or(|pid| !process::exists(pid))
        };
        let (ended, left): (Vec<u32>, Vec<u32>) =
            numbers.into_iter().partition(|number| has_ended(*number));
        for number in ended {
            // The program may have been faster.
            let _ = followed.remove(&number);
        }
        left.len()
    }

    /// Makes the kernel remove the breakpoints at these places of a file from every process that no link
    /// wants them in. That happens when the returned links are released. Until then, hits of the process
    /// take a moment longer; it must be one of those that are traced there.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`]; then no process has been freed.
    pub fn free_children(
        &self,
        file: &ObjectFile,
        process: Pid,
        offsets: &[FileOffset],
    ) -> Result<Links, KernelError> {
        let failed = |source| KernelError::Attach { file: file.shown_path().to_owned(), source };
        let path = CString::new(file.attach_path().as_os_str().as_bytes())
            .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let offsets: Vec<u64> = offsets.iter().map(|offset| offset.0).collect();
        let cookies = vec![0; offsets.len().min(MAX_POINTS)];
        let program = self.descriptor(NOTHING)?;
        let link = |offsets: &[u64]| {
            let points = Points {
                path: &path,
                offsets,
                cookies: &cookies[..offsets.len()],
                pid: Some(process.get()),
                at_return: false,
            };
            let descriptor = create_multi_link(program, &points).map_err(failed)?;
            Ok(Link { descriptor, points: offsets.len(), kind: LinkKind::Multi, number: 0 })
        };
        offsets.chunks(MAX_POINTS).map(link).collect::<Result<_, _>>().map(Links::new)
    }
}
