//! What is told about a run besides its events: what would be attached, what was, the summary.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use serde::Serialize;
use tracer_common::counter::Counter;

use super::{Failure, colour, selection::Selected, session::Ended, tell::tell};
use crate::{
    drain::Patience,
    kernel::{self, AttachReport, CounterSnapshot, Features, Scope, links_needed},
    plan::{AttachPlan, Costs, NotPlanned, PlannedProbe, ProbeId},
    resolve::Pid,
    sink::{
        Outcome, Output, Summary, Tally, json_line,
        summary::{
            Attach, CommandEnd, Counts, CpuSummary, Detach, Dropped, FailedByErrno, Faults, Millis,
            ProbeSummary, Reads, Returns, SkippedProbe, SlowestFile,
        },
    },
    spec::units::duration_text,
};

/// How long the output may take to accept the summary.
const SUMMARY_PATIENCE: Duration = Duration::from_secs(1);

/// One line of `--dry-run --json`.
#[derive(Serialize)]
struct PlannedLine<'a> {
    r#type: &'static str,
    probe: &'a str,
    file: std::borrow::Cow<'a, str>,
    offset: u64,
    args: Vec<&'a str>,
    ret: bool,
    #[serde(flatten)]
    place: Option<PlaceLine>,
    #[serde(flatten)]
    wishes: &'a std::collections::BTreeMap<&'static str, String>,
}

/// Where a breakpoint goes, in `--dry-run --json`.
#[derive(Serialize)]
struct PlaceLine {
    moved_bytes: u64,
    class: String,
    entry_class: String,
    /// Nanoseconds that a call costs, measured on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_a_call: Option<u64>,
}

impl PlaceLine {
    fn of(probe: &PlannedProbe, costs: Option<&Costs>) -> Option<Self> {
        let place = probe.place?;
        Some(Self {
            moved_bytes: place.moved_bytes,
            class: place.class.to_string(),
            entry_class: place.entry_class.to_string(),
            ns_a_call: costs.and_then(|costs| costs.of_call(probe)),
        })
    }
}

/// A function that is left out, in `--dry-run --json`.
#[derive(Serialize)]
struct SkippedLine<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    skipped: &'a SkippedProbe,
}

/// The last line of `--dry-run --json`.
#[derive(Serialize)]
struct PlanLine {
    r#type: &'static str,
    probes: usize,
    links: usize,
    skipped: usize,
}

/// Shows what would be attached.
pub(super) fn dry_run(selected: &Selected, json: bool) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let shown = if json { planned_json(&mut out, selected) } else { planned(&mut out, selected) };
    match shown.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("failed to write the plan").into())
        }
        _ => Ok(()),
    }
}

fn planned(out: &mut impl io::Write, selected: &Selected) -> io::Result<()> {
    let links = links_of(selected);
    let plan = &selected.plan;
    let costs = kernel::costs();
    for file in &plan.files {
        writeln!(out, "{}", file.file.shown_path().display())?;
        for probe in probes_of(plan, &file.probes) {
            let args: Vec<_> = probe.args.iter().map(|arg| &*arg.name).collect();
            let ret = if probe.ret.is_some() { " and its return" } else { "" };
            writeln!(
                out,
                "  {:>#10x}  {}({}){ret}{}",
                probe.offset.0,
                probe.label.escape_debug(),
                args.join(", "),
                placed(probe, costs.as_ref()),
            )?;
        }
    }
    let processes = match (selected.pids.as_slice(), &selected.command) {
        ([], None) => "every process".to_owned(),
        ([], Some(_)) => "the command".to_owned(),
        (pids, _) => {
            let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
            format!("process {}", pids.join(", "))
        }
    };
    for SkippedProbe { probe, reason } in &selected.skipped {
        writeln!(out, "skipped {}: {}", probe.escape_debug(), reason.escape_debug())?;
    }
    for (option, wish) in wishes(selected) {
        writeln!(out, "{option} {wish}")?;
    }
    writeln!(
        out,
        "would attach {} in {processes} with {}; {} skipped; nothing was attached (--dry-run)",
        counted(plan.probes.len(), "probe"),
        counted(links, "link"),
        selected.skipped.len(),
    )
}

