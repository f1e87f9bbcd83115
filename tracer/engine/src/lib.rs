//! The tracing engine of faultline.

pub mod collect;
pub mod discovery;
pub mod host;
pub mod kernel;
pub mod limiter;
mod links;
pub mod notice;
mod release;
pub mod request;
mod set;
mod stuck;
mod tracer;

pub use self::{
    host::Host,
    links::Process,
    release::Released,
    set::{ProbeSet, SetId},
    stuck::StuckReport,
    tracer::{
        Added, Attached, Change, Changed, Observer, Options, Origin, RequestStatus, Settings,
        Stopped, Tracer, TracerError, Vitals,
    },
};
