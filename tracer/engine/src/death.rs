//! What a traced process died of, and what of it could have been faultline's doing.
//!
//! Takes what the kernel side [noted](tracer_common::death) and what was probed; gives a [`DeathReport`],
//! which prints itself. It accuses nothing that cannot have been: a return probe that was never hit has
//! replaced no return address.

use std::{collections::HashSet, fmt, path::PathBuf, sync::Arc};

use tracer_common::death::Death;

use faultline_plan::{AttachPlan, PlannedProbe, WatchedReturn};
use faultline_resolve::{
    FileOffset, RuntimeAddr,
    process::{Mapping, MappingSource},
};
use faultline_spec::units::counted;

/// How a traced process died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeathReport {
    /// The process; 0 if it is outside of faultline's PID namespace.
    pub pid: u32,
    /// The signal's number.
    pub signal: i32,
    /// Where it was then, if that is known.
    pub at: Option<RuntimeAddr>,
    /// What it had mapped there: a file, and the offset in it.
    pub place: Option<(PathBuf, u64)>,
    /// What of it may have been faultline's doing.
    pub suspects: Vec<Suspect>,
}

/// Something of faultline's that may have killed a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspect {
    /// It executed a breakpoint where the kernel knows of none, and probes are at this place of a page.
    CopiedCode {
        /// These probes.
        probes: Vec<Arc<str>>,
    },
    /// It executed a breakpoint that is at no probe's place.
    OtherBreakpoint,
    /// It was at the address that a return probe puts in the place of the return address.
    Trampoline {
        /// The probes that did.
        probes: Vec<Arc<str>>,
    },
    /// These probes replaced return addresses.
    Returns {
        /// The probes that did.
        probes: Vec<Arc<str>>,
    },
    /// A seccomp filter refused a system call that the kernel makes for a probe.
    Refused {
        /// The call.
        syscall: &'static str,
    },
    /// It has a seccomp filter, which may refuse such a call.
    Filter,
    /// It died inside a function that was probed.
    InFunction {
        /// The probe.
        probe: Arc<str>,
    },
    /// Its memory cgroup ran out of memory.
    Memory {
        /// How many processes the kernel killed for it since the probes were attached.
        kills: u64,
        /// Pages of code that were copied for breakpoints.
        pages: u64,
    },
}

/// What else is known of a dead process.
#[derive(Debug, Clone, Default)]
pub struct Circumstances<'c> {
    /// Its mappings when it was last looked at.
    pub maps: Option<&'c [Mapping]>,
    /// Processes of its memory cgroup that the kernel killed since the probes were attached.
    pub memory_kills: u64,
    /// It had a seccomp filter.
    pub is_filtered: bool,
}

/// Where the kernel maps the page that a replaced return address points to: the last one of the address
/// space with four levels of page tables, but for a guard page.
const TRAMPOLINE: std::ops::Range<u64> = 0x7fff_ffff_e000..0x7fff_ffff_f000;
const PAGE: u64 = 4096;
/// System calls that the kernel makes for probes on x86-64: Linux 6.11 and 6.18.
const PROBE_CALLS: [(i32, &str); 2] = [(335, "uretprobe"), (336, "uprobe")];

