//! Builds the plan: one probe for each place and set of values read, grouped by file.

use std::{collections::HashMap, sync::Arc};

use super::{
    AttachPlan, Classes, Conditions, Form, KernelQuirks, Place, PlannedFile, PlannedFunction,
    PlannedProbe, PlannedValue, ProbeId, WatchedReturn,
    condition::Indices,
    instruction::{self, Verdict},
    program,
};
use faultline_resolve::{
    Arch, CopiesCode, FileOffset, ObjectFile, Resolution, ResolvedProbe, SkipReason, Skipped,
};
use faultline_spec::{ArgSpec, Condition, FunctionPattern, ProbeSpec, TypeError};

/// Reads the code of a probe's function from its first byte to past the probed instruction.
pub type ReadCode<'a> = &'a dyn Fn(&ResolvedProbe) -> Option<Vec<u8>>;

/// Plans every resolved probe. What cannot be probed is listed with its reason. A place that is named
/// several times and read in the same way is planned once.
///
/// All probes have the condition of `options`, each as its arguments are.
pub fn plan(
    resolutions: Vec<Resolution>,
    read_code: ReadCode<'_>,
    options: PlanOptions<'_>,
) -> AttachPlan {
    let mut plan = AttachPlan::default();
    let mut conditions = ConditionsBySpec::new(options.condition);
    let mut files: HashMap<_, usize> = HashMap::new();
    let mut seen: HashMap<_, Vec<Arc<ProbeSpec>>> = HashMap::new();
    for resolution in resolutions {
        plan.skipped.extend(resolution.skipped);
        let are_few = resolution.probes.len() <= FEW;
        for probe in resolution.probes {
            let at_this_place = seen.entry((probe.file.id(), probe.offset)).or_default();
            if at_this_place.iter().any(|spec| reads_alike(spec, &probe.spec)) {
                continue;
            }
            at_this_place.push(Arc::clone(&probe.spec));
            match planned(&probe, read_code, &options, &mut conditions) {
                Ok(mut planned) => {
                    planned.function = are_few.then(|| Arc::new(function(&probe)));
                    let id = ProbeId(plan.probes.len() as u32);
                    let file = *files.entry(probe.file.id()).or_insert_with(|| {
                        plan.files.push(PlannedFile {
                            file: Arc::clone(&probe.file),
                            probes: Vec::new(),
                        });
                        plan.files.len() - 1
                    });
                    plan.files[file].probes.push(id);
                    plan.probes.push(planned);
                }
                Err(reason) => {
                    plan.skipped.push(Skipped { label: probe.label.into(), reason });
                }
            }
        }
    }
    plan.conditions = conditions.conditions;
    plan
}

/// A pattern that selects more functions is about all of them, not about each.
const FEW: usize = 64;

fn function(probe: &ResolvedProbe) -> PlannedFunction {
    PlannedFunction {
        symbol: Arc::clone(&probe.symbol),
        shown: Arc::clone(&probe.display_name),
        aliases: probe.aliases.clone(),
        is_named: matches!(probe.spec.function, FunctionPattern::Name(_)),
    }
}

/// The condition for each probe that the user wrote: thousands of functions may come from one.
struct ConditionsBySpec<'a> {
    condition: Option<&'a Condition>,
    conditions: Conditions,
    last: Option<(Arc<ProbeSpec>, Arch, Indices)>,
}

impl<'a> ConditionsBySpec<'a> {
    fn new(condition: Option<&'a Condition>) -> Self {
        Self { condition, conditions: Conditions::default(), last: None }
    }

    fn of(&mut self, spec: &Arc<ProbeSpec>, arch: Arch) -> Result<Indices, SkipReason> {
        let Some(condition) = self.condition else { return Ok(Indices::NONE) };
        if let Some((last, last_arch, indices)) = &self.last
            && Arc::ptr_eq(last, spec)
            && *last_arch == arch
        {
            return Ok(*indices);
        }
        let formula = condition.typed(spec).map_err(about_another_probe)?;
        let indices = self.conditions.add(&formula, arch, spec.offset != 0)?;
        self.last = Some((Arc::clone(spec), arch, indices));
        Ok(indices)
    }
}

