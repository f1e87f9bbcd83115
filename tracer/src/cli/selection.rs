//! The arguments that every tracing command shares: which probes, in which processes, for how long.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tracer_common::Action;

use super::{Failure, report, tell::tell};
use faultline_engine::{
    Host,
    discovery::Prepared,
    limiter::{OverheadLimit, OverheadPolicy},
    request::{Placement, Request, RequestText, Selection},
};
use faultline_output::{Format, summary::SkippedProbe};
use faultline_plan::{ActionNeeds, AttachPlan, PlannedFile, Returns};
use faultline_resolve::{
    Pid, Skipped,
    process::{self, MappingSource},
    skip,
};
use faultline_spec::{Condition, ProbeSpec, Rate, Sample, SpecError, TypeError, units};

/// Which probes, in which processes, for how long.
#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// What to probe: TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]
    #[arg(required = true, value_name = "PROBE")]
    probes: Vec<String>,

    /// Trace this process and its threads, and with --follow its children; names and paths are resolved
    /// in its view of the file system (repeatable)
    #[arg(short = 'p', long = "pid", value_name = "PID")]
    pids: Vec<Pid>,

    /// Start this command, trace it from its first instruction, and stop when it exits; its standard
    /// output is redirected to standard error, so that standard output carries only events
    #[arg(short = 'c', long = "command", value_name = "COMMAND", conflicts_with = "pids")]
    command: Option<String>,

    /// With -p or -c: trace the children of the process too, each from its first instruction, also when
    /// they execute other programs; every process that runs the code then pays for the breakpoints.
    /// Without it a child is freed of the breakpoints that it inherits within about a second
    #[arg(short = 'f', long)]
    follow: bool,

    /// Stop after this time (10s, 500ms, 2h)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) duration: Option<Duration>,

    /// Print one JSON object per line
    #[arg(long)]
    pub(super) json: bool,

    /// Only calls that match this condition: size > 4096 && path ^= "/etc/" (see docs/where.md)
    #[arg(long = "where", value_name = "EXPR")]
    condition: Option<String>,

    /// Only this share of the calls, chosen at random: 1/100 (not with `count`, which counts every call)
    #[arg(long, value_name = "1/N")]
    sample: Option<Sample>,

    /// At most this many calls of each probe: 1000/s, 20/m; bursts of up to a tenth of the number pass
    /// (not with `count`)
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,

    /// Let probes use at most this share of all CPUs: 2%; see --overhead-policy for what happens above
    /// the limit (and docs/budget.md)
    #[arg(long, value_name = "PERCENT")]
    max_overhead: Option<OverheadLimit>,

    /// What to do above --max-overhead: `detach` detaches the costliest probes and retries them later;
    /// `duty-cycle` attaches all probes for part of the time and estimates the rest
    #[arg(long, value_enum, requires = "max_overhead", value_name = "POLICY")]
    overhead_policy: Option<PolicyArg>,

    /// Show what would be attached and what a call would cost, without attaching anything
    #[arg(long)]
    pub(super) dry_run: bool,

    /// With --dry-run: first count calls for this time, to estimate what tracing them would cost
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "dry_run")]
    pub(super) preview: Option<Duration>,

    /// Trace even where that may hurt the program: returns that can only be traced by replacing the
    /// return address (an exception or panic that passes through such a function kills the program),
    /// labels that may be data, code that was changed in memory, programs that replace their code by a
    /// copy, and whatever this kernel gets wrong (see `faultline doctor`; before Linux 6.6 this includes
    /// arguments on absent pages: while one page is awaited, all probes on that CPU wait)
    #[arg(long)]
    force: bool,

    /// How to trace returns: `ret` at the function's own `ret` instructions, which changes nothing on
    /// the stack; `uretprobe` by the kernel's return probe, which replaces the return address; `auto`
    /// uses the first where the second could do harm or costs more (see docs/safety.md)
    #[arg(long, value_name = "WAY", default_value_t, hide_default_value = true)]
    #[arg(value_parser = returns_parser())]
    returns: Returns,

    /// Where to put breakpoints: `auto` picks the cheapest of a function's first instructions, if that
    /// makes no visible difference; `entry` always uses the first (in Go the first behind the check of
    /// the stack); `fast` also goes past reads through
    /// pointers, so that a call that crashes in one of them is not seen
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    placement: PlacementArg,

    /// Fail if any function cannot be probed, instead of tracing the rest
    #[arg(long)]
    pub(super) strict: bool,
}

/// The ways to trace returns, by name.
pub(super) fn returns_parser() -> impl clap::builder::TypedValueParser<Value = Returns> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(Returns::ALL.map(|(_, name)| name))
        .try_map(|name| name.parse::<Returns>())
}

