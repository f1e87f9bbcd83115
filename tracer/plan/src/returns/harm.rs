//! Whether a replaced return address could hurt a program.
//!
//! The kernel's return probe replaces the return address on the stack. Whatever leaves the function by
//! another way than its `ret`, runs on another stack meanwhile, or looks at the stack, then meets an address
//! that is not the caller's.

use std::collections::{HashMap, HashSet};

use faultline_resolve::ObjectFile;

use super::{
    code::Code,
    exits::{self, Entered, ExitKind, Exits, ExitsUnknown},
};

/// So many functions are looked at to see what one of them calls.
const MOST_LOOKED_AT: usize = 200;

/// What could be hurt by a return probe of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Harm {
    /// The function handles return addresses itself, like `setjmp`.
    HandlesReturns,
    /// The file is part of a Go program, whose stacks move.
    MovesStacks,
    /// Exceptions or panics may pass through the file's functions.
    Unwinds,
    /// On this kernel, a return probe kills a program with a seccomp filter.
    KillsFiltered,
    /// The file handles signals on a stack of their own, or switches stacks.
    SwitchesStacks,
    /// A thread may be cancelled inside the function, or it calls a function that it was given.
    CallsBack,
    /// It calls code of other files, which may do any of this.
    CallsOthers,
}

impl Harm {
    /// A word for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::HandlesReturns => "handles-returns",
            Self::MovesStacks => "go",
            Self::Unwinds => "unwinds",
            Self::KillsFiltered => "seccomp",
            Self::SwitchesStacks => "switches-stacks",
            Self::CallsBack => "calls-back",
            Self::CallsOthers => "calls-others",
        }
    }

    /// The same for people, after "because".
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::HandlesReturns => "it handles return addresses itself",
            Self::MovesStacks => "Go moves its stacks",
            Self::Unwinds => "exceptions or panics may pass through it",
            Self::KillsFiltered => "a seccomp filter may kill the program for it",
            Self::SwitchesStacks => "its file switches stacks",
            Self::CallsBack => "it calls back, or threads are cancelled in it",
            Self::CallsOthers => "it may call code of other files",
        }
    }
}

/// Functions that store their return address, jump to another one, or walk the stack by it.
const ODD_RETURNS: [&str; 29] = [
    "setjmp",
    "_setjmp",
    "__setjmp",
    "sigsetjmp",
    "__sigsetjmp",
    "longjmp",
    "_longjmp",
    "siglongjmp",
    "__longjmp",
    "__longjmp_chk",
    "____longjmp_chk",
    "__libc_longjmp",
    "__libc_siglongjmp",
    "getcontext",
    "__getcontext",
    "setcontext",
    "__setcontext",
    "makecontext",
    "__makecontext",
    "swapcontext",
    "__swapcontext",
    "__cxa_throw",
    "__cxa_rethrow",
    "_Unwind_RaiseException",
    "_Unwind_Resume",
    "_Unwind_Resume_or_Rethrow",
    "_Unwind_ForcedUnwind",
    "_Unwind_Backtrace",
    "backtrace",
];

/// The dynamic linker's resolver leaves its frame by jumping to the function it found.
const RESOLVER_PREFIX: &str = "_dl_runtime_resolve";

fn returns_oddly<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| ODD_RETURNS.contains(&name) || name.starts_with(RESOLVER_PREFIX))
}

/// Functions of C libraries that compute, and neither wait, nor call back, nor let a thread be cancelled.
const ONLY_COMPUTE: [&str; 32] = [
    "malloc",
    "free",
    "cfree",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "abs",
    "labs",
    "llabs",
    "div",
    "ldiv",
    "lldiv",
    "ffs",
    "ffsl",
    "ffsll",
    "rand",
    "rand_r",
    "random",
    "random_r",
    "getpid",
    "gettid",
    "getuid",
    "geteuid",
    "getenv",
    "pthread_self",
    "sched_getcpu",
];

/// Families of such functions, by how their names begin, and exceptions.
const COMPUTING: [&str; 12] = [
    "mem", "wmem", "str", "wcs", "ato", "isal", "isdi", "issp", "isup", "tolower", "toupper",
    "htons",
];
const NOT_COMPUTING: [&str; 5] = ["strerror", "strftime", "strfmon", "strsignal", "wcsftime"];

fn only_computes(name: &str) -> bool {
    let name = name.strip_prefix("__libc_").unwrap_or(name).trim_start_matches('_');
    ONLY_COMPUTE.contains(&name)
        || COMPUTING.iter().any(|family| name.starts_with(family))
            && !NOT_COMPUTING.iter().any(|other| name.starts_with(other))
}

