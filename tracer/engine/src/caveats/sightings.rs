//! What is seen of the traced processes while they live: their mappings, and whether they had children.

use std::{fs, path::PathBuf};

use tracer_common::death::{Death, SIGNALS};

use faultline_plan::{AttachPlan, ProbeId};

use faultline_resolve::{
    ObjectFile, Pid,
    process::{self, Mapping},
};

use super::{code_of_files, is_of, linked, memory::MemoryKills};
use crate::{
    death::{Circumstances, DeathReport},
    kernel::HeldProcess,
    links::Process,
};

/// What was seen of the traced processes.
#[derive(Debug, Default)]
pub struct Sightings {
    processes: Vec<Seen>,
    /// They ran before the probes were attached.
    ran_before: bool,
    /// Their children are traced, too.
    follows: bool,
}

/// What was seen of one process.
#[derive(Debug)]
pub(super) struct Seen {
    process: Process,
    /// Its program, as it names it.
    program: Option<PathBuf>,
    /// Its code when it was last looked at.
    maps: Option<Vec<Mapping>>,
    /// Page faults of children that it has waited for: each child has some.
    faults_of_children: Option<u64>,
    had_children: bool,
    /// How it ends can be asked for, if it is not a child of this process.
    held: Option<HeldProcess>,
    /// What its memory cgroup does to it.
    memory: Option<MemoryKills>,
    is_filtered: bool,
    /// It was started for this run, and may not have executed its program yet.
    is_command: bool,
}

impl Sightings {
    /// Every process is traced.
    #[must_use]
    pub fn everyone() -> Self {
        Self { ran_before: true, ..Self::default() }
    }

    /// These processes are traced, from now on.
    #[must_use]
    pub fn running(processes: &[Process]) -> Self {
        let seen = processes.iter().map(|process| Seen::new(*process, None));
        let mut all = Self { processes: seen.collect(), ran_before: true, follows: false };
        all.look();
        all
    }

    /// A command is traced from its first instruction on.
    #[must_use]
    pub fn command(process: Process, program: PathBuf) -> Self {
        Self { processes: vec![Seen::new(process, Some(program))], ..Self::default() }
    }

    /// The same, and their children are traced, too.
    #[must_use]
    pub fn following(self, follows: bool) -> Self {
        Self { follows, ..self }
    }

    /// Looks at those that still run.
    pub fn look(&mut self) {
        self.processes.iter_mut().for_each(Seen::look);
    }

    /// Looks at a process that has ended and that its parent has not waited for.
    pub fn look_at_dead(&mut self, stat: &[u8]) {
        if let [seen] = &mut self.processes[..] {
            seen.note_children(stat);
        }
    }

    /// How those died that a signal has ended, but for signals that others use to end a process. `noted` is
    /// what the kernel side noted, `command` the signal that ended the command.
    #[must_use]
    pub fn deaths(
        &self,
        plan: &AttachPlan,
        hits: &[u64],
        noted: &[(u32, Death)],
        command: Option<i32>,
    ) -> Vec<DeathReport> {
        let known = Circumstances::default();
        let report = |(pid, death): &(u32, Death)| {
            DeathReport::new((*pid, death.signal as i32), Some(death), plan, hits, &known)
        };
        // Without processes every one is traced, and most of them were never hit.
        let everyone = self.of_everyone();
        let is_seen = |pid: u32| self.processes.iter().any(|seen| seen.pid().get() == pid);
        let others = noted.iter().filter(|(pid, _)| !is_seen(*pid)).map(report);
        let others = others.filter(|report| !everyone || report.is_conclusive());
        let reports = self.processes.iter().filter_map(|seen| {
            let pid = seen.pid().get();
            let noted = noted.iter().find(|(of, _)| *of == pid).map(|(_, death)| death);
            let signal = command
                .filter(|_| seen.is_command)
                .or_else(|| Some(noted?.signal as i32))
                .or_else(|| seen.held.as_ref()?.ended_by())?;
            let known = Circumstances {
                maps: seen.maps(),
                memory_kills: seen.memory.as_ref().map_or(0, MemoryKills::so_far),
                is_filtered: seen.is_filtered,
            };
            let noted = noted.filter(|death| death.signal as i32 == signal);
            let report = DeathReport::new((pid, signal), noted, plan, hits, &known);
            let is_fault =
                u32::try_from(signal).is_ok_and(|bit| bit < 64 && SIGNALS >> bit & 1 == 1);
            (is_fault || signal == libc::SIGKILL && !report.suspects.is_empty()).then_some(report)
        });
        reports.chain(others).collect()
    }

