//! Watches that tracing hurts nobody. It tells and asks; only the owner of the links detaches.

mod stuck;

pub use self::stuck::{StuckReport, StuckWatch};
