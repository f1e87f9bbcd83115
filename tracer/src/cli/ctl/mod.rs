//! `faultline ctl`: talks to the daemon.

mod attach;
mod client;
mod tables;
mod top;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Subcommand;
use serde_json::{Value, json};

use self::client::Client;
use super::{Failure, selection::duration};
use crate::daemon::config::DEFAULT_SOCKET;
use faultline_engine::request::check_name;
use faultline_output::json_text;

/// Control a running daemon
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Print the daemon's answer as JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the daemon's state
    Status,
    /// List its probes
    List {
        /// Also show all files, why functions cannot be probed, and why probes have had no hits
        #[arg(short, long)]
        verbose: bool,
    },
    /// Attach a probe that is not in the configuration
    Attach(attach::Args),
    /// Detach probes by name
    Detach {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Reload the configuration and apply the changes
    Reload,
    /// Show live which probes are hit, and what they cost
    Top {
        /// Refresh at this interval
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
        interval: Duration,
        /// Show only the first N probes, instead of as many as fit
        #[arg(long, value_name = "N")]
        top: Option<usize>,
        /// Stop after N tables
        #[arg(long, value_name = "N")]
        iterations: Option<u64>,
    },
    /// Print events as they arrive, one JSON object per line
    Tail {
        /// Only events of this probe
        name: Option<String>,
    },
}

const HELP: &str = "\
Examples:
  faultline ctl status
  faultline ctl attach opens 'libc:open*(path: str)' --action events
  faultline ctl tail opens
  faultline ctl detach opens
  faultline ctl top

A probe attached like this stays until it is detached or the daemon stops; the configuration
file is not changed. docs/api.md describes the API behind it.";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(control(args))
}

async fn control(args: &Args) -> Result<(), Failure> {
    let client = Client::new(args.socket.clone());
    let json = args.json;
    match &args.command {
        Command::Status => {
            let status = client.get("/v1/status").await?;
            print(json, &status, tables::status)
        }
        Command::List { verbose } => {
            let mut list = client.get("/v1/probes").await?;
            if *verbose {
                list["hints"] = client.get("/v1/hints").await?["hints"].take();
            }
            print(json, &list, |list| tables::list(list, *verbose))
        }
        Command::Attach(attach) => {
            let wanted = attach.request()?;
            let changed = client.post("/v1/probes", &wanted).await?;
            print(json, &changed, tables::changed)
        }
        Command::Detach { names } => {
            let changed = client.post("/v1/detach", &json!({ "names": names })).await?;
            print(json, &changed, tables::changed)
        }
        Command::Reload => {
            let changed = client.post("/v1/reload", &json!({})).await?;
            print(json, &changed, tables::changed)
        }
        Command::Top { interval, top, iterations } => {
            let options =
                top::Options { interval: *interval, top: *top, iterations: *iterations, json };
            top::run(&client, options).await
        }
        Command::Tail { name } => {
            let path = match name {
                Some(name) => {
                    check_name(name).map_err(Failure::Usage)?;
                    format!("/v1/events/{name}")
                }
                None => "/v1/events".to_owned(),
            };
            client.stream(&path, io::stdout()).await
        }
    }
}

fn print(json: bool, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
    let text = if json { json_text(value)? } else { text(value) };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
