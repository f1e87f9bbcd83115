//! From a [`ProbeSpec`](faultline_spec::ProbeSpec) to the functions that it names on this machine.
//!
//! Takes a spec and a [`View`] (this machine, or one process as it sees itself); gives a
//! [`Resolution`]: what can be probed, where the kernel wants each breakpoint, and what cannot be
//! probed with the reason. Reads files and `/proc`, attaches nothing, makes no bpf(2) call, and
//! decides nothing about what a probe reads or costs: that is the plan's part.
//!
//! - `view`: files and paths as the host or a process sees them.
//! - [`process`]: what `/proc` says of a process: mappings, names, start time.
//! - [`running`]: where a process runs other code than the file says.
//! - `target`, `ldcache`, `library_name`: from the target's text to a file.
//! - `elf`, `symbols`, `debugfile`: from a file to its symbols, wherever they are kept.
//! - [`object_file`](ObjectFile): one parsed file.
//! - `loading`, `unwound`, `copies`: what its headers, its unwind information and its calls say of its
//!   code.
//! - `pattern`, `demangle`: which names a function part selects.
//! - `relatives`, `inlined`: what else carries a function's calls.
//! - [`caveat`](Caveat): why a probe sees fewer calls than its user expects.
//! - `select`, `ifunc`: from symbols to probes, or to reasons why there are none.
//! - [`skip`]: every reason for which a function is not probed.
//! - `suggest`: the similar name in an error.

mod address;
mod caveat;
mod code;
mod copies;
mod debugfile;
mod demangle;
mod elf;
mod error;
mod golang;
mod ifunc;
mod inlined;
mod ldcache;
mod library_name;
mod loading;
mod object_file;
mod pattern;
pub mod process;
mod relatives;
mod resolver;
pub mod running;
mod select;
pub mod skip;
mod suggest;
mod symbols;
mod target;
#[cfg(test)]
mod testbed;
mod unwound;
mod view;

pub use address::{ElfAddr, FileOffset, RuntimeAddr};
pub use caveat::Caveat;
pub use code::{CodeReader, code_pieces};
pub use copies::CopiesCode;
pub use elf::{Arch, Segment};
pub use error::{Hint, ResolveError, TargetKind};
pub use golang::GoProgram;
pub use inlined::{FunctionName, inlined};
pub use object_file::{CodeExtent, FileId, ObjectFile, SymbolSource};
pub use process::Pid;
pub use relatives::{copies, other_functions};
pub use resolver::{Listing, Resolver};
pub use select::{ListedFunction, Resolution, ResolvedProbe};
pub use skip::{SkipKind, SkipReason, Skipped};
pub use view::View;
