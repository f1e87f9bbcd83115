//! This program as a child of itself: for what may wait for ever, uninterruptibly, so that its parent need
//! not.

use crate::{discovery, kernel};

/// If this process was started as a helper, is one, and returns when its work is done: the program is to end
/// then. To be called before all else, by programs that set [`Options::helper`](crate::Options::helper).
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
