//! The tracing engine of faultline, as a library: uprobes attached and released in batches, events, counts
//! and durations as values, with every hit and every loss counted.
//!
//! - A [`Request`](request::Request) says what to trace, in which processes, and what to do with each hit.
//! - A [`Host`] is what this machine offers and what a breakpoint costs on it. Make it once and pass it on.
//! - A [`Tracer`] owns the probes. A run [traces](Tracer::trace) requests and [stops](Tracer::stop); a
//!   daemon [changes](Tracer::change) its requests while it runs, and the tracer finds new targets.
//! - A [`ProbeSet`] is what a tracer has attached: its [calls](collect::tables::calls), its
//!   [durations](collect::tables::durations), its counters. Events go to a
//!   [handler](collect::events::HandlerFactory).
//!
//! Tracing needs root, or `CAP_BPF` and `CAP_PERFMON` (`CAP_SYS_ADMIN` before Linux 6.6).
//!
//! Count the calls of a function, in this process:
//!
//! ```
//! use faultline_engine::{
//!     Action, Host, Options, Pid, Tracer,
//!     collect::tables::calls,
//!     request::{Request, Selection},
//! };
//!
//! #[inline(never)]
//! #[unsafe(no_mangle)]
//! extern "C" fn traced(number: u32) -> u32 {
//!     std::hint::black_box(number)
//! }
//!
//! let host = Host::detect();
//! let program = std::env::current_exe()?;
//! let mut count = Request::parse(&format!("{}:traced", program.display()), Action::Count)?;
//! count.selection = Selection::Pids(vec![Pid::own()]);
//! let tracer = Tracer::start(Options::new(host))?;
//! let set = tracer.trace(vec![count])?;
//! (0..100).for_each(|number| drop(traced(number)));
//! tracer.stop(None, &Default::default()).blocking_recv()?;
//! assert_eq!(calls(&set, None)[0].hits, 100);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/watch.rs` traces a function of another process, with its arguments.

pub mod caveats;
mod children;
pub mod collect;
mod compare;
pub mod death;
pub mod discovery;
pub mod helper;
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

pub use faultline_resolve::Pid;
pub use tracer_common::Action;

pub use self::{
    children::{ChildFigures, Children},
    compare::changed_meanwhile,
    host::Host,
    links::Process,
    release::Released,
    set::{ProbeSet, SetId},
    stuck::StuckReport,
    tracer::{
        Added, Attached, Change, Changed, Explained, Observer, Options, Origin, RequestStatus,
        Settings, Stopped, Tracer, TracerError, Vitals,
    },
};
