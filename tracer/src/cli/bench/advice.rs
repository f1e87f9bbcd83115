//! What the figures mean for someone who chooses probes on this host, in words.

use serde::Serialize;

use super::{Results, text::figure};
use faultline_engine::kernel::bench::{
    Batch, Entry, Functions, INSTRUCTIONS, Instruction, Load, Role, ThreadWork, Throughput, Work,
};
use faultline_spec::units::{counted, grouped};

/// From this ratio on, something costs noticeably more than another.
const NOTICEABLE: f64 = 1.3;
/// An instruction this many times more expensive than the cheapest is executed in another way.
const ANOTHER_WAY: f64 = 1.8;
/// Scaling below this is worth a word.
const GOOD_SCALING: f64 = 0.9;
/// Threads that had a CPU for less of the time were disturbed.
const UNDISTURBED: f64 = 0.95;
/// A detach that takes longer is worth a word.
const LONG_DETACH_MS: f64 = 500.0;

/// Something that the user should know.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Advice {
    /// Its subject, for programs.
    pub(super) about: &'static str,
    /// The advice in words.
    pub(super) text: String,
}

/// The figures that matter most; `null` where they were not measured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Figures {
    /// ns per counted hit on the cheapest instruction, a `push`, and the most expensive.
    cheapest_ns: Option<f64>,
    prologue_ns: Option<f64>,
    dearest_ns: Option<f64>,
    /// What an event of one argument costs where an empty program costs `prologue_empty_ns`.
    prologue_empty_ns: Option<f64>,
    event_ns: Option<f64>,
    latency_ns: Option<f64>,
    /// Scaling to the most threads: counted, on a function each, on one, with mappings, and without
    /// a probe.
    threads: Option<usize>,
    scaling_distinct: Option<f64>,
    scaling_same: Option<f64>,
    scaling_without_probe: Option<f64>,
    /// The largest batch.
    batch_probes: Option<usize>,
    attach_ms: Option<f64>,
    detach_ms: Option<f64>,
    /// Detaching one probe: the kernel's grace period.
    grace_ms: Option<f64>,
}

impl Figures {
    pub(super) fn of(results: &Results) -> Self {
        let ns = |role, work| results.ns(role, work);
        let all = |work| INSTRUCTIONS.iter().filter_map(move |kind| results.ns_of(kind, work));
        let trap = |functions| results.scaling(ThreadWork::Count, Entry::Trap, functions, false);
        let largest = results.alone().max_by_key(|batch| batch.probes);
        let smallest = results.alone().min_by_key(|batch| batch.probes);
        let scaling = |found: Option<&Throughput>| found.map(|found| found.scaling.median);
        Self {
            cheapest_ns: all(Work::Count).reduce(f64::min),
            prologue_ns: ns(Role::Prologue, Work::Count),
            dearest_ns: all(Work::Count).reduce(f64::max),
            prologue_empty_ns: ns(Role::Prologue, Work::Empty { sleepable: false }),
            event_ns: ns(Role::Prologue, Work::Event { args: 1 }),
            latency_ns: ns(Role::Prologue, Work::Latency),
            threads: results.most_threads(),
            scaling_distinct: scaling(trap(Functions::Distinct)),
            scaling_same: scaling(trap(Functions::Same)),
            scaling_without_probe: scaling(results.scaling(
                ThreadWork::None,
                Entry::Fast,
                Functions::Distinct,
                false,
            )),
            batch_probes: largest.map(|batch| batch.probes),
            attach_ms: largest.map(|batch| batch.attach_ms.median),
            detach_ms: largest.map(|batch| batch.detach_ms.median),
            grace_ms: smallest.map(|batch| batch.grace_ms.median),
        }
    }
}

impl Results {
    fn ns_of(&self, instruction: &Instruction, work: Work) -> Option<f64> {
        let hits = self.hits.as_deref()?;
        let same = |hit: &&faultline_engine::kernel::bench::HitCost| {
            hit.work == work && hit.instruction.id == instruction.id
        };
        Some(hits.iter().find(same)?.ns.median)
    }

    fn ns(&self, role: Role, work: Work) -> Option<f64> {
        self.ns_of(INSTRUCTIONS.iter().find(|kind| kind.role == role)?, work)
    }

    pub(super) fn most_threads(&self) -> Option<usize> {
        self.throughput.as_ref()?.iter().map(|found| found.load.threads).max()
    }

