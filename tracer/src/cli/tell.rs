//! Messages for the user, on standard error.

use std::io::Write as _;

/// Writes a line. If standard error is closed or full, the run continues: `eprintln!` would end it.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Like `eprintln!`, but cannot fail.
macro_rules! tell {
    ($($format:tt)*) => { $crate::cli::tell::line(&format!($($format)*)) };
}
pub(super) use tell;