impl DeathReport {
    /// What is known about the end of a process by a signal. `noted` is what the kernel side noted; `hits`
    /// are those of each probe.
    #[must_use]
    pub fn new(
        (pid, signal): (u32, i32),
        noted: Option<&Death>,
        plan: &AttachPlan,
        hits: &[u64],
        known: &Circumstances<'_>,
    ) -> Self {
        let at = noted.map(|death| death.instruction).filter(|at| *at != 0);
        let place = at.and_then(|at| place(known.maps?, at));
        let mut suspects = Vec::new();
        let replaced = labels(plan, |index, probe| {
            by_return_probe(probe) && hits.get(index).is_some_and(|hits| *hits != 0)
        });
        let breakpoint = noted.filter(|_| signal == libc::SIGTRAP).and_then(breakpoint);
        if let Some(breakpoint) = breakpoint {
            let is_here = |place: FileOffset| place.0 % PAGE == breakpoint % PAGE;
            let probes = labels(plan, |_, probe| places(probe).any(is_here));
            suspects.push(match &probes[..] {
                [] => Suspect::OtherBreakpoint,
                _ => Suspect::CopiedCode { probes },
            });
        }
        let refused = noted
            .filter(|_| signal == libc::SIGSYS)
            .and_then(|death| PROBE_CALLS.iter().find(|(number, _)| *number == death.syscall));
        let in_trampoline = noted.is_some_and(|death| {
            [death.instruction, death.address].iter().any(|at| TRAMPOLINE.contains(at))
        });
        if let Some((_, syscall)) = refused.filter(|_| cfg!(target_arch = "x86_64")) {
            suspects.push(Suspect::Refused { syscall });
        } else if in_trampoline && !replaced.is_empty() {
            suspects.push(Suspect::Trampoline { probes: replaced });
        } else if !replaced.is_empty() && signal != libc::SIGKILL {
            suspects.push(Suspect::Returns { probes: replaced });
        } else if !replaced.is_empty() && known.is_filtered {
            suspects.push(Suspect::Filter);
        }
        if breakpoint.is_none()
            && let Some(probe) = place.as_ref().and_then(|place| probe_at(plan, place))
        {
            suspects.push(Suspect::InFunction { probe });
        }
        if signal == libc::SIGKILL && known.memory_kills != 0 {
            suspects.push(Suspect::Memory { kills: known.memory_kills, pages: pages(plan) });
        }
        Self { pid, signal, at: at.map(RuntimeAddr), place, suspects }
    }

    /// Whether it says something of a process that was not known to be probed: only evidence counts then.
    #[must_use]
    pub fn is_conclusive(&self) -> bool {
        self.suspects.iter().any(|suspect| {
            matches!(
                suspect,
                Suspect::CopiedCode { .. } | Suspect::Trampoline { .. } | Suspect::Refused { .. }
            )
        })
    }

    /// The signal's name.
    #[must_use]
    pub fn signal_name(&self) -> String {
        let name = match self.signal {
            libc::SIGILL => "SIGILL",
            libc::SIGTRAP => "SIGTRAP",
            libc::SIGABRT => "SIGABRT",
            libc::SIGBUS => "SIGBUS",
            libc::SIGFPE => "SIGFPE",
            libc::SIGSEGV => "SIGSEGV",
            libc::SIGSYS => "SIGSYS",
            libc::SIGKILL => "SIGKILL",
            other => return format!("signal {other}"),
        };
        name.to_owned()
    }
}

/// Whether the probe's return is traced by a return address that the kernel replaces.
fn by_return_probe(probe: &PlannedProbe) -> bool {
    probe.ret.is_some() && probe.watched == WatchedReturn::Kernel
}

/// Where a probe's breakpoints are.
fn places(probe: &PlannedProbe) -> impl Iterator<Item = FileOffset> {
    let exits = match &probe.watched {
        WatchedReturn::Exits { exits, .. } => &exits[..],
        WatchedReturn::Kernel => &[],
    };
    std::iter::once(probe.offset).chain(exits.iter().map(|exit| exit.offset))
}

fn labels(plan: &AttachPlan, keep: impl Fn(usize, &PlannedProbe) -> bool) -> Vec<Arc<str>> {
    let probes = plan.probes.iter().enumerate().filter(|(index, probe)| keep(*index, probe));
    probes.map(|(_, probe)| Arc::clone(&probe.label)).collect()
}

/// The address of the breakpoint that was executed, if one was.
fn breakpoint(death: &Death) -> Option<u64> {
    // On x86-64 the instruction pointer is past it; elsewhere it is at it.
    const INT3: u8 = 0xcc;
    if cfg!(target_arch = "x86_64") {
        (death.before == INT3).then(|| death.instruction.wrapping_sub(1))
    } else {
        (death.instruction != 0).then_some(death.instruction)
    }
}

