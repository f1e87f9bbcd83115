//! `faultline list`: which functions of a target can be probed, and what each hit will cost.

use std::{
    collections::HashMap,
    io::{self, BufWriter, IsTerminal as _, Write},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tracer_common::Action;

use super::{
    Failure, colour,
    dry_run::{PlaceLine, ReturnLine, at_exits, placed},
    preview::{Load, Preview},
    selection::{Selected, command_words, duration},
    tell::tell,
};
use faultline_engine::Host;
use faultline_output::{Palette, json_line};
use faultline_plan::{self as plan, Costs, Outlook, Place, Surveyed};
use faultline_resolve::{
    self as resolve, Caveat, FileOffset, ListedFunction, Listing, Pid, Resolver, SkipReason, View,
    process,
};
use faultline_spec::{FunctionPattern, ProbeSpec, units::duration_text};

/// Show which functions can be probed, and what each hit will cost
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// A path, library or command, optionally with a function name, a glob or a /regex/
    #[arg(value_name = "TARGET[:PATTERN]")]
    target: String,

    /// Resolve the target as this process sees it
    #[arg(short, long, value_name = "PID")]
    pid: Option<Pid>,

    /// With --preview: start this command and count its calls
    #[arg(short = 'c', long = "command", value_name = "COMMAND", conflicts_with = "pid")]
    #[arg(requires = "preview")]
    command: Option<String>,

    /// Count calls for this time first (in the process, in the command, or everywhere) to estimate what
    /// tracing them would cost
    #[arg(long, value_name = "TIME", value_parser = duration)]
    preview: Option<Duration>,

    /// Also show how the return of each function would be traced, why so, and what a call would cost then
    #[arg(long, conflicts_with = "preview")]
    returns: bool,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  faultline list libc:'open*'
  faultline list bash
  faultline list -p 1234 'libssl:/^SSL_(read|write)$/' --json
  faultline list -p 1234 libc:'mem*' --preview 2s   how often is each called, and at what cost?
  faultline list libc:'mem*' --returns              what would it take to trace their returns?

The cost of a hit depends on the instruction under the breakpoint. `+4 emulated (was
single-stepped)` means that the breakpoint is placed 4 bytes further on, which changes nothing that
you see. Costs are measured once on this machine (as root), for a probe that counts. With arguments
or a return the breakpoint may have to stay at the entry: `faultline trace … --dry-run` shows where
it goes.";

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    function: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    name: &'a str,
    address: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    aliases: &'a [Arc<str>],
    #[serde(flatten)]
    place: Option<PlaceLine>,
    #[serde(skip_serializing_if = "is_false")]
    doubtful: bool,
    #[serde(flatten)]
    load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#return: Option<&'a Return>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unprobeable: Option<String>,
}

