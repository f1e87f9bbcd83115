//! Runs this program as a child of itself, for work that may block for ever in an uninterruptible wait. The
//! parent stays responsive.

use crate::{discovery, kernel};

/// Does the helper's work if this process was started as a helper, and returns whether it was: the program
/// must then exit. A program that sets [`Options::helper`](crate::Options::helper) must call this first.
///
/// ```
/// # fn start() {
///     if faultline_engine::helper::run_if_asked() {
///         return;
///     }
///     // …
/// }
/// ```
#[must_use]
pub fn run_if_asked() -> bool {
    kernel::be_releaser_if_asked() || discovery::look_if_asked()
}
