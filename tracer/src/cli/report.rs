//! What a run reports apart from its events: what was attached, and the summary.

use std::{
    collections::HashSet,
    io::{self, IsTerminal as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::ExitStatus,
    time::{Duration, Instant},
};

use super::{Failure, colour, session::Ended, tell::tell};
use faultline_engine::{
    caveats::Remark,
    collect::{Outcome, Tally, drain::Patience},
    kernel::{AttachReport, CounterSnapshot},
};
use faultline_output::{
    Format, Output, Summary,
    summary::{
        Attach, CommandEnd, Counts, CpuSummary, Death, Detach, Millis, OfKernel as _, ProbeCaveat,
        ProbeSummary, ReturnsWatched, SkippedProbe, SlowestFile,
    },
};
use faultline_plan::{AttachPlan, PlannedProbe, ProbeId};
use faultline_resolve::Skipped;
use faultline_spec::units::{counted, duration_text};

/// How long to wait for the output to accept any part of the summary, which takes megabytes for ten
/// thousand probes.
const SUMMARY_PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait for all of it.
const SUMMARY_TIME: Duration = Duration::from_secs(30);

/// Reports that the probes are attached.
pub(super) fn attached(report: &AttachReport, notes: &[String]) {
    for note in notes {
        tell!("note: {note}");
    }
    tell!(
        "tracing {} ({}, attached in {}); press Ctrl-C to stop",
        counted(report.probes, "probe"),
        counted(report.links, "link"),
        duration_text(report.took.as_nanos() as u64),
    );
}

/// Tells what is to be known about the probes before they count.
pub(super) fn remarks(plan: &AttachPlan, remarks: &[Remark]) {
    for remark in remarks {
        tell!("note: {}", caveat(plan, remark).sentence());
    }
}

fn caveat(plan: &AttachPlan, remark: &Remark) -> ProbeCaveat {
    let labels = remark.probes.iter().filter_map(|id| plan.probes.get(id.0 as usize));
    ProbeCaveat::new(remark.caveat.clone(), labels.map(|probe| &*probe.label))
}

/// A skipped function, in the summary's terms.
pub(super) fn skipped(skipped: &Skipped) -> SkippedProbe {
    SkippedProbe { probe: skipped.label.to_string(), reason: skipped.reason.to_string() }
}

/// What works differently on this kernel, and what is not traced everywhere or all the time.
fn notes(ended: &Ended) -> Vec<String> {
    let note = |Skipped { label, reason }: &Skipped, what| format!("`{label}` {what}: {reason}");
    let partly = ended.attached.differing.iter();
    let partly = partly.map(|skipped| note(skipped, "is not traced everywhere"));
    let changed = ended.changed.iter();
    let changed = changed.map(|skipped| note(skipped, "was not traced to the end"));
    ended.notes.iter().cloned().chain(partly).chain(changed).collect()
}

/// Builds the summary.
pub(super) fn summary(ended: &Ended) -> Summary {
    let counters = &ended.set.source.counters;
    let plan = &ended.set.plan;
    let costs = ended.host.costs();
    let mut probes = Vec::new();
    let mut total = Counts::default();
    let mut cpus = vec![Counts::default(); counters.cpus()];
    let mut unfinished = vec![0; plan.probes.len()];
    for id in ended.set.unfinished() {
        if let Some(count) = unfinished.get_mut(id.0 as usize) {
            *count += 1;
        }
    }
    // A hit without an outcome is still in its handler or in the buffer. That is expected only if the
    // run did not wait for it; otherwise it is a bug, which must not be hidden.
    let waited = ended.drained && !ended.abandoned;
    let tally = ended.set.source.tally.as_deref();
    let of_probe = |id, outcome| tally.map_or(0, |tally| tally.of_probe(id, outcome));
    let of_cpu = |cpu, outcome| tally.map_or(0, |tally| tally.of_cpu(cpu, outcome));
    for (index, probe) in plan.probes.iter().enumerate() {
        let id = ProbeId(index as u32);
        let mut counts = Counts::default();
        for (cpu, sum) in cpus.iter_mut().enumerate() {
            let read = counters.read(cpu, id);
            let mut of_cpu = kernel_counts(&read);
            if let Some(costs) = &costs {
                of_cpu.cost.estimated_ns = read.estimated_cost_ns(costs.of_breakpoints(probe));
            }
            counts += of_cpu;
            *sum += of_cpu;
        }
        user_counts(&mut counts, |outcome| of_probe(id, outcome), waited);
        counts.returns.unfinished = unfinished[index];
        total += counts;
        if counts.hits != 0 {
            let seen = ended.set.seen(id, counts.hits);
            let probe = probe.label.to_string();
            probes.push(ProbeSummary { probe, counts, seen: seen.map(Into::into) });
        }
    }
    for (cpu, counts) in cpus.iter_mut().enumerate() {
        user_counts(counts, |outcome| of_cpu(cpu, outcome), waited);
    }
    total.dropped.undecodable += tally.map_or(0, Tally::unknown);
    let per_cpu = cpus.into_iter().enumerate().filter(|(_, counts)| counts.hits != 0);
    let attached = &ended.attached;
    let skipped: Vec<_> =
        ended.skipped.iter().cloned().chain(attached.refused.iter().map(skipped)).collect();
    Summary {
        counts: total,
        probes,
        per_cpu: per_cpu.map(|(cpu, counts)| CpuSummary { cpu: cpu as u32, counts }).collect(),
        cpus: counters.cpus() as u32,
        attach: Attach {
            probes: attached.probes as u64,
            links: attached.links as u64,
            skipped: skipped.len() as u64,
            returns: returns_watched(&plan.probes, &attached.refused_ids),
            ms: Millis(attached.took),
            slowest: attached.slowest.as_ref().map(|slowest| SlowestFile {
                file: slowest.file.to_string_lossy().into_owned(),
                ms: Millis(slowest.took),
            }),
        },
        detach: Detach {
            ms: Millis(ended.stopped.released.report.took),
            grace_ms: ended.stopped.released.report.grace.map(Millis),
        },
        skipped,
        deaths: ended.deaths.iter().cloned().map(Death).collect(),
        caveats: ended.remarks.iter().map(|remark| caveat(plan, remark)).collect(),
        notes: notes(ended),
        overhead: ended.overhead.clone(),
        children: Some(ended.set.source.children.read().into())
            .filter(|of| *of != Default::default()),
        command: ended.command.and_then(command_end),
        stopped_by: ended.reason.to_string(),
        duration_ms: Millis(ended.ran),
    }
}

/// How the returns of these probes are watched, without those that the kernel has refused.
fn returns_watched(probes: &[PlannedProbe], refused: &[ProbeId]) -> Option<ReturnsWatched> {
    let refused: HashSet<u32> = refused.iter().map(|id| id.0).collect();
    let attached = (0..).zip(probes).filter(|(id, _)| !refused.contains(id));
    let (mut ret, mut uretprobe) = (0, 0);
    for (_, probe) in attached.filter(|(_, probe)| probe.ret.is_some()) {
        *if probe.replaces_return() { &mut uretprobe } else { &mut ret } += 1;
    }
    (ret + uretprobe != 0).then_some(ReturnsWatched { ret, uretprobe })
}

fn kernel_counts(counters: &CounterSnapshot) -> Counts {
    Counts::of_kernel(&|counter| counters.get(counter))
}

/// Adds the outcomes of the records that the kernel side wrote.
fn user_counts(counts: &mut Counts, tally: impl Fn(Outcome) -> u64, waited: bool) {
    counts.delivered += tally(Outcome::Delivered);
    counts.dropped.output = tally(Outcome::OutputLost);
    counts.dropped.after_limit = tally(Outcome::AfterLimit);
    counts.dropped.undecodable = tally(Outcome::Undecodable);
    if !waited {
        counts.dropped.abandoned = counts.unaccounted();
    }
}

fn command_end(status: ExitStatus) -> Option<CommandEnd> {
    status.code().map(CommandEnd::Code).or_else(|| status.signal().map(CommandEnd::Signal))
}

/// Shows the summary: as the last line of the events' output, or as text for people.
pub(super) fn print(summary: &Summary, format: Format, file: Option<&Path>) -> Result<(), Failure> {
    if !summary.is_conserved() {
        tracing::error!("the summary does not add up: {summary:?}");
    }
    let mut text = Vec::new();
    format.sink(colour(io::stderr().is_terminal())).summary(summary, &mut text)?;
    let is_written = !format.is_for_people() && {
        let output = match file {
            Some(path) => Output::append(path),
            None => Output::stdout(),
        };
        output.and_then(|output| write_while_read(output, &text)).is_ok()
    };
    // People find it on standard error, apart from the events; and so does everyone if the output is
    // closed, full or not being read.
    if !is_written {
        let _ = io::stderr().lock().write_all(&text);
    }
    Ok(())
}

/// Writes all of it as long as someone keeps reading, within time limits.
fn write_while_read(mut output: Output, mut bytes: &[u8]) -> io::Result<()> {
    let started = Instant::now();
    loop {
        let (written, result) = output.write(bytes, &Patience::of(SUMMARY_PATIENCE));
        bytes = &bytes[written..];
        match result {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && written != 0
                    && started.elapsed() < SUMMARY_TIME => {}
            other => return other,
        }
    }
}
