//! Measures what a hit costs on this machine, by the class of the instruction under the breakpoint:
//! attaches to functions of our own, one a class, and calls them.
//!
//! Nothing else tells: it depends on the kernel, on the CPU, and most of all on whether this is a
//! virtual machine.

use std::time::{Duration, Instant};

use tracer_common::{Action, program::FLAG_TRACK_RETURN};

use super::{Features, Links, LoadOptions, Programs, Progress, Scope, own_code};
use crate::{
    plan::{Costs, PlannedProbe},
    resolve::Pid,
    spec::{IntFormat, ValueType},
};

/// Calls of one batch. It takes two milliseconds where a hit is dear.
const BATCH: u32 = 200;
/// Batches, of which the median counts.
const BATCHES: usize = 9;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".balign 16",
    "faultline_costs_optimised: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
    "ret",
    ".balign 16",
    "faultline_costs_emulated: push rbx",
    "pop rbx",
    "ret",
    ".balign 16",
    "faultline_costs_single_stepped: mov eax, edi",
    "ret",
    ".balign 16",
    "faultline_costs_returning: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
    "ret",
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".balign 16",
    "faultline_costs_optimised: nop",
    "ret",
    ".balign 16",
    "faultline_costs_emulated: nop",
    "ret",
    ".balign 16",
    "faultline_costs_single_stepped: mov w0, w1",
    "ret",
    ".balign 16",
    "faultline_costs_returning: nop",
    "ret",
);

unsafe extern "C" {
    fn faultline_costs_optimised();
    fn faultline_costs_emulated();
    fn faultline_costs_single_stepped();
    fn faultline_costs_returning();
}

type Function = unsafe extern "C" fn();

/// Measures. Takes about a tenth of a second.
///
/// # Errors
///
/// Those of loading and attaching.
pub(super) fn measure_costs() -> anyhow::Result<Costs> {
    let features = Features::probe()?;
    let classes: [(&str, Function); 3] = [
        ("optimised", faultline_costs_optimised),
        ("emulated", faultline_costs_emulated),
        ("single-stepped", faultline_costs_single_stepped),
    ];
    let probes = classes
        .iter()
        .map(|(name, function)| own_code::probe(name, *function as *const () as usize));
    let probes = probes.collect::<anyhow::Result<Vec<_>>>()?;
    let entries = measure(probes, Action::Count, features, &classes.map(|(_, function)| function))?;

    let mut returning =
        own_code::probe("returning", faultline_costs_returning as *const () as usize)?;
    returning.ret = Some(ValueType::Int { width_bytes: 8, format: IntFormat::Unsigned });
    returning.program.flags = FLAG_TRACK_RETURN;
    let pair = measure(vec![returning], Action::Latency, features, &[faultline_costs_returning])?;
    let ns = |times: &[Duration], index: usize| {
        times.get(index).map_or(0, |time| time.as_nanos() as u64)
    };
    let optimised_ns = ns(&entries, 0);
    Ok(Costs {
        optimised_ns,
        emulated_ns: ns(&entries, 1),
        single_stepped_ns: ns(&entries, 2),
        return_ns: ns(&pair, 0).saturating_sub(optimised_ns),
    })
}

/// What a call of each function takes, with these probes.
fn measure(
    probes: Vec<PlannedProbe>,
    action: Action,
    features: Features,
    functions: &[Function],
) -> anyhow::Result<Vec<Duration>> {
    let plan = own_code::plan(probes)?;
    let options = LoadOptions { pids: vec![Pid::own()], ..LoadOptions::new(action, features) };
    let programs = Programs::load(&plan, &options)?;
    let scope = Scope::Processes(vec![Pid::own()]);
    let (links, report) = Links::attach(&programs, &plan, &scope, &Progress::default())?;
    if let Some(refused) = report.refused.first() {
        anyhow::bail!("cannot measure: {}", refused.obstacle);
    }
    programs.enable(true);
    let times = functions.iter().map(|function| time_of(*function)).collect();
    programs.enable(false);
    links.detach(&Progress::default());
    Ok(times)
}

/// What a call takes.
fn time_of(function: Function) -> Duration {
    let mut batches: Vec<_> = (0..BATCHES)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..BATCH {
                // SAFETY: the function keeps the calling convention and does nothing.
                unsafe { function() };
            }
            begin.elapsed() / BATCH
        })
        .collect();
    batches.sort_unstable();
    batches[BATCHES / 2]
}
