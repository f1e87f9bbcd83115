//! What this kernel offers, found by asking for each feature. Its version says little, because
//! distributions backport features.

use std::{env, io};

use aya::sys::{UProbeMultiFeature, is_uprobe_multi_supported};

use super::{KernelError, sys};

/// The environment variable that makes faultline ignore features of this kernel, to test the fallbacks for
/// older ones: words from [`Features::without`], separated by commas.
const ASSUME: &str = "FAULTLINE_ASSUME";

/// What this kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// One link takes any number of breakpoints (6.6). Without this, each breakpoint needs its own link.
    pub multi_links: bool,
    /// Such a link can be limited to a process (6.10). Before that, the limit applied to a single thread.
    /// Without this feature, breakpoints are set in every process, and the programs decide whose hits
    /// count.
    pub pid_filter: bool,
    /// A program may sleep, and so can fault in the page of an argument (6.0).
    pub sleepable: bool,
    /// Where in the kernel's `task_struct` the name of a task is, in bytes; `None` if that has not been looked
    /// up, or if the kernel does not say. Programs then ask a helper for the name.
    pub task_name_at: Option<u64>,
}

impl Features {
    /// Every feature.
    pub const ALL: Self =
        Self { multi_links: true, pid_filter: true, sleepable: true, task_name_at: None };

    /// Asks the kernel: a few system calls, less than a millisecond.
    ///
    /// # Errors
    ///
    /// [`KernelError::Features`] without privileges, because the kernel then gives no answer.
    pub fn probe() -> Result<Self, KernelError> {
        let error = |source| KernelError::Features { source };
        let multi = |feature| is_uprobe_multi_supported(feature).map_err(error);
        let found = Self {
            multi_links: multi(UProbeMultiFeature::LinkCreation)?,
            pid_filter: multi(UProbeMultiFeature::ProcessScopedPidFilter)?,
            sleepable: sys::loads_sleepable().map_err(error)?,
            task_name_at: None,
        };
        let assumed = env::var(ASSUME).unwrap_or_default();
        let assumed = assumed.split(',').map(str::trim).filter(|word| !word.is_empty());
        assumed.clone().try_fold(found, Self::without).ok_or_else(|| {
            let words = assumed.collect::<Vec<_>>().join(",");
            error(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{ASSUME}={words}: there are no-multi, no-pid-filter and no-sleepable"),
            ))
        })
    }

    /// The same without one feature: `no-multi`, `no-pid-filter` or `no-sleepable`.
    #[must_use]
    pub fn without(self, feature: &str) -> Option<Self> {
        match feature {
            "no-multi" => Some(Self { multi_links: false, ..self }),
            "no-pid-filter" => Some(Self { pid_filter: false, ..self }),
            "no-sleepable" => Some(Self { sleepable: false, ..self }),
            _ => None,
        }
    }

    /// The programs for entry and return.
    ///
    /// There is no unsleeping program for multi links: a kernel that lacks sleepable programs lacks multi
    /// links too.
    pub(super) fn programs(self) -> UprobePrograms {
        match self {
            Self { sleepable: false, .. } => UprobePrograms {
                entry: "entry_unsleeping",
                ret: "return_unsleeping",
                exit: "exit_unsleeping",
                count: "count_single",
                multi: false,
            },
            Self { multi_links: false, .. } => UprobePrograms {
                entry: "entry_single",
                ret: "return_single",
                exit: "exit_single",
                count: "count_single",
                multi: false,
            },
            _ => UprobePrograms {
                entry: "entry_multi",
                ret: "return_multi",
                exit: "exit_multi",
                count: "count_multi",
                multi: true,
            },
        }
    }

    /// Whether to put many breakpoints on one link, all things considered.
    #[must_use]
    pub fn batches(self) -> bool {
        self.programs().multi
    }

    /// Whether to fault pages in; with `forced`, even where that may hurt.
    ///
    /// Where each breakpoint has its own link, the kernel holds a lock of the CPU while a hit is handled
    /// (`uprobe_buffer_get`, until 6.10; multi links never took it). So while one hit waits for a page, all
    /// other such hits on that CPU wait too, whatever their process.
    #[must_use]
    pub fn faults_in(self, forced: bool) -> bool {
        self.sleepable && (forced || self.batches())
    }

    /// Whether links can be limited to a process with all its threads: perf events always can.
    pub(super) fn filters_by_process(self) -> bool {
        self.pid_filter || !self.batches()
    }

    /// What the user of a run must know because it differs from current kernels.
    #[must_use]
    pub fn notes(self, by_process: bool, forced: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.sleepable {
            notes.push(
                "this kernel's uprobe programs cannot sleep: an argument on a page that is not \
                 resident is null with EAGAIN"
                    .to_owned(),
            );
        } else if !self.faults_in(forced) {
            notes.push(
                "on this kernel a probe that waits for a page blocks all other probes on its CPU, so \
                 pages are not faulted in: an argument on a page that is not resident is null with \
                 EAGAIN (use --force to fault it in)"
                    .to_owned(),
            );
        }
        if !self.batches() {
            notes.push(
                "this kernel needs a link for each probe, and detaches them one after another"
                    .to_owned(),
            );
        } else if by_process && !self.filters_by_process() {
            notes.push(
                "this kernel cannot limit breakpoints to a process: every process that runs the \
                 code pays for them, though only the named ones are traced"
                    .to_owned(),
            );
        }
        notes
    }
}

/// The names of the programs that serve a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct UprobePrograms {
    pub(super) entry: &'static str,
    pub(super) ret: &'static str,
    /// For returns that are watched at a function's exits.
    pub(super) exit: &'static str,
    /// For entries that are only counted.
    pub(super) count: &'static str,
    /// They are for multi links.
    pub(super) multi: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that every feature can be disabled, and that the missing ones decide which programs are used.
    #[test]
    fn assumptions_pick_the_programs() {
        let entry = |words: &[&str]| {
            let features = words.iter().try_fold(Features::ALL, |all, word| all.without(word));
            features.map(|features| features.programs().entry)
        };
        assert_eq!(entry(&[]), Some("entry_multi"));
        assert_eq!(entry(&["no-pid-filter"]), Some("entry_multi"));
        assert_eq!(entry(&["no-multi"]), Some("entry_single"));
        assert_eq!(entry(&["no-sleepable"]), Some("entry_unsleeping"));
        assert_eq!(entry(&["no-multi", "no-sleepable"]), Some("entry_unsleeping"));
        assert_eq!(entry(&["multi"]), None);
    }

    /// Check that the user sees a note for each difference, and none where nothing differs.
    #[test]
    fn notes_say_what_differs() {
        assert!(Features::ALL.notes(true, false).is_empty());
        let no_filter = Features { pid_filter: false, ..Features::ALL };
        assert!(no_filter.notes(false, false).is_empty());
        assert_eq!(no_filter.notes(true, false).len(), 1);
        let no_multi = Features { multi_links: false, ..Features::ALL };
        assert_eq!((no_multi.notes(true, false).len(), no_multi.notes(true, true).len()), (2, 1));
        let none = Features {
            multi_links: false,
            pid_filter: false,
            sleepable: false,
            task_name_at: None,
        };
        assert_eq!(none.notes(true, true).len(), 2);
    }
}
