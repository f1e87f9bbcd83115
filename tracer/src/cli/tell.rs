//! Words for the user, on standard error.

use std::io::Write as _;

/// Writes a line. Where standard error is closed or full there is nobody to tell, and the run goes
/// on: `eprintln!` would end it.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// As `eprintln!`, but cannot fail.
macro_rules! tell {
    ($($format:tt)*) => { $crate::cli::tell::line(&format!($($format)*)) };
}
pub(super) use tell;
