//! How the return of each function is watched: by the kernel's return probe, which replaces the return
//! address on the stack, or by breakpoints at the function's exits, which change nothing on the stack.
//!
//! - `code`: a file's code and data by address
//! - `exits`: where a function's calls end
//! - `registers`: what instructions do with registers
//! - `harm`: whether a replaced return address could hurt a program

mod code;
mod exits;
mod harm;
mod registers;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, ops::RangeInclusive, str::FromStr, sync::Arc};

use faultline_resolve::{Arch, ElfAddr, FileOffset, ObjectFile, SkipReason, Skipped};
use tracer_common::program::{FLAG_GOROUTINES, FLAG_TAILS};

use self::{code::Code, exits::Entered, harm::FileHarm};
pub use self::{
    exits::{ExitKind, ExitsUnknown},
    harm::{Harm, harm_in},
};
use crate::{
    AttachPlan, Class, Classes, Costs, Form, PlannedProbe, ProbeId, ReadPieces, instruction,
    stack_check::{MOST_CHECKED, stack_check},
};

/// The Go versions in which the number of a goroutine is where [`GOROUTINE_ID_AT`] says.
///
/// [`GOROUTINE_ID_AT`]: tracer_common::task::GOROUTINE_ID_AT
const KNOWN_GO: RangeInclusive<(u32, u32)> = (1, 18)..=(1, 27);

/// How to watch returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Returns {
    /// At the exits wherever a replaced return address could do harm, or where that is no dearer.
    #[default]
    Auto,
    /// At the exits, or not at all.
    Ret,
    /// By the kernel's return probe, or not at all.
    Uretprobe,
}

impl Returns {
    /// Every way, with its name.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Auto, "auto"), (Self::Ret, "ret"), (Self::Uretprobe, "uretprobe")];
}

impl fmt::Display for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(way, _)| way == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Returns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(way, _)| *way).ok_or_else(|| "there are auto, ret and uretprobe".to_owned())
    }
}

/// One exit of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exit {
    /// Where the breakpoint goes.
    pub offset: FileOffset,
    /// How the call ends there.
    pub kind: ExitKind,
    /// Others arrive there too, so a hit may belong to no call of this probe.
    pub is_shared: bool,
    /// How the kernel runs the instruction.
    pub form: Form,
}

/// How the return of a probe's function is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchedReturn {
    /// By the kernel's return probe.
    Kernel,
    /// At these instructions.
    Exits {
        /// None if it never returns.
        exits: Arc<[Exit]>,
        /// What the kernel's return probe could do; `None` if it was chosen for another reason.
        because: Option<Harm>,
    },
}

/// What decides about returns.
#[derive(Debug, Clone, Copy)]
pub struct ReturnOptions {
    /// The way that the user chose.
    pub returns: Returns,
    /// Use the kernel's return probe where nothing else is left, though it may do harm.
    pub force: bool,
    /// A return probe kills the traced programs on this kernel.
    pub kills_filtered: bool,
    /// How the kernel runs each form of instruction.
    pub classes: Classes,
    /// What a hit costs, if that was measured.
    pub costs: Option<Costs>,
}

/// Decides how the returns of a file's functions are watched. Keeps what it has found out about the file.
pub struct ReturnChooser {
    file: Arc<ObjectFile>,
    code: Code,
    harm: FileHarm,
}

impl fmt::Debug for ReturnChooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReturnChooser")
            .field("file", &self.file().shown_path())
            .finish_non_exhaustive()
    }
}

impl ReturnChooser {
    /// For this file, whose code `read_pieces` gives.
    #[must_use]
    pub fn new(file: Arc<ObjectFile>, read_pieces: ReadPieces<'_>) -> Self {
        let (harm, code) = (FileHarm::of(&file), Code::of(Arc::clone(&file), read_pieces));
        Self { file, code, harm }
    }

    /// Of which file it knows.
    #[must_use]
    pub fn file(&self) -> &ObjectFile {
        &self.file
    }