fn place(maps: &[Mapping], at: u64) -> Option<(PathBuf, u64)> {
    let holds = |mapping: &&Mapping| mapping.start.0 <= at && at < mapping.end.0;
    let mapping = maps.iter().find(holds)?;
    let MappingSource::File { path, .. } = &mapping.source else { return None };
    Some((path.clone(), at - mapping.start.0 + mapping.offset.0))
}

/// The probe on the function that holds an offset in a file.
fn probe_at(plan: &AttachPlan, (path, offset): &(PathBuf, u64)) -> Option<Arc<str>> {
    let file = plan.files.iter().find(|of| of.file.shown_path() == path)?;
    let probes = file.probes.iter().filter_map(|id| plan.probes.get(id.0 as usize));
    let holds = |probe: &&PlannedProbe| {
        let entry = probe.offset.0.saturating_sub(probe.place.moved_bytes);
        probe.function_bytes.is_some_and(|bytes| (entry..entry + bytes).contains(offset))
    };
    probes.into_iter().find(holds).map(|probe| Arc::clone(&probe.label))
}

/// How many pages of code hold breakpoints. Each process that maps them has copies of its own.
fn pages(plan: &AttachPlan) -> u64 {
    let pages = plan.files.iter().flat_map(|file| {
        let probes = file.probes.iter().filter_map(|id| plan.probes.get(id.0 as usize));
        probes.flat_map(|probe| places(probe).map(|place| (file.file.id(), place.0 / PAGE)))
    });
    pages.collect::<HashSet<_>>().len() as u64
}

impl Suspect {
    /// Its name in JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CopiedCode { .. } => "copied_code",
            Self::OtherBreakpoint => "other_breakpoint",
            Self::Trampoline { .. } => "trampoline",
            Self::Returns { .. } => "returns",
            Self::Refused { .. } => "refused_call",
            Self::Filter => "seccomp_filter",
            Self::InFunction { .. } => "in_function",
            Self::Memory { .. } => "memory",
        }
    }

    /// The probes that it is about.
    #[must_use]
    pub fn probes(&self) -> &[Arc<str>] {
        match self {
            Self::CopiedCode { probes }
            | Self::Trampoline { probes }
            | Self::Returns { probes } => probes,
            Self::InFunction { probe } => std::slice::from_ref(probe),
            _ => &[],
        }
    }
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CopiedCode { probes } => write!(
                f,
                "it executed a breakpoint where the kernel knows of none, as in code that was copied \
                 while {} was probed",
                Labels(probes, "or")
            ),
            Self::OtherBreakpoint => f.write_str(
                "it executed a breakpoint that is at no probe's place: its own, or a debugger's",
            ),
            Self::Trampoline { probes } => write!(
                f,
                "it used a return address that a return probe had replaced, of {}",
                Labels(probes, "or")
            ),
            Self::Returns { probes } => write!(
                f,
                "return probes had replaced return addresses, of {}: exceptions, stack switches and \
                 programs that inspect their stacks do not survive that (use `--returns ret`)",
                Labels(probes, "and")
            ),
            Self::Refused { syscall } => write!(
                f,
                "its seccomp filter refused the system call `{syscall}`, which the kernel makes for a \
                 probe"
            ),
            Self::Filter => f.write_str(
                "it has a seccomp filter, which may refuse the system call `uretprobe` that the kernel \
                 makes for a traced return",
            ),
            Self::InFunction { probe } => {
                write!(f, "it was inside a probed function, `{}`", probe.escape_debug())
            }
            Self::Memory { kills, pages } => write!(
                f,
                "its memory cgroup was out of memory, and the kernel killed {} in it; breakpoints cost \
                 each process a copy of {} of code ({} KiB)",
                counted(*kills as usize, "process"),
                counted(*pages as usize, "page"),
                pages * PAGE / 1024
            ),
        }
    }
}