    /// What the most threads reach in a case, if they are several.
    fn scaling(
        &self,
        work: ThreadWork,
        entry: Entry,
        functions: Functions,
        mapping: bool,
    ) -> Option<&Throughput> {
        let threads = self.most_threads().filter(|threads| *threads > 1)?;
        self.of_load(&Load { work, entry, functions, mapping, threads })
    }

    fn of_load(&self, load: &Load) -> Option<&Throughput> {
        self.throughput.as_ref()?.iter().find(|found| found.load == *load)
    }

    fn alone(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().flat_map(|found| &found.batches).filter(|batch| !batch.beside_faults)
    }
}

/// Everything worth a word.
pub(super) fn of(results: &Results) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut say = |about, text: Option<String>| all.extend(text.map(|text| Advice { about, text }));
    say("checks", checks(results));
    say(
        "jit",
        (!results.host.jit).then(|| {
            "the kernel interprets eBPF programs: each hit costs several times more \
         (sysctl net.core.bpf_jit_enable=1)"
                .to_owned()
        }),
    );
    say("single_stepping", single_stepping(results));
    say("marker", marker(results));
    say("nop5", nop5(results));
    say("sleepable", sleepable(results));
    say("returns", returns(results));
    say("disturbed", disturbed(results));
    say("scaling", scaling(results));
    say("mmap", mapping(results));
    say("detach", detach(results));
    say("detach_beside_faults", beside_faults(results));
    all
}

fn checks(results: &Results) -> Option<String> {
    let failed = results.checks().filter(|check| !check.holds()).count();
    (failed != 0).then(|| {
        format!(
            "the counted hits differ from the calls made in {}: do not trust the figures marked !",
            counted(failed, "case")
        )
    })
}

/// `13 times`, `1.4 times`.
fn times(ratio: f64) -> String {
    if ratio >= 9.95 { format!("{ratio:.0} times") } else { format!("{ratio:.1} times") }
}

fn where_it_runs(results: &Results) -> &'static str {
    if results.host.virtualised == Some(true) { " (a virtual machine)" } else { "" }
}

fn single_stepping(results: &Results) -> Option<String> {
    let other = results.ns(Role::Other, Work::Count)?;
    let nop = results.ns(Role::Nop, Work::Count)?;
    (other > ANOTHER_WAY * nop).then(|| {
        format!(
            "single-stepping an instruction costs {} as much as emulating one here{}, {} ns per hit \
             instead of {}: --placement auto, the default, avoids it where possible",
            times(other / nop),
            where_it_runs(results),
            figure(other),
            figure(nop),
        )
    })
}

fn marker(results: &Results) -> Option<String> {
    let marker = INSTRUCTIONS.iter().find(|kind| kind.role == Role::Marker)?;
    let cost = results.ns_of(marker, Work::Count)?;
    let nop = results.ns(Role::Nop, Work::Count)?;
    (cost > ANOTHER_WAY * nop).then(|| {
        format!(
            "{} is single-stepped here: every function of a library built with branch protection \
             begins with it, and a probe on it costs {} as much with --placement entry",
            marker.name,
            times(cost / nop),
        )
    })
}

fn nop5(results: &Results) -> Option<String> {
    let nop5 = results.ns(Role::Optimisable, Work::Empty { sleepable: false })?;
    let nop = results.ns(Role::Nop, Work::Empty { sleepable: false })?;
    Some(if nop > NOTICEABLE * nop5 {
        format!(
            "this kernel turns a breakpoint on a 5-byte nop into a call: {} ns per hit, where a trap \
             costs {}; functions compiled with -fpatchable-function-entry=5 begin with such a nop",
            figure(nop5),
            figure(nop)
        )
    } else if nop5 > ANOTHER_WAY * nop {
        format!("a 5-byte nop is single-stepped here: {} ns per hit", figure(nop5))
    } else {
        return None;
    })
}

fn sleepable(results: &Results) -> Option<String> {
    let can = results.ns(Role::Prologue, Work::Empty { sleepable: true })?;
    let cannot = results.ns(Role::Prologue, Work::Empty { sleepable: false })?;
    (can > NOTICEABLE * cannot).then(|| {
        format!(
            "a sleepable program costs {} ns more per hit here: count does not need one",
            figure(can - cannot)
        )
    })
}

