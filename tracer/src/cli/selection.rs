//! What every tracing command shares: which probes, in which processes, for how long.

use std::{cell::RefCell, time::Duration};

use anyhow::anyhow;
use clap::Args;

use super::{Failure, report};
use crate::{
    kernel::Scope,
    plan::{self, AttachPlan, NotPlanned},
    resolve::{FileId, FileOffset, Pid, ResolveError, ResolvedProbe, Resolver, View, process},
    sink::summary::SkippedProbe,
    spec::{ProbeSpec, units},
};

/// Longest instruction of any machine, for reading code past an offset.
const LONGEST_INSTRUCTION: u64 = 15;

/// Which probes, in which processes, for how long.
#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// What to probe: TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]
    #[arg(required = true, value_name = "PROBE")]
    probes: Vec<String>,

    /// Only in this process and its threads, not in its children; names and paths are resolved as
    /// it sees them (repeatable)
    #[arg(short = 'p', long = "pid", value_name = "PID")]
    pids: Vec<Pid>,

    /// Start this command, trace it from its first instruction, and stop with it; its standard
    /// output goes to standard error, so that standard output has events only
    #[arg(short = 'c', long = "command", value_name = "COMMAND", conflicts_with = "pids")]
    command: Option<String>,

    /// Stop after this time (10s, 500ms, 2h)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) duration: Option<Duration>,

    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,

    /// Show what would be attached, and attach nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Trace returns also in C++ and Rust programs: one through whose traced function an exception
    /// or panic passes is ended by it
    #[arg(long)]
    force: bool,

    /// Fail if any function cannot be probed, instead of tracing the rest
    #[arg(long)]
    pub(super) strict: bool,
}

fn duration(text: &str) -> Result<Duration, units::UnitError> {
    units::parse_duration(text)
}

/// What was asked for, found on this machine.
#[derive(Debug)]
pub(super) struct Selected {
    /// What to attach.
    pub(super) plan: AttachPlan,
    /// In which processes; a command's process is added when it is started.
    pub(super) pids: Vec<Pid>,
    /// The command to start.
    pub(super) command: Option<Vec<String>>,
    /// What is not probed, and why.
    pub(super) skipped: Vec<SkippedProbe>,
}

impl Selected {
    /// In which processes the breakpoints are set.
    pub(super) fn scope(&self) -> Scope {
        if self.pids.is_empty() { Scope::AllProcesses } else { Scope::Processes(self.pids.clone()) }
    }
}

impl SelectionArgs {
    /// Parses, resolves and plans. What cannot be probed is told on standard error.
    pub(super) fn select(&self) -> Result<Selected, Failure> {
        let specs = self.specs()?;
        let command = self.command.as_deref().map(command_words).transpose()?;
        let views = if self.pids.is_empty() {
            vec![View::Host]
        } else {
            for pid in &self.pids {
                check_process(*pid)?;
            }
            self.pids.iter().copied().map(View::Process).collect()
        };
        let mut resolutions = Vec::new();
        let mut not_found = Vec::new();
        for view in views {
            let mut resolver = Resolver::new(view);
            for spec in &specs {
                match resolver.resolve(spec) {
                    Ok(resolution) => resolutions.push(resolution),
                    Err(error) => not_found.push((spec.to_string(), error)),
                }
            }
        }
        let code = CodeReader::default();
        let plan = plan::plan(resolutions, &|probe| code.read(probe), self.force);
        self.judge(&plan, &not_found)?;
        let not_found = not_found
            .into_iter()
            .map(|(probe, error)| SkippedProbe { probe, reason: error.to_string() });
        let skipped = not_found.chain(plan.skipped.iter().map(report::skipped)).collect();
        Ok(Selected { plan, pids: self.pids.clone(), command, skipped })
    }

    fn specs(&self) -> Result<Vec<ProbeSpec>, Failure> {
        self.probes
            .iter()
            .map(|text| {
                text.parse::<ProbeSpec>().map_err(|error| Failure::Usage(error.to_string()))
            })
            .collect()
    }