    /// Decides for each probe of the file whose return is traced how that is done. What cannot be watched
    /// without harm moves to the plan's skipped functions.
    pub fn choose(&mut self, plan: &mut AttachPlan, options: &ReturnOptions) {
        let mut refused: HashMap<ProbeId, SkipReason> = HashMap::new();
        let id = self.file().id();
        let own = plan.files.iter().filter(|file| file.file.id() == id);
        for id in own.flat_map(|file| &file.probes) {
            let probe = &mut plan.probes[id.0 as usize];
            if probe.ret.is_none() {
                continue;
            }
            match self.decide(probe, options) {
                Ok((watched, flags)) => {
                    probe.program.flags |= flags;
                    probe.watched = watched;
                }
                Err(reason) => drop(refused.insert(*id, reason)),
            }
        }
        if refused.is_empty() {
            return;
        }
        let labels = plan.probes.iter().map(|probe| Arc::clone(&probe.label)).enumerate();
        let skipped: Vec<_> = labels
            .filter_map(|(index, label)| {
                let reason = refused.get(&ProbeId(index as u32))?.clone();
                Some(Skipped { label, reason })
            })
            .collect();
        plan.skipped.extend(skipped);
        let mut ids = (0..).map(ProbeId);
        plan.retain(|_| ids.next().is_none_or(|id| !refused.contains_key(&id)));
    }

    fn decide(
        &mut self,
        probe: &PlannedProbe,
        options: &ReturnOptions,
    ) -> Result<(WatchedReturn, u8), SkipReason> {
        let address = self.file().address_of(probe.offset).map_or(0, |address| address.0);
        let entered = self.entered(address);
        let found = match self.file().arch() {
            Arch::X86_64 => entered.and_then(|entered| {
                exits::exits(&self.code, address, probe.function_bytes.unwrap_or(0), entered)
            }),
            Arch::Aarch64 => Err(ExitsUnknown::Architecture),
        };
        let names = probe.symbols.iter().map(|name| &**name);
        let harm = self.harm.of_function(names, &self.code, address, &found);
        let harm = harm.or(options.kills_filtered.then_some(Harm::KillsFiltered));
        let placed = found.and_then(|found| {
            let exits = self.placed(&found, &options.classes)?;
            let mut flags = 0;
            if found.has_tails {
                flags |= FLAG_TAILS;
            }
            if matches!(entered, Ok(Entered::Go(_))) {
                flags |= FLAG_GOROUTINES;
            }
            Ok((exits, flags))
        });
        decide(placed, harm, options)
    }

    /// Where the calls of the function at this address begin.
    fn entered(&self, address: u64) -> Result<Entered, ExitsUnknown> {
        let go = self.file().go().filter(|_| self.file().is_go_code(ElfAddr(address)));
        let Some(go) = go else { return Ok(Entered::First) };
        if !go.version.is_some_and(|version| KNOWN_GO.contains(&version)) {
            return Err(ExitsUnknown::Routines);
        }
        Ok(Entered::Go(stack_check(address, |address| self.code.code(address, MOST_CHECKED))))
    }

    /// The exits with what the kernel makes of them; or that it takes no breakpoint on one.
    fn placed(&self, found: &exits::Exits, classes: &Classes) -> Result<Arc<[Exit]>, ExitsUnknown> {
        let place = |exit: &exits::FoundExit| {
            let bytes = self.code.code(exit.address, instruction::LONGEST)?;
            let form = Form::of(Arch::X86_64, bytes);
            let is_fine = instruction::judge(Arch::X86_64, bytes) == instruction::Verdict::Fine
                && classes.of(form) != Class::Refused;
            let offset = self.file.code_offset(ElfAddr(exit.address))?;
            let bytes = instruction::bytes(Arch::X86_64, bytes);
            let is_fine = is_fine && !self.file.is_relocated(offset, bytes);
            let exit = Exit { offset, kind: exit.kind, is_shared: exit.is_shared, form };
            is_fine.then_some(exit)
        };
        let exits = found.exits.iter().map(place).collect::<Option<Arc<[Exit]>>>();
        exits.ok_or(ExitsUnknown::Unsupported)
    }
}