fn returns(results: &Results) -> Option<String> {
    let both = results.ns(Role::Prologue, Work::Latency)?;
    let entry = results.ns(Role::Prologue, Work::Count)?;
    (both > NOTICEABLE * entry).then(|| {
        format!(
            "timing a call costs {} as much as counting it, {} ns instead of {}: trace returns only \
             where you need them",
            times(both / entry),
            figure(both),
            figure(entry)
        )
    })
}

fn disturbed(results: &Results) -> Option<String> {
    // Only those that had a CPU for each thread.
    let undisturbed =
        |found: &&Throughput| !found.load.mapping && found.load.threads <= results.host.cpus;
    let found = results.throughput.as_ref()?;
    let shares = found.iter().filter(undisturbed).map(|found| found.on_cpu.median);
    let share = shares.reduce(f64::min)?;
    (share < UNDISTURBED).then(|| {
        format!(
            "other work had the CPUs for up to {:.0}% of the time: the figures for threads are worth \
             little; measure again while the host is idle, or under `chrt -r 5`, which takes the \
             CPUs from other work",
            (1.0 - share) * 100.0
        )
    })
}

fn scaling(results: &Results) -> Option<String> {
    let control = results.scaling(ThreadWork::None, Entry::Fast, Functions::Distinct, false)?;
    let mut worst: Vec<String> = Vec::new();
    for work in [ThreadWork::Empty, ThreadWork::Count, ThreadWork::Event] {
        for functions in [Functions::Distinct, Functions::Same] {
            let entries = [Entry::Trap, Entry::Fast].into_iter();
            let found = entries.filter_map(|entry| results.scaling(work, entry, functions, false));
            let worse = |found: &&Throughput| {
                found.cpu_scaling.median < GOOD_SCALING * control.cpu_scaling.median.min(1.0)
            };
            let found = found.filter(worse);
            let Some(found) = found
                .min_by(|one, other| one.cpu_scaling.median.total_cmp(&other.cpu_scaling.median))
            else {
                continue;
            };
            worst.push(format!(
                "{} on {} {:.2}",
                work.name(),
                if functions == Functions::Same { "one function" } else { "one function each" },
                found.cpu_scaling.median
            ));
        }
    }
    let threads = control.load.threads;
    (!worst.is_empty()).then(|| {
        format!(
            "{threads} threads at once are slower than one alone (by CPU time, 1 is perfect, {:.2} \
             without probes): {}",
            control.cpu_scaling.median,
            worst.join(", ")
        )
    })
}

fn mapping(results: &Results) -> Option<String> {
    let load = |mapping| Load {
        work: ThreadWork::Empty,
        entry: Entry::Trap,
        functions: Functions::Distinct,
        mapping,
        threads: 1,
    };
    // With one CPU, who maps takes the time from who is hit.
    if results.host.cpus < 2 {
        return None;
    }
    let quiet = results.of_load(&load(false))?.cpu_ns.median;
    let beside = results.of_load(&load(true))?.ns.median;
    (beside > NOTICEABLE * quiet).then(|| {
        format!(
            "while another thread keeps mapping memory, a hit costs {} as much ({} ns instead of {}): \
             the kernel then takes the lock of the address space at every hit",
            times(beside / quiet),
            figure(beside),
            figure(quiet)
        )
    })
}

fn detach(results: &Results) -> Option<String> {
    let largest = results.alone().max_by_key(|batch| batch.probes)?;
    if !results.host.multi_links {
        let each = largest.detach_ms.median / largest.probes as f64;
        return Some(format!(
            "each probe takes a link of its own here and detaches alone, in {} ms: 100 probes take \
             {:.0} s (Linux 6.6 batches them); so no more than {} were tried",
            figure(each),
            each / 10.0,
            largest.probes
        ));
    }
    (largest.detach_ms.median > LONG_DETACH_MS).then(|| {
        format!(
            "detaching {} probes takes {:.1} s here",
            grouped(largest.probes as u64),
            largest.detach_ms.median / 1e3
        )
    })
}

fn beside_faults(results: &Results) -> Option<String> {
    let batches = &results.batches.as_ref()?.batches;
    let of = |beside: bool| {
        let found = batches.iter().filter(move |batch| batch.beside_faults == beside);
        found.max_by_key(|batch| batch.probes).map(|batch| batch.detach_ms.median)
    };
    let (alone, beside) = (of(false)?, of(true)?);
    (beside > NOTICEABLE * alone).then(|| {
        format!(
            "while a handler waits for pages, detaching takes {} ms instead of {}: the kernel waits \
             for the handler",
            figure(beside),
            figure(alone)
        )
    })
}
