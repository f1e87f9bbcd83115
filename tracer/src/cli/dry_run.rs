//! `--dry-run`: what would be attached, and what it would cost.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write as _},
};

use serde::Serialize;
use tracer_common::Action;

use super::{
    Failure, command,
    preview::{Load, Preview},
    report,
    selection::{Selected, SelectionArgs},
};
use faultline_engine::{caveats, kernel::Features};
use faultline_output::{json_line, summary::SkippedProbe};
use faultline_plan::{AttachPlan, Costs, Harm, Place, PlannedProbe, ProbeId, WatchedReturn};
use faultline_spec::units::{counted, duration_text};

/// One line of `--json`.
#[derive(Serialize)]
struct PlannedLine<'a> {
    r#type: &'static str,
    probe: &'a str,
    file: Cow<'a, str>,
    offset: u64,
    args: Vec<&'a str>,
    ret: bool,
    #[serde(flatten)]
    returns: Option<ReturnLine>,
    #[serde(flatten)]
    place: PlaceLine,
    #[serde(flatten)]
    load: Option<Load>,
    #[serde(flatten)]
    options: &'a BTreeMap<&'static str, String>,
}

/// How the return is watched, in JSON.
#[derive(Debug, Serialize)]
pub(super) struct ReturnLine {
    /// `ret` or `uretprobe`.
    returns: &'static str,
    /// Where in the file, if at the function's exits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exits: Vec<u64>,
    /// What the kernel's return probe could do.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
}

impl ReturnLine {
    pub(super) fn of(probe: &PlannedProbe) -> Option<Self> {
        probe.ret.as_ref()?;
        Some(match &probe.watched {
            WatchedReturn::Kernel => {
                Self { returns: "uretprobe", exits: Vec::new(), because: None }
            }
            WatchedReturn::Exits { exits, because } => Self {
                returns: "ret",
                exits: exits.iter().map(|exit| exit.offset.0).collect(),
                because: because.map(Harm::word),
            },
        })
    }
}

/// The same in words.
fn returns(probe: &PlannedProbe) -> String {
    match (&probe.ret, at_exits(probe)) {
        (None, _) => String::new(),
        (Some(_), None) => " and its return".to_owned(),
        (Some(_), Some(at_exits)) => format!(" and its return, {at_exits}"),
    }
}

/// `at 2 exits`, and why, if the return is watched at the function's exits.
pub(super) fn at_exits(probe: &PlannedProbe) -> Option<String> {
    let WatchedReturn::Exits { exits, because } = &probe.watched else { return None };
    let why = because.map_or_else(String::new, |harm| format!(": {}", harm.text()));
    Some(format!("at {}{why}", counted(exits.len(), "exit")))
}

/// Where a breakpoint goes and what a call costs there, in JSON.
#[derive(Serialize)]
pub(super) struct PlaceLine {
    moved_bytes: u64,
    class: String,
    entry_class: String,
    /// Nanoseconds that a call costs, measured on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_a_call: Option<u64>,
}

impl PlaceLine {
    pub(super) fn new(place: &Place, ns_a_call: Option<u64>) -> Self {
        let Place { moved_bytes, class, entry_class, .. } = place;
        let (class, entry_class) = (class.to_string(), entry_class.to_string());
        Self { moved_bytes: *moved_bytes, class, entry_class, ns_a_call }
    }
}

/// A function that is left out.
#[derive(Serialize)]
struct SkippedLine<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    skipped: &'a SkippedProbe,
}

/// The last line.
#[derive(Serialize)]
struct PlanLine {
    r#type: &'static str,
    probes: usize,
    links: usize,
    skipped: usize,
    #[serde(flatten)]
    load: Option<Load>,
}

/// Shows what would be attached for `action`; after a short count of calls, if that is wanted.
pub(super) fn run(
    args: &SelectionArgs,
    mut selected: Selected,
    action: Action,
) -> Result<(), Failure> {
    if let Some(name) = selected.command.as_ref().and_then(|command| command.first()) {
        command::find(name)?;
    }
    let preview = args.preview.map(|time| Preview::of(&selected, action, time)).transpose()?;
    let unsupported = selected.plan().unsupported().map(|skipped| report::skipped(&skipped));
    let unsupported: Vec<_> = unsupported.collect();
    selected.skipped.extend(unsupported);
    if !args.json {
        report::remarks(selected.plan(), &caveats::from_symbols(selected.plan()));
    }
    let dry_run = DryRun { action, costs: selected.host.costs(), selected, preview };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let shown = if args.json { dry_run.json(&mut out) } else { dry_run.text(&mut out) };
    match shown.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("failed to write the plan").into())
        }
        _ => Ok(()),
    }
}

struct DryRun {
    selected: Selected,
    action: Action,
    costs: Option<Costs>,
    preview: Option<Preview>,
}

