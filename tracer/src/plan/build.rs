//! Puts the plan together: one probe a place and reading, grouped by file.

use std::{collections::HashMap, sync::Arc};

use super::{
    AttachPlan, NotPlanned, Obstacle, PlannedFile, PlannedProbe, PlannedValue, ProbeId, program,
};
use crate::{
    resolve::{Arch, Resolution, ResolvedProbe},
    spec::{ArgSpec, ProbeSpec},
};

/// Reads the code of a probe's function from its first byte up to past the probed instruction.
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
        let code = read_code(probe).ok_or(Obstacle::CodeUnreadable)?;
        if !begins_instruction(arch, &code, probe.spec.offset) {
            return Err(Obstacle::InsideInstruction);
        }
    }
    let args = probe.spec.args.iter().filter_map(|arg| match arg {
        ArgSpec::Skip => None,
        ArgSpec::Read { name, ty } => {
            Some(PlannedValue { name: name.as_str().into(), ty: ty.clone() })
        }
    });
    Ok(PlannedProbe {
        label: probe.label.as_str().into(),
        offset: probe.offset,
        args: args.collect(),
        ret: probe.spec.ret.clone(),
        program: program::program(&probe.spec, arch)?,
    })
}

/// Whether an instruction begins `offset` bytes into `code`, which begins with a function's first
/// instruction. A breakpoint inside an instruction would change what the target executes.
fn begins_instruction(arch: Arch, code: &[u8], offset: u64) -> bool {
    match arch {
        Arch::Aarch64 => offset.is_multiple_of(4),
        Arch::X86_64 => {
            let mut decoder =
                iced_x86::Decoder::with_ip(64, code, 0, iced_x86::DecoderOptions::NONE);
            while decoder.can_decode() && decoder.ip() < offset {
                if decoder.decode().is_invalid() {
                    return false;
                }
            }
            decoder.ip() == offset
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that only places where an instruction begins are let through.
    #[test]
    fn instruction_boundaries() {
        // endbr64; push rbp; mov rbp, rsp; sub rsp, 0x10
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10];
        let good: Vec<u64> =
            (0..=8).filter(|at| begins_instruction(Arch::X86_64, &code, *at)).collect();
        assert_eq!(good, [0, 4, 5, 8]);
        assert!(begins_instruction(Arch::Aarch64, &[], 8));
        assert!(!begins_instruction(Arch::Aarch64, &[], 6));
    }
}