fn decide(
    exits: Result<(Arc<[Exit]>, u8), ExitsUnknown>,
    harm: Option<Harm>,
    options: &ReturnOptions,
) -> Result<(WatchedReturn, u8), SkipReason> {
    let at_exits = |(exits, flags), because| Ok((WatchedReturn::Exits { exits, because }, flags));
    let kernel = Ok((WatchedReturn::Kernel, 0));
    // The kernel cannot follow what these do.
    let may_force = options.force && harm != Some(Harm::HandlesReturns);
    match (options.returns, harm, exits) {
        (Returns::Ret, _, Ok(exits)) => at_exits(exits, None),
        (Returns::Ret, _, Err(unknown)) => Err(exits_unknown(unknown)),
        (Returns::Uretprobe, Some(_), Ok(_)) | (_, Some(_), Err(_)) if may_force => kernel,
        (Returns::Uretprobe, Some(harm), Ok(_)) => Err(harmful(harm, None)),
        (Returns::Auto, None, Ok(exits)) if is_no_dearer(&exits.0, options) => {
            at_exits(exits, None)
        }
        (Returns::Auto | Returns::Uretprobe, None, _) => kernel,
        (Returns::Auto, Some(harm), Ok(exits)) => at_exits(exits, Some(harm)),
        (_, Some(harm), Err(unknown)) => Err(harmful(harm, Some(unknown))),
    }
}

/// Whether a return at these exits costs no more than one by the kernel's return probe.
fn is_no_dearer(exits: &[Exit], options: &ReturnOptions) -> bool {
    let Some(costs) = options.costs else { return false };
    let dearest = exits.iter().map(|exit| costs.of_form(exit.form).unwrap_or(u64::MAX)).max();
    let dearest = dearest.unwrap_or(0);
    // What is shared costs others something as well.
    !exits.iter().any(|exit| exit.is_shared) && dearest <= costs.return_ns
}

fn exits_unknown(unknown: ExitsUnknown) -> SkipReason {
    SkipReason::ExitsUnknown { why: unknown.text() }
}

fn harmful(harm: Harm, unknown: Option<ExitsUnknown>) -> SkipReason {
    let exits = unknown.map(ExitsUnknown::text);
    match harm {
        Harm::HandlesReturns => SkipReason::HandlesReturns { exits },
        Harm::MovesStacks => SkipReason::MovesStacks { exits },
        Harm::Unwinds => SkipReason::Unwinds { exits },
        Harm::KillsFiltered => SkipReason::KillsFiltered { exits },
        Harm::SwitchesStacks | Harm::CallsBack | Harm::CallsOthers => {
            SkipReason::MayBeUnwound { why: harm.text(), exits }
        }
    }
}

impl ExitsUnknown {
    /// Why its exits are not known, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NoCode => "its size is not known",
            Self::Undecodable => "part of its code could not be decoded",
            Self::JumpsAnywhere => "it has a jump that may go anywhere",
            Self::JumpsToEntry => "it jumps back to its entry",
            Self::TooMany => "it has too many exits",
            Self::Unsupported => "the kernel supports no breakpoint on one of them",
            Self::Empty | Self::OnlyReturns => "its first instruction is its exit",
            Self::Routines => "its goroutines cannot be told apart: Go 1.18 to 1.27 are known",
            Self::SwitchesStacks => "it changes to another stack",
            Self::Architecture => "this architecture's code is not decoded",
        }
    }
}

impl PlannedProbe {
    /// Whether its return is traced, and the kernel's return probe does it.
    #[must_use]
    pub fn replaces_return(&self) -> bool {
        self.ret.is_some() && self.watched == WatchedReturn::Kernel
    }

    /// Where its return is watched, if that is at the function's exits.
    #[must_use]
    pub fn exits(&self) -> &[Exit] {
        match &self.watched {
            WatchedReturn::Exits { exits, .. } if self.ret.is_some() => exits,
            _ => &[],
        }
    }
}
