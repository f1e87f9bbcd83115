//! `faultline list`: which functions of a target can be probed.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{Failure, tell::tell};
use crate::{
    resolve::{ListedFunction, Listing, Pid, Resolver, View},
    spec::{FunctionPattern, ProbeSpec},
};

/// Show which functions can be probed
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// A path, a library, a command; with a name, a glob or a /regex/ of its functions
    #[arg(value_name = "TARGET[:PATTERN]")]
    target: String,

    /// Resolve the target as this process sees it
    #[arg(short, long, value_name = "PID")]
    pid: Option<Pid>,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  faultline list libc:'open*'
  faultline list bash
  faultline list -p 1234 'libssl:/^SSL_(read|write)$/' --json";

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
    aliases: &'a [std::sync::Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    unprobeable: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (target, pattern) = target_and_pattern(&args.target)?;
    let mut resolver = Resolver::new(args.pid.map_or(View::Host, View::Process));
    let listing = resolver.list(&target, pattern.as_ref())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if args.json { json(&mut out, &listing) } else { text(&mut out, &listing) };
    match written.and_then(|()| out.flush()) {
        // `| head` is a normal end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("failed to write the list").into()),
        Ok(()) => Ok(()),
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

fn json(out: &mut impl Write, listing: &Listing) -> io::Result<()> {
    for function in &listing.functions {
        let line = Line {
            r#type: "function",
            function: &function.symbol,
            version: function.version.as_deref(),
            name: &function.display_name,
            address: function.address.0,
            offset: function.offset.map(|offset| offset.0),
            size_bytes: function.size_bytes,
            aliases: &function.aliases,
            unprobeable: function.unprobeable.as_ref().map(ToString::to_string),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn text(out: &mut impl Write, listing: &Listing) -> io::Result<()> {
    writeln!(out, "{:>12} {:>8}  FUNCTION", "ADDRESS", "SIZE")?;
    for ListedFunction {
        version, display_name, address, size_bytes, aliases, unprobeable, ..
    } in &listing.functions
    {
        let address = format!("{:#x}", address.0);
        let size = size_bytes.map_or_else(|| "?".to_owned(), |size| size.to_string());
        write!(out, "{address:>12} {size:>8}  {}", display_name.escape_debug())?;
        if let Some(version) = version {
            write!(out, "@{}", version.escape_debug())?;
        }
        if !aliases.is_empty() {
            let aliases: Vec<_> =
                aliases.iter().map(|alias| alias.escape_debug().to_string()).collect();
            write!(out, "  (also {})", aliases.join(", "))?;
        }
        match unprobeable {
            Some(reason) => writeln!(out, "  cannot be probed: {reason}")?,
            None => writeln!(out)?,
        }
    }
    let (path, total) = (listing.file.shown_path().display(), listing.functions.len());
    let not = listing.functions.iter().filter(|function| function.unprobeable.is_some()).count();
    let can = total - not;
    let functions = if can == 1 { "function" } else { "functions" };
    tell!("{path}: {can} {functions} can be probed, {not} cannot");
    Ok(())
}
