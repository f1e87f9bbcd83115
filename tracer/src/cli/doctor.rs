//! `faultline doctor`: what this kernel, these privileges and this target allow.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::{Failure, colour};
use faultline_engine::{
    Host,
    kernel::{Feature, Finding, probe_features},
};
use faultline_output::json_line;
use faultline_plan::{self as plan, Class, Costs, Form, Harm, KernelQuirks};
use faultline_resolve::{Pid, Resolver, SkipReason, View, process};
use faultline_spec::units::duration_text;

/// Show what this kernel, these privileges and this target allow
///
/// Traces one of faultline's own functions and checks what arrives. Exits with status 1 if tracing
/// cannot work.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Also check this target: a path, a library or a command
    target: Option<String>,

    /// Also check this process
    #[arg(short, long, value_name = "PID")]
    pid: Option<Pid>,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  sudo faultline doctor
  sudo faultline doctor libssl        can its functions be probed?
  sudo faultline doctor -p 1234       can this process be traced?
  sudo faultline doctor --json";

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    feature: &'a str,
    finding: &'a str,
    means: &'a str,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let machine = Host::detect();
    let mut host = probe_features();
    host.extend(machine.costs().iter().flat_map(|costs| [breakpoints(costs), returns(costs)]));
    host.extend(machine.costs().is_some().then(|| quirks(machine.quirks())).into_iter().flatten());
    let process = args.pid.map(|pid| look_at_process(pid, &machine));
    let target = args.target.as_deref().map(|target| look_at_target(target, args.pid, &machine));
    let mut out = io::stdout().lock();
    let colour = colour(out.is_terminal());
    let mut features = host.iter().chain(&process).chain(&target);
    let written = features.try_for_each(|feature| print(&mut out, feature, args.json, colour));
    match written.and_then(|()| out.flush()) {
        // `| head` is a normal end.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(anyhow::Error::new(error).context("failed to write what was found").into());
        }
        _ => {}
    }
    let fails = |feature: &Feature| feature.finding == Finding::Fails;
    if host.iter().any(fails) {
        Err(anyhow::anyhow!("tracing cannot work here").into())
    } else if process.as_ref().is_some_and(fails) {
        Err(anyhow::anyhow!("this process cannot be traced").into())
    } else if target.as_ref().is_some_and(fails) {
        Err(anyhow::anyhow!("there is nothing to trace in this target").into())
    } else {
        Ok(())
    }
}