impl DryRun {
    fn text(&self, out: &mut impl io::Write) -> io::Result<()> {
        let Selected { pids, command, skipped, .. } = &self.selected;
        let plan = self.selected.plan();
        for file in &plan.files {
            writeln!(out, "{}", file.file.shown_path().display())?;
            for (id, probe) in supported(plan, &file.probes) {
                let args: Vec<_> = probe.args.iter().map(|arg| &*arg.name).collect();
                let ret = returns(probe);
                let load = self.preview.as_ref().map(|preview| preview.load_of(id).text());
                writeln!(
                    out,
                    "  {:>#10x}  {}({}){ret}  {}{}",
                    probe.offset.0,
                    probe.label.escape_debug(),
                    args.join(", "),
                    placed(&probe.place, self.cost(probe)),
                    load.unwrap_or_default(),
                )?;
            }
        }
        let processes = match (pids.as_slice(), command) {
            ([], None) => "every process".to_owned(),
            ([], Some(_)) => "the command".to_owned(),
            (pids, _) => {
                let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
                format!("process {}", pids.join(", "))
            }
        };
        for SkippedProbe { probe, reason } in skipped {
            // Our own words; only the names in them may be odd.
            let reason = reason.escape_debug().to_string().replace("\\'", "'");
            writeln!(out, "skipped {}: {reason}", probe.escape_debug())?;
        }
        for (option, value) in self.options() {
            writeln!(out, "{option} {value}")?;
        }
        if let Some(preview) = &self.preview {
            writeln!(out, "{}", preview.sentence())?;
        }
        let nothing =
            if self.preview.is_some() { "nothing is attached now" } else { "nothing was attached" };
        writeln!(
            out,
            "would attach {} in {processes} with {}; {} skipped; {nothing} (--dry-run)",
            counted(self.probes(), "probe"),
            counted(self.links(), "link"),
            skipped.len(),
        )
    }

    fn json(&self, out: &mut impl io::Write) -> io::Result<()> {
        let (plan, skipped) = (self.selected.plan(), &self.selected.skipped);
        let options = self.options().into_iter().collect();
        for file in &plan.files {
            for (id, probe) in supported(plan, &file.probes) {
                let line = PlannedLine {
                    r#type: "planned",
                    probe: &probe.label,
                    file: file.file.shown_path().to_string_lossy(),
                    offset: probe.offset.0,
                    args: probe.args.iter().map(|arg| &*arg.name).collect(),
                    ret: probe.ret.is_some(),
                    returns: ReturnLine::of(probe),
                    place: PlaceLine::new(&probe.place, self.cost(probe)),
                    load: self.preview.as_ref().map(|preview| preview.load_of(id)),
                    options: &options,
                };
                json_line(&line, out)?;
            }
        }
        for skipped in skipped {
            let line = SkippedLine { r#type: "skipped", skipped };
            json_line(&line, out)?;
        }
        let line = PlanLine {
            r#type: "plan",
            probes: self.probes(),
            links: self.links(),
            skipped: skipped.len(),
            load: self.preview.as_ref().map(Preview::load),
        };
        json_line(&line, out)
    }

    /// How many would be attached.
    fn probes(&self) -> usize {
        self.selected.plan().probes.iter().filter(|probe| probe.is_supported()).count()
    }

    fn cost(&self, probe: &PlannedProbe) -> Option<u64> {
        self.costs.map(|costs| costs.of_call(probe, self.action))
    }

    /// The options that limit the probes, and their values.
    fn options(&self) -> Vec<(&'static str, String)> {
        let Selected { condition, sample, rate, .. } = &self.selected;
        let condition = condition.as_ref().map(|condition| ("where", condition.to_string()));
        let sample = sample.map(|sample| ("sample", sample.to_string()));
        let rate = rate.map(|rate| ("rate", rate.to_string()));
        [condition, sample, rate].into_iter().flatten().collect()
    }

    /// Links that the plan takes on this kernel; on one that lacks nothing, where we may not ask.
    fn links(&self) -> usize {
        let features = self.selected.host.features().unwrap_or(Features::ALL);
        self.selected.prepared.links(features)
    }
}

/// `+4 emulated (was single-stepped), 470ns a call`.
pub(super) fn placed(place: &Place, ns_a_call: Option<u64>) -> String {
    let class = match place.moved_bytes {
        0 => place.class.to_string(),
        // Go's check of the stack is passed at any price.
        moved if place.class == place.entry_class => format!("+{moved} {}", place.class),
        moved => format!("+{moved} {} (was {})", place.class, place.entry_class),
    };
    let cost = ns_a_call.map_or_else(String::new, |ns| format!(", {} a call", duration_text(ns)));
    format!("{class}{cost}")
}

/// Those of the probes that would be attached.
fn supported<'a>(
    plan: &'a AttachPlan,
    ids: &'a [ProbeId],
) -> impl Iterator<Item = (ProbeId, &'a PlannedProbe)> {
    let probes = ids.iter().filter_map(|id| Some((*id, plan.probes.get(id.0 as usize)?)));
    probes.filter(|(_, probe)| probe.is_supported())
}