/// How a function's return would be traced.
#[derive(Debug, Serialize)]
struct Return {
    #[serde(flatten)]
    line: Option<ReturnLine>,
    /// Nanoseconds of the whole call, measured on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_a_call: Option<u64>,
    /// Why it would not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    untraceable: Option<String>,
    #[serde(skip)]
    text: String,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// What is known of a target's functions.
struct List {
    listing: Listing,
    /// By function of the listing.
    prospects: Vec<Prospect>,
    costs: Option<Costs>,
    preview: Option<(Preview, HashMap<FileOffset, Load>)>,
    returns: Option<Returning>,
}

/// How the returns of functions would be traced.
#[derive(Debug, Default)]
struct Returning {
    /// By where the function begins.
    traced: HashMap<FileOffset, Return>,
    /// By the probe's name.
    refused: HashMap<Arc<str>, Return>,
}

/// How a probe on a function would fare.
enum Prospect {
    Placed { place: Place, doubtful: bool },
    Refused(SkipReason),
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (target, pattern) = target_and_pattern(&args.target)?;
    if args.pid.is_some() {
        process::check_proc().map_err(anyhow::Error::from)?;
    }
    let mut resolver = Resolver::new(args.pid.map_or(View::Host, View::Process));
    let listing = resolver.list(&target, pattern.as_ref())?;
    for other in resolver.targets(&target)?.iter().skip(1) {
        let path = other.shown_path().display();
        tell!("note: the process also maps {path}; list it by its path");
    }
    if matches!(pattern, Some(FunctionPattern::Name(_))) {
        tell_copies(&listing);
    }
    let host = Host::detect();
    let function = pattern.unwrap_or_else(|| FunctionPattern::Glob("*".to_owned()));
    let spec = ProbeSpec { target, function, offset: 0, args: Vec::new(), ret: None };
    let returns = args.returns.then(|| returning(args, &host, spec.clone()));
    let preview = match args.preview {
        Some(time) => Some(preview(args, &host, spec, time)?),
        None => None,
    };
    let prospects = prospects(&listing, &host);
    let list = List { prospects, listing, costs: host.costs(), preview, returns };
    let stdout = io::stdout().lock();
    let palette = Palette::new(colour(stdout.is_terminal()));
    let mut out = BufWriter::new(stdout);
    let written = if args.json { list.json(&mut out) } else { list.text(&mut out, palette) };
    match written.and_then(|()| out.flush()) {
        // `| head` is a normal end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("failed to write the list").into()),
        Ok(()) => Ok(()),
    }
}

/// A function that is asked for by name may have copies that a pattern would have shown.
fn tell_copies(listing: &Listing) {
    let symbols: Vec<_> = listing.functions.iter().map(|function| &*function.symbol).collect();
    let copies = resolve::copies(&listing.file, &symbols);
    for (function, names) in listing.functions.iter().zip(copies) {
        if !names.is_empty() {
            let (base, name) = (&listing.base, function.display_name.escape_debug());
            tell!("note: {base}:{name}: {}", Caveat::Copies { names });
        }
    }
}

/// Splits the argument as a probe would be; without a colon, all of it is the target.
fn target_and_pattern(text: &str) -> Result<(String, Option<FunctionPattern>), Failure> {
    match text.parse::<ProbeSpec>() {
        Ok(spec) => Ok((spec.target, Some(spec.function))),
        Err(_) if !text.contains(':') => Ok((text.to_owned(), None)),
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

/// How a probe on each function would fare.
fn prospects(listing: &Listing, host: &Host) -> Vec<Prospect> {
    let entry = |function: &ListedFunction| {
        let offset = function.offset.filter(|_| function.unprobeable.is_none());
        // Nothing is at the end of all offsets.
        let entry = offset.unwrap_or(FileOffset(u64::MAX));
        Surveyed { entry, size_bytes: function.size_bytes, is_label: function.is_label }
    };
    let entries: Vec<_> = listing.functions.iter().map(entry).collect();
    let outlooks = plan::survey(&listing.file, &entries, &resolve::code_pieces, &host.classes());
    let prospect = |(function, outlook): (&ListedFunction, Outlook)| match outlook {
        _ if let Some(reason) = &function.unprobeable => Prospect::Refused(reason.clone()),
        Outlook::Placed(place) => Prospect::Placed { place, doubtful: false },
        Outlook::Doubtful(place) => Prospect::Placed { place, doubtful: true },
        Outlook::Refused(reason) => Prospect::Refused(reason),
    };
    listing.functions.iter().zip(outlooks).map(prospect).collect()
}

/// How many of the functions cannot be probed.
pub(super) fn refused(listing: &Listing, host: &Host) -> usize {
    count_refused(&prospects(listing, host))
}

fn count_refused(prospects: &[Prospect]) -> usize {
    prospects.iter().filter(|prospect| matches!(prospect, Prospect::Refused(_))).count()
}

/// Counts the calls; by the offset of each function.
fn preview(
    args: &Args,
    host: &Host,
    spec: ProbeSpec,
    time: Duration,
) -> Result<(Preview, HashMap<FileOffset, Load>), Failure> {
    let command = args.command.as_deref().map(command_words).transpose()?;
    let selected = Selected::counts(*host, spec, args.pid.into_iter().collect(), command);
    let preview = Preview::of(&selected, Action::Count, time)?;
    let loads = selected.plan().probes.iter().enumerate().map(|(index, probe)| {
        let entry = FileOffset(probe.offset.0 - probe.place.moved_bytes);
        (entry, preview.load_of(plan::ProbeId(index as u32)))
    });
    let loads = loads.collect();
    Ok((preview, loads))
}

/// Plans a probe with its return on each function.
fn returning(args: &Args, host: &Host, spec: ProbeSpec) -> Returning {
    let selected = Selected::returning(*host, spec, args.pid.into_iter().collect());
    let plan = selected.plan();
    let traced = plan.probes.iter().map(|probe| {
        let entry = FileOffset(probe.offset.0 - probe.place.moved_bytes);
        let text = at_exits(probe).unwrap_or_else(|| "by the kernel's return probe".to_owned());
        let ns_a_call = host.costs().map(|costs| costs.of_call(probe, Action::Latency));
        let text = match ns_a_call {
            Some(ns) => format!("return {text}, {} a call", duration_text(ns)),
            None => format!("return {text}"),
        };
        (entry, Return { line: ReturnLine::of(probe), ns_a_call, untraceable: None, text })
    });
    let refused = plan.skipped.iter().map(|skipped| {
        let reason = skipped.reason.to_string();
        let text = format!("its return cannot be traced: {reason}");
        let refused = Return { line: None, ns_a_call: None, untraceable: Some(reason), text };
        (Arc::clone(&skipped.label), refused)
    });
    Returning { traced: traced.collect(), refused: refused.collect() }
}

impl List {
    /// How a function's return would be traced; `None` if that was not asked, or it cannot be probed at all.
    fn returned(&self, function: &ListedFunction) -> Option<&Return> {
        let Returning { traced, refused } = self.returns.as_ref()?;
        let label = format!("{}:{}", self.listing.base, function.display_name);
        traced.get(&function.offset?).or_else(|| refused.get(label.as_str()))
    }

    fn rows(&self) -> impl Iterator<Item = (&ListedFunction, &Prospect, Option<Load>)> {
        self.listing.functions.iter().zip(&self.prospects).map(|(function, prospect)| {
            let load = |(_, loads): &(_, HashMap<_, _>)| loads.get(&function.offset?).copied();
            (function, prospect, self.preview.as_ref().and_then(load))
        })
    }

    fn cost(&self, place: &Place) -> Option<u64> {
        self.costs.map(|costs| costs.of_hit(place))
    }

    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        for (function, prospect, load) in self.rows() {
            let (place, doubtful, unprobeable) = match prospect {
                Prospect::Placed { place, doubtful } => {
                    (Some(PlaceLine::new(place, self.cost(place))), *doubtful, None)
                }
                Prospect::Refused(reason) => (None, false, Some(reason.to_string())),
            };
            let line = Line {
                r#type: "function",
                function: &function.symbol,
                version: function.version.as_deref(),
                name: &function.display_name,
                address: function.address.0,
                offset: function.offset.map(|offset| offset.0),
                size_bytes: function.size_bytes,
                aliases: &function.aliases,
                place,
                doubtful,
                load,
                r#return: self.returned(function).filter(|_| unprobeable.is_none()),
                unprobeable,
            };
            json_line(&line, out)?;
        }
        Ok(())
    }

    fn text(&self, out: &mut impl Write, palette: Palette) -> io::Result<()> {
        let Palette { dim, probe: strong, reset, .. } = palette;
        writeln!(out, "{dim}{:>12} {:>8}  FUNCTION{reset}", "ADDRESS", "SIZE")?;
        for (function, prospect, load) in self.rows() {
            let ListedFunction { version, display_name, address, size_bytes, aliases, .. } =
                function;
            let address = format!("{:#x}", address.0);
            let size = size_bytes.map_or_else(|| "?".to_owned(), |size| size.to_string());
            let name = display_name.escape_debug();
            write!(out, "{address:>12} {size:>8}  {strong}{name}{reset}")?;
            if let Some(version) = version {
                write!(out, "@{}", version.escape_debug())?;
            }
            if !aliases.is_empty() {
                let aliases: Vec<_> =
                    aliases.iter().map(|alias| alias.escape_debug().to_string()).collect();
                write!(out, "  (also {})", aliases.join(", "))?;
            }
            match prospect {
                Prospect::Refused(reason) => writeln!(out, "  cannot be probed: {reason}")?,
                Prospect::Placed { place, doubtful } => {
                    let doubt = if *doubtful { ", the kernel may refuse it" } else { "" };
                    let load = load.map_or_else(String::new, Load::text);
                    let placed = placed(place, self.cost(place));
                    writeln!(out, "  {dim}{placed}{doubt}{reset}{load}")?;
                    if let Some(returned) = self.returned(function) {
                        writeln!(out, "{:>22} {dim}{}{reset}", "", returned.text)?;
                    }
                }
            }
        }
        let (path, total) = (self.listing.file.shown_path().display(), self.prospects.len());
        let not = count_refused(&self.prospects);
        let can = total - not;
        let functions = if can == 1 { "function" } else { "functions" };
        tell!("{path}: {can} {functions} can be probed, {not} cannot");
        if let Some((preview, _)) = &self.preview {
            tell!("{}", preview.sentence());
        }
        Ok(())
    }
}