fn print(out: &mut impl io::Write, feature: &Feature, json: bool, colour: bool) -> io::Result<()> {
    let (word, code) = match feature.finding {
        Finding::Works => ("works", "32"),
        Finding::Degraded => ("degraded", "33"),
        Finding::Fails => ("fails", "31"),
    };
    let Feature { name, means, .. } = feature;
    if json {
        let line = Line { r#type: "feature", feature: name, finding: word, means };
        json_line(&line, out)
    } else if colour {
        writeln!(out, "\x1b[{code}m{word:<9}\x1b[0m {name}: {means}")
    } else {
        writeln!(out, "{word:<9} {name}: {means}")
    }
}

/// What a hit costs, and whether that is avoidable.
fn breakpoints(costs: &Costs) -> Feature {
    let classes = costs.classes();
    let of = |class| Form::ALL.into_iter().filter(move |form| classes.of(*form) == class);
    let most_expensive = |class| of(class).filter_map(|form| costs.of_form(form)).max();
    let mut parts = Vec::new();
    for class in [Class::Optimised, Class::Emulated, Class::Simulated, Class::SingleStepped] {
        parts.extend(most_expensive(class).map(|ns| format!("{class} {}", duration_text(ns))));
    }
    let refused: Vec<_> = of(Class::Refused).map(|form| form.to_string()).collect();
    if !refused.is_empty() {
        parts.push(format!("refused at {}", refused.join(", ")));
    }
    let cheap = most_expensive(Class::Emulated).or(most_expensive(Class::Simulated)).unwrap_or(0);
    let times = costs.of_form(Form::Other).unwrap_or(0) / cheap.max(1);
    let (finding, why) = if times >= EXPENSIVE_STEPS {
        (
            Finding::Degraded,
            format!(
                ": single-stepping is {times} times more expensive than the rest (typical in VMs); \
                 breakpoints are moved off such instructions where that changes nothing (`faultline list` \
                 shows each function)"
            ),
        )
    } else {
        (Finding::Works, String::new())
    };
    let means = format!("a hit costs, by the instruction there: {}{why}", parts.join(", "));
    Feature { name: "cost of a hit", finding, means }
}

/// What a traced return costs in both ways.
fn returns(costs: &Costs) -> Feature {
    let means = format!(
        "a traced return costs {} at the function's own `ret`, {} by the kernel's return probe, which \
         replaces the return address and is used only where that does no harm",
        duration_text(costs.of_form(Form::Ret).unwrap_or(0)),
        duration_text(costs.return_ns),
    );
    Feature { name: "cost of a return", finding: Finding::Works, means }
}

/// From this ratio on, single-stepping costs so much that the user should know.
const EXPENSIVE_STEPS: u64 = 5;

/// What this kernel gets wrong.
fn quirks(quirks: KernelQuirks) -> [Feature; 2] {
    let feature = |name, bad: bool, yes: &str, no: &str| Feature {
        name,
        finding: if bad { Finding::Degraded } else { Finding::Works },
        means: if bad { no } else { yes }.to_owned(),
    };
    [
        feature(
            "return probes under seccomp",
            quirks.returns_kill_filtered,
            "a process with a seccomp filter survives a return probe",
            "a return probe kills a process whose seccomp filter does not allow the uretprobe system call: \
             `-> TYPE` is refused where there may be one (use --force to attach anyway)",
        ),
        feature(
            "five-byte nops inside functions",
            quirks.nop5_breaks_red_zone,
            "a probe there preserves the function's red zone",
            "a probe there overwrites the function's red zone, the 128 bytes below the stack pointer: \
             `+OFFSET` at one is refused (use --force to attach anyway)",
        ),
    ]
}

fn look_at_process(pid: Pid, host: &Host) -> Feature {
    let feature = |finding, means| Feature { name: "process", finding, means };
    if let Err(error) = process::check_proc() {
        return feature(Finding::Fails, error.to_string());
    }
    let comm = match process::comm(pid) {
        Ok(comm) => comm.to_string_lossy().escape_debug().to_string(),
        Err(error) => {
            return feature(Finding::Fails, format!("cannot inspect process {pid}: {error}"));
        }
    };
    if process::is_kernel_thread(pid).unwrap_or(false) {
        let means =
            format!("{pid} ({comm}) is a kernel thread, which runs no code that can be probed");
        return feature(Finding::Fails, means);
    }
    if process::has_seccomp_filter(pid).unwrap_or(false) && host.quirks().returns_kill_filtered {
        return feature(
            Finding::Degraded,
            format!(
                "{pid} ({comm}) runs under a seccomp filter, and on this kernel a return probe would kill \
                 it: `-> TYPE` is refused there"
            ),
        );
    }
    match process::maps(pid) {
        Ok(_) => feature(Finding::Works, format!("{pid} ({comm}) can be traced")),
        Err(error) => feature(
            Finding::Fails,
            format!(
                "cannot read the mappings of process {pid} ({comm}): {error} (run it with sudo)"
            ),
        ),
    }
}

fn look_at_target(target: &str, pid: Option<Pid>, host: &Host) -> Feature {
    let feature = |finding, means| Feature { name: "target", finding, means };
    let mut resolver = Resolver::new(pid.map_or(View::Host, View::Process));
    match resolver.list(target, None) {
        Err(error) => feature(Finding::Fails, error.to_string()),
        Ok(listing) => {
            let total = listing.functions.len();
            let not = super::list::refused(&listing, host);
            let path = listing.file.shown_path().display().to_string();
            let harm = plan::harm_in(&listing.file);
            if harm == Some(Harm::MovesStacks) {
                let can = functions(total - not);
                let means = format!(
                    "{path}: {can} can be probed, {not} cannot; returns need --force: {}",
                    SkipReason::MovesStacks { exits: None }
                );
                feature(Finding::Degraded, means)
            } else if let Some(harm) = harm {
                let can = functions(total - not);
                let means = format!(
                    "{path}: {can} can be probed, {not} cannot; returns are watched at the `ret` \
                     instructions, because {}",
                    harm.text()
                );
                feature(Finding::Works, means)
            } else if listing.file.has_local_symbols() {
                feature(
                    Finding::Works,
                    format!("{path}: {} can be probed, {not} cannot", functions(total - not)),
                )
            } else {
                feature(
                    Finding::Degraded,
                    format!(
                        "{path} is stripped: only its exports can be probed, {} (install its \
                         debug symbols to see the rest)",
                        functions(total - not)
                    ),
                )
            }
        }
    }
}

fn functions(count: usize) -> String {
    format!("{count} function{}", if count == 1 { "" } else { "s" })
}