impl fmt::Display for DeathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => f.write_str("a probed process")?,
            pid => write!(f, "process {pid}")?,
        }
        write!(f, " died of {} while it was probed", self.signal_name())?;
        match (&self.place, self.at) {
            (Some((path, offset)), _) => write!(f, ", at {}+{offset:#x}", path.display())?,
            (None, Some(at)) => write!(f, ", at {at}")?,
            (None, None) => {}
        }
        if self.suspects.is_empty() {
            f.write_str("; nothing points to faultline: no return address was replaced")?;
            return match self.place {
                Some(_) => f.write_str(", and it was in no probed function"),
                None => Ok(()),
            };
        }
        let own = self.suspects.iter().all(|suspect| matches!(suspect, Suspect::OtherBreakpoint));
        f.write_str(if own { ": " } else { "; faultline may be the cause: " })?;
        for (index, suspect) in self.suspects.iter().enumerate() {
            let before = if index == 0 { "" } else { "; " };
            write!(f, "{before}{suspect}")?;
        }
        Ok(())
    }
}

/// `a`, `b` and 3 more.
struct Labels<'l>(&'l [Arc<str>], &'static str);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let Self(labels, and) = self;
        let shown = &labels[..labels.len().min(SHOWN)];
        for (index, label) in shown.iter().enumerate() {
            let before = match index {
                0 => String::new(),
                _ if index + 1 == labels.len() => format!(" {and} "),
                _ => ", ".to_owned(),
            };
            write!(f, "{before}`{}`", label.escape_debug())?;
        }
        match labels.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " {and} {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use faultline_plan::testbed::planned;

    use super::*;

    fn plan() -> AttachPlan {
        let mut plain = planned("app:plain");
        plain.offset = FileOffset(0x1234);
        let mut traced = planned("app:traced() -> i32");
        traced.offset = FileOffset(0x2345);
        AttachPlan { probes: vec![plain, traced], ..AttachPlan::default() }
    }

    fn report(signal: i32, noted: Option<&Death>, hits: &[u64]) -> String {
        let known = Circumstances::default();
        DeathReport::new((7, signal), noted, &plan(), hits, &known).to_string()
    }

    /// Check that a breakpoint in copied code is recognised by its place in the page, and another one is not
    /// taken for it.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn breakpoints_in_copied_code() {
        let mut death = Death { instruction: 0x7000_0235, before: 0xcc, ..Death::default() };
        assert_eq!(
            report(libc::SIGTRAP, Some(&death), &[0, 0]),
            "process 7 died of SIGTRAP while it was probed, at 0x70000235; faultline may be the cause: \
             it executed a breakpoint where the kernel knows of none, as in code that was copied while \
             `app:plain` was probed"
        );
        death.instruction += 1;
        assert_eq!(
            report(libc::SIGTRAP, Some(&death), &[0, 0]),
            "process 7 died of SIGTRAP while it was probed, at 0x70000236: it executed a breakpoint \
             that is at no probe's place: its own, or a debugger's"
        );
    }

    /// Check that only a return probe that was hit is named, and that without one nothing is accused.
    #[test]
    fn return_probes_are_named_if_they_were_hit() {
        let death = Death { instruction: 0x1000, ..Death::default() };
        let hit = report(libc::SIGABRT, Some(&death), &[3, 1]);
        assert!(
            hit.contains("had replaced return addresses, of `app:traced`: exceptions"),
            "{hit}"
        );
        assert_eq!(
            report(libc::SIGSEGV, Some(&death), &[3, 0]),
            "process 7 died of SIGSEGV while it was probed, at 0x1000; nothing points to faultline: no \
             return address was replaced"
        );
        let in_trampoline = Death { instruction: 0x7fff_ffff_e001, ..Death::default() };
        let text = report(libc::SIGILL, Some(&in_trampoline), &[0, 1]);
        let said = "it used a return address that a return probe had replaced, of `app:traced`";
        assert!(text.ends_with(said), "{text}");
    }

    /// Check that a filter's refusal of the kernel's own call is recognised, and that of another is not.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn refused_calls_are_named() {
        let refused = Death { syscall: 335, ..Death::default() };
        let text = report(libc::SIGSYS, Some(&refused), &[0, 1]);
        let said = "its seccomp filter refused the system call `uretprobe`, which the kernel makes for \
                    a probe";
        assert!(text.ends_with(said), "{text}");
        let other = Death { syscall: 39, ..Death::default() };
        assert!(!report(libc::SIGSYS, Some(&other), &[0, 0]).contains("filter"));
    }
}
