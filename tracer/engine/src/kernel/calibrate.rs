//! Measures what a hit costs on this machine, by the form of the instruction under the breakpoint: attaches
//! to functions of our own, one per form, and calls them.
//!
//! There is no other way to know: the cost depends on the kernel, on the CPU, and most of all on whether
//! this is a virtual machine.

use tracer_common::{Action, counter::Counter, program::FLAG_TRACK_RETURN};

use super::{Features, Links, LoadOptions, Programs, Progress, clock::thread_time, own_code};
use faultline_plan::{Costs, Form, PlannedProbe, ProbeId};
use faultline_resolve::Pid;
use faultline_spec::ValueType;

/// Calls in one batch. A batch takes half a millisecond where hits are expensive, so that few batches are
/// disturbed.
const BATCH: u32 = 50;
/// Batches of each function.
const BATCHES: usize = 24;
/// Which batch counts, in order of their times: disturbances only ever make a batch slower.
const COUNTED: usize = BATCHES / 4;

// One function per form, in the order of [`Form::ALL`], and one whose return is traced.
#[cfg(target_arch = "x86_64")]
own_code::functions! { of_each: 1, apart: 16;
    "faultline_costs_nop5": ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret";
    "faultline_costs_nop": "nop", "ret";
    "faultline_costs_push": "push rbx", "pop rbx", "ret";
    "faultline_costs_jump": "jmp 1f", "1: ret";
    "faultline_costs_landing_pad": "endbr64", "ret";
    "faultline_costs_other": "mov eax, edi", "ret";
    "faultline_costs_nop2": ".byte 0x66, 0x90", "ret";
    "faultline_costs_nop3": ".byte 0x0f, 0x1f, 0x00", "ret";
    "faultline_costs_nop4": ".byte 0x0f, 0x1f, 0x40, 0x00", "ret";
    "faultline_costs_nop6": ".byte 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret";
    "faultline_costs_nop7": ".byte 0x0f, 0x1f, 0x80, 0, 0, 0, 0", "ret";
    "faultline_costs_nop8": ".byte 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0", "ret";
    "faultline_costs_nop9": ".byte 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0", "ret";
    "faultline_costs_nop10": ".byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0", "ret";
    "faultline_costs_ret": "ret";
    "faultline_costs_returning": ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret";
    "faultline_red_zone": "mov [rsp - 8], rdi",
        ".globl faultline_red_zone_nop5", ".hidden faultline_red_zone_nop5", "faultline_red_zone_nop5:",
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "mov rax, [rsp - 8]", "ret";
}
// There is one nop, and no `push`.
#[cfg(target_arch = "aarch64")]
own_code::functions! { of_each: 1, apart: 16;
    "faultline_costs_nop5": "nop", "ret";
    "faultline_costs_nop": "nop", "ret";
    "faultline_costs_push": "mov w0, w1", "ret";
    "faultline_costs_jump": "b 1f", "1: ret";
    "faultline_costs_landing_pad": "hint 34", "ret";
    "faultline_costs_other": "mov w0, w1", "ret";
    "faultline_costs_nop2": "nop", "ret";
    "faultline_costs_nop3": "nop", "ret";
    "faultline_costs_nop4": "nop", "ret";
    "faultline_costs_nop6": "nop", "ret";
    "faultline_costs_nop7": "nop", "ret";
    "faultline_costs_nop8": "nop", "ret";
    "faultline_costs_nop9": "nop", "ret";
    "faultline_costs_nop10": "nop", "ret";
    "faultline_costs_ret": "ret";
    "faultline_costs_returning": "nop", "ret";
}

unsafe extern "C" {
    fn faultline_costs_nop5();
    fn faultline_costs_nop();
    fn faultline_costs_push();
    fn faultline_costs_jump();
    fn faultline_costs_landing_pad();
    fn faultline_costs_other();
    fn faultline_costs_nop2();
    fn faultline_costs_nop3();
    fn faultline_costs_nop4();
    fn faultline_costs_nop6();
    fn faultline_costs_nop7();
    fn faultline_costs_nop8();
    fn faultline_costs_nop9();
    fn faultline_costs_nop10();
    fn faultline_costs_ret();
    fn faultline_costs_returning();
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn faultline_red_zone(number: u64) -> u64;
    fn faultline_red_zone_nop5();
}

/// A function that stores its argument below its stack pointer, loads it again and returns it; and the
/// address of the 5-byte nop between the two.
#[cfg(target_arch = "x86_64")]
pub(super) fn red_zone() -> Option<(unsafe extern "C" fn(u64) -> u64, usize)> {
    Some((faultline_red_zone, faultline_red_zone_nop5 as *const () as usize))
}