/// `  +4 emulated (was single-stepped), 470ns a call`.
fn placed(probe: &PlannedProbe, costs: Option<&Costs>) -> String {
    let Some(place) = &probe.place else { return String::new() };
    let class = match place.moved_bytes {
        0 => place.class.to_string(),
        moved => format!("+{moved} {} (was {})", place.class, place.entry_class),
    };
    let cost = costs.and_then(|costs| costs.of_call(probe));
    let cost = cost.map_or_else(String::new, |ns| format!(", {} a call", duration_text(ns)));
    format!("  {class}{cost}")
}

/// What the user wishes beyond the probes: options and their values.
fn wishes(selected: &Selected) -> Vec<(&'static str, String)> {
    let Selected { condition, sample, rate, .. } = selected;
    let condition = condition.as_ref().map(|condition| ("where", condition.to_string()));
    let sample = sample.map(|sample| ("sample", sample.to_string()));
    let rate = rate.map(|rate| ("rate", rate.to_string()));
    [condition, sample, rate].into_iter().flatten().collect()
}

fn planned_json(out: &mut impl io::Write, selected: &Selected) -> io::Result<()> {
    let costs = kernel::costs();
    let plan = &selected.plan;
    let wishes = wishes(selected).into_iter().collect();
    for file in &plan.files {
        for probe in probes_of(plan, &file.probes) {
            let line = PlannedLine {
                r#type: "planned",
                probe: &probe.label,
                file: file.file.shown_path().to_string_lossy(),
                offset: probe.offset.0,
                args: probe.args.iter().map(|arg| &*arg.name).collect(),
                ret: probe.ret.is_some(),
                place: PlaceLine::of(probe, costs.as_ref()),
                wishes: &wishes,
            };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        }
    }
    for skipped in &selected.skipped {
        let line = SkippedLine { r#type: "skipped", skipped };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    let line = PlanLine {
        r#type: "plan",
        probes: plan.probes.len(),
        links: links_of(selected),
        skipped: selected.skipped.len(),
    };
    writeln!(out, "{}", serde_json::to_string(&line)?)
}

fn probes_of<'a>(
    plan: &'a AttachPlan,
    ids: &'a [ProbeId],
) -> impl Iterator<Item = &'a PlannedProbe> {
    ids.iter().filter_map(|id| plan.probes.get(id.0 as usize))
}

