//! How a run fails, and what the exit status says about it.

use std::{io::Write as _, process::ExitCode};

/// A failed run.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage: exit status 2. The text is complete.
    Usage(String),
    /// The run failed: exit status 1.
    Run(anyhow::Error),
}

impl Failure {
    /// Prints the error and returns the exit status.
    pub(super) fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        // If standard error is closed, nobody reads this.
        let _ = match self {
            Self::Usage(text) => writeln!(stderr, "error: {text}"),
            // The chain, once, in a line.
            Self::Run(error) => writeln!(stderr, "error: {error:#}"),
        };
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Run(_) => ExitCode::FAILURE,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}