/// This architecture has no such nop.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn red_zone() -> Option<(unsafe extern "C" fn(u64) -> u64, usize)> {
    None
}

/// A function that only returns.
pub(super) fn measured_return() -> unsafe extern "C" fn() {
    faultline_costs_returning
}

type Function = unsafe extern "C" fn();

/// By form.
const ENTRIES: [Function; Form::ALL.len()] = [
    faultline_costs_nop5,
    faultline_costs_nop,
    faultline_costs_push,
    faultline_costs_jump,
    faultline_costs_landing_pad,
    faultline_costs_other,
    faultline_costs_nop2,
    faultline_costs_nop3,
    faultline_costs_nop4,
    faultline_costs_nop6,
    faultline_costs_nop7,
    faultline_costs_nop8,
    faultline_costs_nop9,
    faultline_costs_nop10,
    faultline_costs_ret,
];

/// Measures all forms. Takes about a quarter of a second.
///
/// # Errors
///
/// Those of loading and attaching.
pub(crate) fn measure_costs() -> anyhow::Result<Costs> {
    let features = Features::probe()?;
    let entry = |(form, function): (&Form, &Function)| {
        own_code::probe(&format!("{form:?}"), *function as *const () as usize)
    };
    let probes = Form::ALL.iter().zip(&ENTRIES).map(entry).collect::<anyhow::Result<_>>()?;
    let (entry_ns, _) = measure(probes, Action::Count, features, ENTRIES)?;

    let mut returning =
        own_code::probe("returning", faultline_costs_returning as *const () as usize)?;
    returning.ret = Some(ValueType::U64);
    returning.program.flags = FLAG_TRACK_RETURN;
    let ([pair_ns], timing_ns) =
        measure(vec![returning], Action::Latency, features, [faultline_costs_returning])?;
    let plain = own_code::probe("event", faultline_costs_nop5 as *const () as usize)?;
    let ([event_ns], _) = measure(vec![plain], Action::Events, features, [faultline_costs_nop5])?;
    let (Some(plain_ns), Some(pair_ns), Some(event_ns)) =
        (entry_ns[Form::Nop5 as usize], pair_ns, event_ns)
    else {
        anyhow::bail!("cannot measure: the kernel refuses a breakpoint on a 5-byte nop");
    };
    let return_ns = pair_ns.saturating_sub(plain_ns).saturating_sub(timing_ns);
    let event_ns = event_ns.saturating_sub(plain_ns);
    Ok(Costs { entry_ns, return_ns, timing_ns, event_ns })
}

/// How long a call of each function takes with these probes, in nanoseconds, or `None` where the kernel
/// refuses the breakpoint; and the programs' share of that, averaged over the functions.
fn measure<const N: usize>(
    probes: Vec<PlannedProbe>,
    action: Action,
    features: Features,
    functions: [Function; N],
) -> anyhow::Result<([Option<u64>; N], u64)> {
    let plan = own_code::plan(probes)?;
    let options = LoadOptions { pids: vec![Pid::own()], ..LoadOptions::new(action, features) };
    let programs = Programs::load(&plan, &options)?;
    let (links, report) =
        Links::attach_plan(&programs, &plan, Some(Pid::own()), &Progress::default())?;
    programs.enable(true);
    let mut batches = [[0; BATCHES]; N];
    // Interleaved, so that a brief disturbance affects all of them alike.
    for batch in 0..BATCHES {
        for (times, function) in batches.iter_mut().zip(functions) {
            times[batch] = batch_ns(function);
        }
    }
    programs.enable(false);
    links.detach(&Progress::default());
    let counters = programs.counters(plan.probes.len())?;
    let programs_ns: u64 =
        (0..N as u32).map(|id| counters.sum(ProbeId(id), Counter::HandlerNs)).sum();
    let attached = N - report.refused_ids.len();
    let calls = u64::from(BATCH) * (BATCHES * attached.max(1)) as u64;
    let mut id = 0;
    let times = batches.map(|mut times| {
        times.sort_unstable();
        id += 1;
        let is_refused = report.refused_ids.contains(&ProbeId(id - 1));
        (!is_refused).then_some(times[COUNTED])
    });
    Ok((times, programs_ns / calls))
}

/// How long a call takes, in nanoseconds of this thread's CPU time: other threads may run in between.
fn batch_ns(function: Function) -> u64 {
    let begin = thread_time();
    for _ in 0..BATCH {
        // SAFETY: the function keeps the calling convention and does nothing.
        unsafe { function() };
    }
    let took = thread_time().saturating_sub(begin);
    took.as_nanos() as u64 / u64::from(BATCH)
}