/// Links that the plan takes on this kernel; on one that lacks nothing, where we may not ask.
fn links_of(selected: &Selected) -> usize {
    let features = Features::probe().unwrap_or(Features::ALL);
    // The command's process has no id yet; any serves to count.
    let scope = match &selected.command {
        Some(_) => Scope::Processes(vec![Pid::own()]),
        None => selected.scope(),
    };
    links_needed(&selected.plan, &scope, features)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Tells that the probes are attached.
pub(super) fn attached(report: &AttachReport, notes: &[String]) {
    for note in notes {
        tell!("note: {note}");
    }
    tell!(
        "tracing {} ({}, attached in {}); Ctrl-C ends it",
        counted(report.probes, "probe"),
        counted(report.links, "link"),
        duration_text(report.took.as_nanos() as u64),
    );
}

/// A function that is left out, in the summary's words.
pub(super) fn skipped(not_planned: &NotPlanned) -> SkippedProbe {
    SkippedProbe { probe: not_planned.label.to_string(), reason: not_planned.obstacle.to_string() }
}

/// Puts the summary together. `drained` says whether every record was taken out of the ring buffer.
pub(super) fn summary(ended: &Ended, tally: &Tally, drained: bool) -> Summary {
    let counters = &ended.counters;
    let mut probes = Vec::new();
    let mut total = Counts::default();
    let mut cpus = vec![Counts::default(); counters.cpus()];
    let mut unfinished = vec![0; ended.plan.probes.len()];
    for id in &ended.unfinished {
        if let Some(count) = unfinished.get_mut(id.0 as usize) {
            *count += 1;
        }
    }
    // What was hit and has no outcome is still in its handler, or in the buffer: known, but only
    // where the run did not wait for it. Otherwise it would be a bug, and is not to be hidden.
    let waited = drained && !ended.abandoned;
    for (index, probe) in ended.plan.probes.iter().enumerate() {
        let id = ProbeId(index as u32);
        let mut counts = Counts::default();
        for (cpu, sum) in cpus.iter_mut().enumerate() {
            let of_cpu = kernel_counts(&counters.read(cpu, id));
            counts += of_cpu;
            *sum += of_cpu;
        }
        user_counts(&mut counts, |outcome| tally.of_probe(id, outcome), waited);
        counts.returns.unfinished = unfinished[index];
        total += counts;
        if counts.hits != 0 {
            let presences = ended.presences.as_ref();
            let seen = presences.and_then(|presences| presences.seen(id, counts.hits));
            let probe = probe.label.to_string();
            probes.push(ProbeSummary { probe, counts, seen: seen.map(Into::into) });
        }
    }
    for (cpu, counts) in cpus.iter_mut().enumerate() {
        user_counts(counts, |outcome| tally.of_cpu(cpu, outcome), waited);
    }
    total.dropped.undecodable += tally.unknown();
    let per_cpu = cpus.into_iter().enumerate().filter(|(_, counts)| counts.hits != 0);
    let attached = &ended.attached;
    let skipped: Vec<_> =
        ended.skipped.iter().cloned().chain(attached.refused.iter().map(skipped)).collect();
    Summary {
        counts: total,
        probes,
        per_cpu: per_cpu.map(|(cpu, counts)| CpuSummary { cpu: cpu as u32, counts }).collect(),
        attach: Attach {
            probes: attached.probes as u64,
            links: attached.links as u64,
            skipped: skipped.len() as u64,
            ms: Millis(attached.took),
            slowest: attached.slowest.as_ref().map(|slowest| SlowestFile {
                file: slowest.file.to_string_lossy().into_owned(),
                ms: Millis(slowest.took),
            }),
        },
        detach: Detach { ms: Millis(ended.detach.took), grace_ms: ended.detach.grace.map(Millis) },
        skipped,
        notes: ended.notes.clone(),
        overhead: ended.overhead.clone(),
        command: ended.command.and_then(command_end),
        stopped_by: ended.reason.to_string(),
        duration_ms: Millis(ended.ran),
    }
}

fn kernel_counts(counters: &CounterSnapshot) -> Counts {
    let get = |counter| counters.get(counter);
    let failed_by_errno = FailedByErrno {
        efault: get(Counter::ReadEfault),
        einval: get(Counter::ReadEinval),
        eagain: get(Counter::ReadEagain),
    };
    Counts {
        hits: counters.hits(),
        // What the kernel side sums up has reached its end there.
        delivered: get(Counter::Aggregated),
        filtered: get(Counter::Filtered),
        filtered_undecided: get(Counter::Undecided),
        sampled_out: get(Counter::SampledOut),
        throttled: get(Counter::Throttled),
        dropped: Dropped {
            ring_full: get(Counter::RingFull),
            no_entry: get(Counter::NoEntry),
            no_memory: get(Counter::NoMemory),
            ..Dropped::default()
        },
        reads: Reads {
            resident: get(Counter::ReadResident),
            faulted: get(Counter::ReadFaulted),
            truncated: get(Counter::ReadTruncated),
            failed: failed_by_errno.efault + failed_by_errno.einval + failed_by_errno.eagain,
            failed_by_errno,
        },
        faults: Faults { count: get(Counter::Faults), wait_ns: get(Counter::FaultWaitNs) },
        returns: Returns {
            opened: get(Counter::CallsOpened),
            returned: get(Counter::CallsReturned),
            lost: get(Counter::CallsLost),
            unfinished: 0,
        },
    }
}

/// Adds what became of the records that the kernel side wrote.
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

/// Shows the summary: as the last line of the events' output, or to people.
pub(super) fn print(summary: &Summary, json: bool, file: Option<&Path>) -> Result<(), Failure> {
    if !summary.is_conserved() {
        tracing::error!("the summary does not add up: {summary:?}");
    }
    if json {
        let mut line = Vec::new();
        json_line(summary, &mut line)?;
        let output = match file {
            Some(path) => Output::append(path),
            None => Output::stdout(),
        };
        let written =
            output.and_then(|mut output| output.write(&line, &Patience::of(SUMMARY_PATIENCE)).1);
        // An output that is closed, full or not read takes no summary either.
        if written.is_err() {
            let _ = io::stderr().lock().write_all(&line);
        }
    } else {
        let text = summary.text(colour(io::stderr().is_terminal()));
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
    Ok(())
}
