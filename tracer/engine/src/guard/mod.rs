//! Watches that tracing hurts nobody. It tells and asks; only the owner of the links detaches.

mod budget;
mod meter;
mod presence;
mod stuck;

pub use self::{
    budget::{Budget, Costly, LimitError, OverheadFigures, OverheadLimit, OverheadPolicy, Wish},
    meter::Meter,
    presence::Presence,
    stuck::{StuckReport, StuckWatch},
};