    pub(super) fn of_everyone(&self) -> bool {
        self.processes.is_empty()
    }

    pub(super) fn ran_before(&self) -> bool {
        self.ran_before
    }

    pub(super) fn processes(&self) -> &[Seen] {
        &self.processes
    }

    /// Their children, of which nothing is seen, are traced, too.
    pub(super) fn follows(&self) -> bool {
        self.follows
    }

    /// A process that maps the file, but not where the probe's breakpoint is.
    pub(super) fn without_code(
        &self,
        file: &ObjectFile,
        plan: &AttachPlan,
        probe: ProbeId,
    ) -> Option<Pid> {
        let offset = plan.probes.get(probe.0 as usize)?.offset.0;
        let holds = |mapping: &Mapping| {
            let bytes = mapping.end.0.saturating_sub(mapping.start.0);
            (mapping.offset.0..mapping.offset.0.saturating_add(bytes)).contains(&offset)
        };
        let is_without = |seen: &&Seen| {
            let maps = seen.maps().unwrap_or_default();
            let mut of_file = maps.iter().filter(|mapping| is_of(file, mapping)).peekable();
            of_file.peek().is_some() && !of_file.any(holds)
        };
        self.processes.iter().find(is_without).map(Seen::pid)
    }

    /// Those that had children that are not traced.
    pub(super) fn parents(&self) -> Vec<Pid> {
        let processes = self.processes.iter().filter(|_| !self.follows);
        processes.filter(|seen| seen.had_children).map(Seen::pid).collect()
    }
}

impl Seen {
    fn new(process: Process, program: Option<PathBuf>) -> Self {
        // A command's process was forked from this one, and has had no children of its own.
        let is_command = program.is_some();
        let faults_of_children = is_command.then_some(0);
        Self {
            process,
            program,
            maps: None,
            faults_of_children,
            had_children: false,
            held: HeldProcess::open(process.pid).filter(|_| !is_command),
            memory: MemoryKills::of(process.pid),
            is_filtered: false,
            is_command,
        }
    }

    fn look(&mut self) {
        let pid = self.pid();
        let Some(program) = linked(pid, "exe").filter(|_| !self.process.has_ended()) else {
            return;
        };
        if self.is_command && std::env::current_exe().is_ok_and(|own| own == program) {
            return;
        }
        if let Ok(maps) = process::maps(pid) {
            let maps = code_of_files(maps);
            if !maps.is_empty() {
                self.maps = Some(maps);
            }
        }
        // A command may have executed another program, and is known by the name it was given otherwise.
        let name = |path: &PathBuf| path.file_name().map(ToOwned::to_owned);
        if self.program.as_ref().is_none_or(|known| name(known) != name(&program)) {
            self.program = Some(program);
        }
        if let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) {
            self.note_children(&stat);
        }
        self.is_filtered |= process::has_seccomp_filter(pid).unwrap_or(false);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        self.had_children |= children.is_ok_and(|children| !children.trim().is_empty());
    }

    fn note_children(&mut self, stat: &[u8]) {
        let faults = process::faults_of_children(stat);
        let before = *self.faults_of_children.get_or_insert(faults.unwrap_or(0));
        self.had_children |= faults.is_some_and(|faults| faults > before);
    }

    pub(super) fn pid(&self) -> Pid {
        self.process.pid
    }

    pub(super) fn maps(&self) -> Option<&[Mapping]> {
        self.maps.as_deref()
    }

    /// Its program: as it names it, and as this process can open it.
    pub(super) fn program(&self) -> Option<(PathBuf, PathBuf)> {
        let shown = self.program.clone()?;
        let own = PathBuf::from(format!("/proc/{}/exe", self.pid()));
        let openable = if self.process.has_ended() || !own.exists() { shown.clone() } else { own };
        Some((shown, openable))
    }
}
