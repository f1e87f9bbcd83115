//! Writes the manual pages and the shells' completions of `faultline`, out of the definition that
//! the program itself parses its arguments by: `cargo run --example manual -- FOLDER`.
//!
//! An example, so that what generates them is no part of the program. `cargo xtask dist` runs it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap_complete::Shell;

/// What follows the options: commands, which must not be spread over the line or hyphenated.
const NOTES: &str = "\n.SH NOTES AND EXAMPLES\n.ad l\n.nh\n";

const NAME: &str = "faultline";

fn main() -> Result<()> {
    let folder: PathBuf = env::args_os().nth(1).context("usage: manual FOLDER")?.into();
    manual_pages(&folder.join("man"))?;
    completions(&folder.join("completions"))
}

/// `faultline.1`, and one a subcommand: `faultline-trace.1`.
fn manual_pages(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    // A page on `faultline help` would tell nobody anything.
    let command = faultline::cli::command().disable_help_subcommand(true);
    let context = || format!("failed to write manual pages to {}", folder.display());
    clap_mangen::generate_to(command, folder).with_context(context)?;
    for page in fs::read_dir(folder).with_context(context)? {
        let page = page.with_context(context)?.path();
        let text = fs::read_to_string(&page).with_context(context)?;
        fs::write(&page, text.replace("\n.SH EXTRA\n", NOTES)).with_context(context)?;
    }
    Ok(())
}

fn completions(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut faultline::cli::command(), NAME, folder)
            .with_context(|| format!("failed to write completions for {shell}"))?;
    }
    Ok(())
}