    /// Tells what is not probed; fails if that is all there is, or with `--strict` anything.
    fn judge(
        &self,
        plan: &AttachPlan,
        not_found: &[(String, ResolveError)],
    ) -> Result<(), Failure> {
        let nothing_left = plan.probes.is_empty();
        let missing = not_found.len() + plan.skipped.len();
        if nothing_left || self.strict {
            // One reason is the error itself; of several, each is told and the error counts them.
            match (not_found, plan.skipped.as_slice()) {
                ([(_, error)], []) => return Err(anyhow!("{error}").into()),
                ([], [skipped]) => {
                    let NotPlanned { label, obstacle } = skipped;
                    return Err(anyhow!("cannot probe `{label}`: {obstacle}").into());
                }
                _ => {}
            }
        }
        for (probe, error) in not_found {
            eprintln!("warning: `{}` is not traced: {error}", probe.escape_debug());
        }
        tell_skipped(&plan.skipped);
        if nothing_left {
            return Err(anyhow!("nothing to trace: none of the probes can be attached").into());
        }
        if self.strict && missing != 0 {
            let what = if missing == 1 { "probe" } else { "probes" };
            return Err(anyhow!("{missing} {what} cannot be attached (--strict)").into());
        }
        Ok(())
    }
}

/// Tells which functions are not probed: the first few by name, the rest by number.
pub(super) fn tell_skipped(skipped: &[NotPlanned]) {
    const SHOWN: usize = 10;
    for NotPlanned { label, obstacle } in skipped.iter().take(SHOWN) {
        eprintln!("warning: `{}` is not traced: {obstacle}", label.escape_debug());
    }
    if skipped.len() > SHOWN {
        eprintln!(
            "warning: {} more are not traced (--json lists them in its summary)",
            skipped.len() - SHOWN
        );
    }
}

fn check_process(pid: Pid) -> Result<(), Failure> {
    match process::thread_group(pid) {
        Ok(group) if group == pid => Ok(()),
        Ok(group) => {
            Err(Failure::Usage(format!("{pid} is a thread of process {group} (use `-p {group}`)")))
        }
        Err(_) if !process::exists(pid) => Err(anyhow!("no process {pid}").into()),
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot look at process {pid}")).into())
        }
    }
}

/// The words of a command, split as a shell would.
fn command_words(command: &str) -> Result<Vec<String>, Failure> {
    match shlex::split(command) {
        Some(words) if !words.is_empty() => Ok(words),
        Some(_) => Err(Failure::Usage("`-c` needs a command".to_owned())),
        None => Err(Failure::Usage(format!("a quote in `-c {command}` is not closed"))),
    }
}

/// Reads code in pieces that serve many functions: they come by rising address.
#[derive(Default)]
struct CodeReader {
    piece: RefCell<Option<Piece>>,
}

struct Piece {
    file: FileId,
    start: u64,
    code: Vec<u8>,
}

const PIECE_BYTES: usize = 64 * 1024;

impl CodeReader {
    /// The code of the probe's function, from its first byte to past the probed instruction.
    fn read(&self, probe: &ResolvedProbe) -> Option<Vec<u8>> {
        let start = probe.offset.0.checked_sub(probe.spec.offset)?;
        let bytes = usize::try_from(probe.spec.offset + LONGEST_INSTRUCTION).ok()?;
        let mut piece = self.piece.borrow_mut();
        if let Some(piece) = &*piece
            && piece.file == probe.file.id()
            && let Some(at) = start.checked_sub(piece.start)
            && let Some(code) = piece.code.get(usize::try_from(at).ok()?..)
            && code.len() >= bytes
        {
            return Some(code[..bytes].to_vec());
        }
        let code = probe.file.read_code(FileOffset(start), PIECE_BYTES.max(bytes)).ok()?;
        let wanted = code.get(..bytes).unwrap_or(&code).to_vec();
        *piece = Some(Piece { file: probe.file.id(), start, code });
        Some(wanted)
    }
}