pub(super) fn duration(text: &str) -> Result<Duration, units::UnitError> {
    units::parse_duration(text)
}

/// Where to put breakpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum PlacementArg {
    /// At the cheapest place.
    #[default]
    Auto,
    /// At the function's first instruction.
    Entry,
    /// At the cheapest place, even behind reads through pointers.
    Fast,
}

/// What to do about too much overhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PolicyArg {
    /// Detach the costliest probes.
    Detach,
    /// Attach all probes for part of the time.
    DutyCycle,
}

impl From<PolicyArg> for OverheadPolicy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Detach => Self::Detach,
            PolicyArg::DutyCycle => Self::DutyCycle,
        }
    }
}

impl From<PlacementArg> for Placement {
    fn from(placement: PlacementArg) -> Self {
        match placement {
            PlacementArg::Auto => Self::Auto,
            PlacementArg::Entry => Self::Entry,
            PlacementArg::Fast => Self::Fast,
        }
    }
}

/// What the user asked for, resolved on this machine.
#[derive(Debug)]
pub(super) struct Selected {
    /// This machine.
    pub(super) host: Host,
    /// What to attach.
    pub(super) prepared: Prepared,
    /// The processes to trace; a command's process is added when it is started.
    pub(super) pids: Vec<Pid>,
    /// The command to start.
    pub(super) command: Option<Vec<String>>,
    /// Which hits to keep; also part of the plan.
    pub(super) condition: Option<Condition>,
    /// The share of calls to keep.
    pub(super) sample: Option<Sample>,
    /// How many calls of each probe to keep.
    pub(super) rate: Option<Rate>,
    /// How much of the host the probes may use.
    pub(super) overhead: Option<OverheadLimit>,
    /// Trace even where that may hurt the program.
    pub(super) force: bool,
    /// Trace children, too.
    pub(super) follow: bool,
    /// What cannot be probed, and why.
    pub(super) skipped: Vec<SkippedProbe>,
}

impl Selected {
    /// What would be attached.
    pub(super) fn plan(&self) -> &AttachPlan {
        self.prepared.plan()
    }

    /// Functions for which only calls are counted. Calls that a limit keeps out are not counted.
    pub(super) fn counts(
        host: Host,
        spec: ProbeSpec,
        pids: Vec<Pid>,
        command: Option<Vec<String>>,
    ) -> Self {
        Self::plainly(Action::Count, host, spec, pids, command)
    }

    /// Functions whose returns are traced.
    pub(super) fn returning(host: Host, spec: ProbeSpec, pids: Vec<Pid>) -> Self {
        Self::plainly(Action::Latency, host, spec, pids, None)
    }

    fn plainly(
        action: Action,
        host: Host,
        spec: ProbeSpec,
        pids: Vec<Pid>,
        command: Option<Vec<String>>,
    ) -> Self {
        let selection = selection(&pids, command.is_some());
        let request = Request { action, ..request(spec, selection) };
        let prepared = Prepared::new(&host, vec![request]);
        Self::counted(host, prepared, pids, command)
    }

    /// The same functions, but only counting every call.
    pub(super) fn counting(&self) -> Self {
        let (pids, command) = (self.pids.clone(), self.command.clone());
        Self::counted(self.host, self.prepared.counting(), pids, command)
    }

    fn counted(
        host: Host,
        prepared: Prepared,
        pids: Vec<Pid>,
        command: Option<Vec<String>>,
    ) -> Self {
        Self {
            host,
            prepared,
            pids,
            command,
            condition: None,
            sample: None,
            rate: None,
            overhead: None,
            force: false,
            follow: false,
            skipped: Vec::new(),
        }
    }
}

/// The processes in which breakpoints are set.
fn selection(pids: &[Pid], command: bool) -> Selection {
    match pids {
        _ if command => Selection::Command,
        [] => Selection::All,
        pids => Selection::Pids(pids.to_vec()),
    }
}

/// A plain request for a probe, with everything else left out.
fn request(spec: ProbeSpec, selection: Selection) -> Request {
    let text = spec.to_string();
    Request {
        name: text.as_str().into(),
        spec,
        action: Action::Events,
        selection,
        condition: None,
        huge_pages: false,
        sample: None,
        rate: None,
        force: false,
        follow: false,
        returns: Returns::default(),
        placement: Placement::default(),
        text: RequestText { probe: text, ..RequestText::default() },
    }
}

