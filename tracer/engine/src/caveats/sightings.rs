//! What is seen of the traced processes while they live: their mappings, and whether they had children.

use std::{fs, path::PathBuf};

use faultline_resolve::{
    Pid,
    process::{self, Mapping},
};

use super::{code_of_files, linked};
use crate::links::Process;

/// What was seen of the traced processes.
#[derive(Debug, Default)]
pub struct Sightings {
    processes: Vec<Seen>,
    /// They ran before the probes were attached.
    ran_before: bool,
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
    /// It was started for this run, and may not have executed its program yet.
    is_command: bool,
}

impl Sightings {
    /// Every process is traced.
    #[must_use]
    pub fn everyone() -> Self {
        Self { processes: Vec::new(), ran_before: true }
    }

    /// These processes are traced, from now on.
    #[must_use]
    pub fn running(processes: &[Process]) -> Self {
        let seen = processes.iter().map(|process| Seen::new(*process, None));
        let mut all = Self { processes: seen.collect(), ran_before: true };
        all.look();
        all
    }

    /// A command is traced from its first instruction on.
    #[must_use]
    pub fn command(process: Process, program: PathBuf) -> Self {
        Self { processes: vec![Seen::new(process, Some(program))], ran_before: false }
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

    pub(super) fn of_everyone(&self) -> bool {
        self.processes.is_empty()
    }

    pub(super) fn ran_before(&self) -> bool {
        self.ran_before
    }

    pub(super) fn processes(&self) -> &[Seen] {
        &self.processes
    }

    /// Those that had children.
    pub(super) fn parents(&self) -> Vec<Pid> {
        self.processes.iter().filter(|seen| seen.had_children).map(Seen::pid).collect()
    }
}

impl Seen {
    fn new(process: Process, program: Option<PathBuf>) -> Self {
        // A command's process was forked from this one, and has had no children of its own.
        let is_command = program.is_some();
        let faults_of_children = is_command.then_some(0);
        Self { process, program, maps: None, faults_of_children, had_children: false, is_command }
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