/// What is known about a file as a whole.
pub(super) struct FileHarm {
    whole: Option<Harm>,
    is_c_library: bool,
    is_mathematics: bool,
    /// By function: whether nothing in it or below it can harm it, as far as that is known.
    harmless: HashMap<u64, bool>,
    own: HashMap<u64, Own>,
}

/// Why no function's return is traced by replacing its return address in a file.
#[must_use]
pub fn harm_in(file: &ObjectFile) -> Option<Harm> {
    if file.go().is_some() {
        Some(Harm::MovesStacks)
    } else if unwinds(file) {
        Some(Harm::Unwinds)
    } else if !is_c_library(file) && file.imports_any(&["sigaltstack", "swapcontext", "setcontext"])
    {
        Some(Harm::SwitchesStacks)
    } else {
        None
    }
}

/// Whether exceptions or panics may pass through the file's functions: it is linked with an unwinder for
/// C++ or Rust, is one, or says what to do when one comes.
fn unwinds(file: &ObjectFile) -> bool {
    let libraries = file.needed().iter().map(String::as_str).chain(file.soname());
    let unwinding = ["libstdc++.so", "libc++.so", "libc++abi.so", "libgcc_s.so", "libunwind.so"];
    libraries.into_iter().any(|library| unwinding.iter().any(|name| library.starts_with(name)))
        || (file.catches_exceptions() && !is_c_library(file))
}

fn is_c_library(file: &ObjectFile) -> bool {
    let libraries = [
        "libc.so",
        "libc.musl",
        "ld-linux",
        "ld-musl",
        "libpthread.so",
        "libm.so",
        "librt.so",
        "libdl.so",
    ];
    file.soname().is_some_and(|name| libraries.iter().any(|library| name.starts_with(library)))
}

impl FileHarm {
    pub(super) fn of(file: &ObjectFile) -> Self {
        Self {
            whole: harm_in(file),
            is_c_library: is_c_library(file),
            is_mathematics: file.soname().is_some_and(|name| name.starts_with("libm.so")),
            harmless: HashMap::new(),
            own: HashMap::new(),
        }
    }

    /// What a replaced return address of this function could do.
    pub(super) fn of_function<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str> + Clone,
        code: &Code,
        address: u64,
        exits: &Result<Exits, ExitsUnknown>,
    ) -> Option<Harm> {
        if returns_oddly(names.clone()) {
            return Some(Harm::HandlesReturns);
        }
        // Nothing can come in between.
        let only_returns = matches!(exits, Err(ExitsUnknown::OnlyReturns));
        if only_returns && self.whole != Some(Harm::MovesStacks) {
            return None;
        }
        if self.whole.is_some() {
            return self.whole;
        }
        if self.is_c_library {
            let mut names = names;
            return (!self.is_mathematics && !names.any(only_computes)).then_some(Harm::CallsBack);
        }
        self.own.entry(address).or_insert_with(|| Own::of(exits));
        (!self.is_harmless(code, address)).then_some(Harm::CallsOthers)
    }

    /// Whether the function and all that it calls stay within this file, by calls that are known.
    fn is_harmless(&mut self, code: &Code, address: u64) -> bool {
        let mut reached = HashSet::from([address]);
        let mut pending = vec![address];
        while let Some(at) = pending.pop() {
            match self.harmless.get(&at) {
                Some(true) => continue,
                Some(false) => {
                    self.harmless.insert(address, false);
                    return false;
                }
                None => {}
            }
            let own = self.own.entry(at).or_insert_with(|| {
                Own::of(&exits::exits(code, at, code.size_of(at), Entered::First))
            });
            if !own.stays || reached.len() > MOST_LOOKED_AT {
                self.harmless.insert(at, false);
                self.harmless.insert(address, false);
                return false;
            }
            pending.extend(own.calls.iter().filter(|call| reached.insert(**call)));
        }
        self.harmless.extend(reached.into_iter().map(|at| (at, true)));
        true
    }
}

/// What a function itself does, without those that it calls.
struct Own {
    /// It leaves by its own `ret`s, and calls nothing that is not known.
    stays: bool,
    calls: Vec<u64>,
}

impl Own {
    fn of(exits: &Result<Exits, ExitsUnknown>) -> Self {
        match exits {
            Ok(Exits { exits, calls, calls_unknown, switches_stacks, .. }) => Self {
                stays: !calls_unknown
                    && !switches_stacks
                    && exits.iter().all(|exit| exit.kind == ExitKind::Return),
                calls: calls.clone(),
            },
            Err(ExitsUnknown::OnlyReturns) => Self { stays: true, calls: Vec::new() },
            Err(_) => Self { stays: false, calls: Vec::new() },
        }
    }
}
