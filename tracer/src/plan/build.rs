//! Puts the plan together: one probe a place and reading, grouped by file.

use std::{collections::HashMap, sync::Arc};

use super::{
    AttachPlan, NotPlanned, Obstacle, PlannedFile, PlannedProbe, PlannedValue, ProbeId,
    instruction::{self, Verdict},
    program,
};
use crate::{
    resolve::{Resolution, ResolvedProbe},
    spec::{ArgSpec, ProbeSpec},
};

/// Reads the code of a probe's function from its first byte to past the probed instruction.
pub type ReadCode<'a> = &'a dyn Fn(&ResolvedProbe) -> Option<Vec<u8>>;

/// Plans every resolved probe. What cannot be probed is listed with its reason, and the rest is
/// planned; the same place read in the same way is planned once, however often it was named.
pub fn plan(resolutions: Vec<Resolution>, read_code: ReadCode<'_>) -> AttachPlan {
    let mut plan = AttachPlan::default();
    let mut files: HashMap<_, usize> = HashMap::new();
    let mut seen: HashMap<_, Vec<Arc<ProbeSpec>>> = HashMap::new();
    for resolution in resolutions {
        plan.skipped.extend(resolution.skipped.into_iter().map(|skipped| NotPlanned {
            label: skipped.label.into(),
            obstacle: Obstacle::NotProbeable(skipped.reason),
        }));
        for probe in resolution.probes {
            let at_this_place = seen.entry((probe.file.id(), probe.offset)).or_default();
            if at_this_place.iter().any(|spec| reads_alike(spec, &probe.spec)) {
                continue;
            }
            at_this_place.push(Arc::clone(&probe.spec));
            match planned(&probe, read_code) {
                Ok(planned) => {
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
                Err(obstacle) => {
                    plan.skipped.push(NotPlanned { label: probe.label.into(), obstacle });
                }
            }
        }
    }
    plan
}

fn reads_alike(one: &ProbeSpec, other: &ProbeSpec) -> bool {
    one.args == other.args && one.ret == other.ret
}

fn planned(probe: &ResolvedProbe, read_code: ReadCode<'_>) -> Result<PlannedProbe, Obstacle> {
    let arch = probe.file.arch();
    if probe.spec.offset != 0 {
        if probe.spec.ret.is_some() {
            return Err(Obstacle::ReturnInside);
        }
    }
    if probe.spec.ret.is_some() && returns_twice(probe) {
        return Err(Obstacle::ReturnsTwice);
    }
    let code = read_code(probe).ok_or(Obstacle::CodeUnreadable)?;
    if !instruction::begins_at(arch, &code, probe.spec.offset) {
        return Err(Obstacle::InsideInstruction);
    }
    let at = usize::try_from(probe.spec.offset).unwrap_or(usize::MAX).min(code.len());
    let verdict = instruction::judge(arch, &code[at..]);
    if verdict == Verdict::Misread {
        return Err(Obstacle::Misread);
    }
    let args = probe.spec.args.iter().filter_map(|arg| match arg {
        ArgSpec::Skip => None,
        ArgSpec::Read { name, ty } => {
            Some(PlannedValue { name: name.as_str().into(), ty: ty.clone() })
        }
    });
    Ok(PlannedProbe {
        label: probe.label.as_str().into(),
        doubtful: verdict == Verdict::Doubtful,
        offset: probe.offset,
        args: args.collect(),
        ret: probe.spec.ret.clone(),
        program: program::program(&probe.spec, arch)?,
    })
}

/// Functions that keep their return address to go there again. Under a return probe that is the
/// kernel's trampoline, and whoever arrives there a second time is killed.
const RETURNING_TWICE: [&str; 9] = [
    "setjmp",
    "_setjmp",
    "__setjmp",
    "sigsetjmp",
    "__sigsetjmp",
    "getcontext",
    "__getcontext",
    "swapcontext",
    "__swapcontext",
];

fn returns_twice(probe: &ResolvedProbe) -> bool {
    std::iter::once(&probe.symbol)
        .chain(&probe.aliases)
        .any(|name| RETURNING_TWICE.contains(&&**name))
}