impl SelectionArgs {
    /// The format that the run writes.
    pub(super) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }

    /// Parses, resolves and plans. Functions that cannot be probed are listed on standard error.
    pub(super) fn select(&self, action: Action) -> Result<Selected, Failure> {
        if !ActionNeeds::of(action).samples {
            self.refuse_limits("it counts every call in the kernel, which costs next to nothing")?;
        }
        let condition = self.condition()?;
        let specs = self.specs()?;
        let condition = condition.map(|condition| about(condition, &specs)).transpose()?;
        let command = self.command.as_deref().map(command_words).transpose()?;
        if self.follow && command.is_none() && self.pids.is_empty() {
            let why = "--follow needs -p or -c: without them every process is traced anyway";
            return Err(Failure::Usage(why.to_owned()));
        }
        // A process given twice is traced once.
        let mut pids = self.pids.clone();
        pids.sort_unstable();
        pids.dedup();
        for pid in &pids {
            check_process(*pid)?;
        }
        let requests = specs.into_iter().map(|spec| Request {
            action,
            condition: condition.clone(),
            huge_pages: command.as_deref().is_some_and(asks_for_huge_pages),
            sample: self.sample,
            rate: self.rate,
            force: self.force,
            follow: self.follow,
            returns: self.returns,
            placement: self.placement.into(),
            ..request(spec, selection(&pids, command.is_some()))
        });
        let host = Host::detect();
        let prepared = Prepared::new(&host, requests.collect());
        let not_found: Vec<_> = prepared
            .problems
            .iter()
            .map(|(request, why)| (request.spec.to_string(), why.to_string()))
            .collect();
        self.judge(prepared.plan(), &not_found)?;
        warn_unmapped(prepared.plan(), &pids);
        let not_found = not_found.into_iter().map(|(probe, reason)| SkippedProbe { probe, reason });
        let skipped =
            not_found.chain(prepared.plan().skipped.iter().map(report::skipped)).collect();
        Ok(Selected {
            host,
            prepared,
            pids,
            command,
            condition,
            sample: self.sample,
            rate: self.rate,
            overhead: self.overhead(),
            force: self.force,
            follow: self.follow,
            skipped,
        })
    }

    /// Refuses `--sample` and `--rate` for a command that takes every call into account anyway.
    fn refuse_limits(&self, why: &str) -> Result<(), Failure> {
        let given = [("--sample", self.sample.is_some()), ("--rate", self.rate.is_some())];
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                Err(Failure::Usage(format!("{option} has no use with this command: {why}")))
            }
            None => Ok(()),
        }
    }

    fn overhead(&self) -> Option<OverheadLimit> {
        let policy = self.overhead_policy.map(OverheadPolicy::from).unwrap_or_default();
        self.max_overhead.map(|limit| limit.with_policy(policy))
    }

    fn condition(&self) -> Result<Option<Condition>, Failure> {
        let parse = |text: &String| text.parse::<Condition>().map_err(|e| wrong_condition(&e));
        self.condition.as_ref().map(parse).transpose()
    }

    fn specs(&self) -> Result<Vec<ProbeSpec>, Failure> {
        let spec = |text: &String| {
            text.parse().map_err(|error: SpecError| Failure::Usage(error.to_string()))
        };
        self.probes.iter().map(spec).collect()
    }

    /// Reports what cannot be probed. Fails if nothing can be probed, or with `--strict` if anything
    /// cannot.
    fn judge(&self, plan: &AttachPlan, not_found: &[(String, String)]) -> Result<(), Failure> {
        let nothing_left = plan.probes.is_empty();
        let missing = not_found.len() + plan.skipped.len();
        if nothing_left || self.strict {
            // A single reason is the error itself. With several, each is a warning and the error counts
            // them.
            match (not_found, plan.skipped.as_slice()) {
                ([(_, error)], []) => return Err(anyhow!("{error}").into()),
                ([], [skipped]) => {
                    let Skipped { label, reason } = skipped;
                    return Err(anyhow!("cannot probe `{label}`: {reason}").into());
                }
                _ => {}
            }
        }
        for (probe, error) in not_found {
            tell!("warning: `{}` is not traced: {error}", probe.escape_debug());
        }
        tell_skipped(&plan.skipped);
        if nothing_left {
            if missing == 0 {
                // Found and looked at, until it ended.
                self.pids.iter().try_for_each(|pid| check_process(*pid))?;
            }
            return Err(anyhow!("nothing to trace: none of the probes can be attached").into());
        }
        if self.strict && missing != 0 {
            let what = if missing == 1 { "probe" } else { "probes" };
            return Err(anyhow!("{missing} {what} cannot be attached (--strict)").into());
        }
        Ok(())
    }
}