/// What the user asks for beyond the probes themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanOptions<'a> {
    /// Also plan what may harm the traced program.
    pub force: bool,
    /// Which calls are traced.
    pub condition: Option<&'a Condition>,
    /// How the kernel runs each form of instruction.
    pub classes: Classes,
    /// What this kernel gets wrong.
    pub quirks: KernelQuirks,
    /// Which programs would put copies of their code, with its breakpoints, in place of it.
    pub copying: Copying,
}

/// Which programs are traced from their start on, when they may replace their code by a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Copying {
    /// None: they run already.
    #[default]
    None,
    /// Those that do so without being asked.
    Unasked,
    /// Those that can, because this one is asked to.
    Asked,
}

impl Copying {
    /// Whether this file's code would be copied.
    fn applies_to(self, file: &ObjectFile) -> bool {
        match self {
            Self::None => false,
            Self::Unasked => file.copies_code() == Some(CopiesCode::Always),
            Self::Asked => file.copies_code().is_some(),
        }
    }
}

/// A condition that is wrong for every probe is refused before planning.
fn about_another_probe(error: TypeError) -> SkipReason {
    match error {
        TypeError::Absent { name, is_of_return, .. } => {
            SkipReason::ConditionUses { name, is_of_return }
        }
        TypeError::Wrong(error) => SkipReason::ConditionWrong { why: error.message().to_owned() },
    }
}

fn reads_alike(one: &ProbeSpec, other: &ProbeSpec) -> bool {
    one.args == other.args && one.ret == other.ret
}

fn planned(
    probe: &ResolvedProbe,
    read_code: ReadCode<'_>,
    options: &PlanOptions<'_>,
    conditions: &mut ConditionsBySpec<'_>,
) -> Result<PlannedProbe, SkipReason> {
    let arch = probe.file.arch();
    if !options.force && options.copying.applies_to(&probe.file) {
        return Err(SkipReason::CopiesItself);
    }
    let code = read_code(probe).ok_or(SkipReason::CodeUnreadable)?;
    if !instruction::begins_at(arch, &code, probe.spec.offset) {
        return Err(SkipReason::InsideInstruction);
    }
    let at = usize::try_from(probe.spec.offset).unwrap_or(usize::MAX).min(code.len());
    let form = Form::of(arch, code.get(at..).unwrap_or_default());
    let is_inside = probe.spec.offset != 0;
    if is_inside && form == Form::Nop5 && options.quirks.nop5_breaks_red_zone && !options.force {
        return Err(SkipReason::RedZone);
    }
    if let Some(reason) = changed_code(&probe.file, probe.offset, &code[at..], options.force) {
        return Err(reason);
    }
    let verdict = instruction::judge(arch, &code[at..]);
    if verdict == Verdict::Misread {
        return Err(SkipReason::Misread);
    }
    let args = probe.spec.args.iter().filter_map(|arg| match arg {
        ArgSpec::Skip => None,
        ArgSpec::Read { name, ty } => {
            Some(PlannedValue { name: name.as_str().into(), ty: ty.clone() })
        }
    });
    let mut program = program::program(&probe.spec, arch)?;
    let Indices { entry, at_return } = conditions.of(&probe.spec, arch)?;
    program.entry_condition = entry;
    program.return_condition = at_return;
    Ok(PlannedProbe {
        label: probe.label.as_str().into(),
        function: None,
        doubtful: verdict == Verdict::Doubtful,
        offset: probe.offset,
        function_bytes: probe.size_bytes.filter(|_| probe.spec.offset == 0),
        place: Place::unmoved(form, &options.classes),
        args: args.collect(),
        ret: probe.spec.ret.clone(),
        watched: WatchedReturn::Kernel,
        symbols: match probe.spec.ret {
            Some(_) => std::iter::once(&probe.symbol).chain(&probe.aliases).cloned().collect(),
            None => Vec::new(),
        },
        program,
    })
}

/// Why an instruction is not probed whose code is not, or need not stay, what the file says. `code` begins
/// with it.
pub(crate) fn changed_code(
    file: &ObjectFile,
    offset: FileOffset,
    code: &[u8],
    force: bool,
) -> Option<SkipReason> {
    if file.is_relocated(offset, instruction::bytes(file.arch(), code)) {
        return Some(SkipReason::Relocated);
    }
    (file.is_writable(offset) && !force).then_some(SkipReason::Writable)
}