/// The condition, if it applies to at least one of the probes and is not wrong for any of them. Probes
/// that it does not apply to are skipped, with that reason, at planning.
fn about(condition: Condition, specs: &[ProbeSpec]) -> Result<Condition, Failure> {
    let mut absent = Vec::new();
    for spec in specs {
        match condition.typed(spec) {
            Ok(_) => {}
            Err(TypeError::Absent { error, .. }) => absent.push(error),
            Err(TypeError::Wrong(error)) => return Err(wrong_condition(&error)),
        }
    }
    match absent.first() {
        Some(error) if absent.len() == specs.len() => Err(wrong_condition(error)),
        _ => Ok(condition),
    }
}

fn wrong_condition(error: &SpecError) -> Failure {
    Failure::Usage(format!("--where: {error}"))
}

/// Reports files that none of the processes maps: a process that still runs the old version of a
/// replaced file looks just like one that does not use the file.
fn warn_unmapped(plan: &AttachPlan, pids: &[Pid]) {
    if pids.is_empty() {
        return;
    }
    let maps = pids.iter().map(|pid| process::maps(*pid)).collect::<Result<Vec<_>, _>>();
    // A process that has ended is reported elsewhere.
    let Ok(maps) = maps else { return };
    for PlannedFile { file, .. } in &plan.files {
        let is_mapped = maps.iter().flatten().any(|mapping| {
            // An overlay filesystem shows different inode numbers there.
            let same_path = matches!(
                &mapping.source,
                MappingSource::File { path, deleted: false } if path == file.shown_path()
            );
            same_path || mapping.inode == file.id().inode()
        });
        if !is_mapped {
            tell!(
                "warning: no process given by -p has {} mapped: it is not used yet, or the process \
                 runs an older version that has been replaced (use `/proc/PID/exe` to probe a \
                 running program)",
                file.shown_path().display()
            );
        }
    }
}

/// Reports functions that cannot be probed: one line per reason, with the first few names.
pub(super) fn tell_skipped(skipped: &[Skipped]) {
    tell_groups(skipped, "not traced");
}

/// Reports functions that are traced, but not in processes that run other code than the file says.
pub(super) fn tell_differing(differing: &[Skipped]) {
    tell_groups(differing, "not traced everywhere");
}

fn tell_groups(skipped: &[Skipped], what: &str) {
    const NAMED: usize = 3;
    for group in skip::by_kind(skipped) {
        let labels = group.skipped.iter().map(|skipped| &skipped.label);
        let named: Vec<_> =
            labels.take(NAMED).map(|label| format!("`{}`", label.escape_debug())).collect();
        let more = match group.skipped.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more (--json lists them in its summary)"),
        };
        let are = if group.skipped.len() == 1 { "is" } else { "are" };
        tell!("warning: {}{more} {are} {what}: {group}", named.join(", "));
    }
}

fn check_process(pid: Pid) -> Result<(), Failure> {
    process::check_proc().map_err(anyhow::Error::from)?;
    match process::thread_group(pid) {
        Ok(group) if group == pid => match process::is_kernel_thread(pid) {
            Ok(true) => Err(Failure::Usage(format!(
                "{pid} is a kernel thread and has no user code to probe"
            ))),
            _ => Ok(()),
        },
        Ok(group) => {
            Err(Failure::Usage(format!("{pid} is a thread of process {group} (use `-p {group}`)")))
        }
        Err(_) if !process::exists(pid) => Err(anyhow!("no process {pid}").into()),
        Err(error) => Err(anyhow::Error::new(error)
            .context(format!("failed to inspect process {pid}"))
            .into()),
    }
}

/// Whether a command asks node to put its code on huge pages, by an option or the environment.
fn asks_for_huge_pages(words: &[String]) -> bool {
    let options = std::env::var("NODE_OPTIONS").unwrap_or_default();
    let mut all = words.iter().map(String::as_str).chain(options.split_whitespace());
    all.any(|word| {
        let value = word.strip_prefix("--use-largepages");
        value.is_some_and(|value| value.is_empty() || matches!(value, "=on" | "=silent"))
    })
}

/// The words of a command, split as a shell would.
pub(super) fn command_words(command: &str) -> Result<Vec<String>, Failure> {
    match shlex::split(command) {
        Some(words) if !words.is_empty() => {
            const SHELL: [&str; 9] = ["|", "||", "&", "&&", ";", "<", ">", ">>", "2>&1"];
            if let Some(word) = words.iter().find(|word| SHELL.contains(&word.as_str())) {
                tell!(
                    "note: `-c` starts a program, not a shell, and gives it `{word}` as an argument \
                     (for a shell: -c 'sh -c \"…\"')"
                );
            }
            Ok(words)
        }
        Some(_) => Err(Failure::Usage("`-c` needs a command".to_owned())),
        None => Err(Failure::Usage(format!("unclosed quote in `-c {command}`"))),
    }
}
