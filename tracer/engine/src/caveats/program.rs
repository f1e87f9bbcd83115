//! What a program's file says about the libraries that it uses.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use faultline_resolve::{Caveat, ObjectFile, ResolveError, Resolver, View};

use super::sightings::Seen;

/// How long to follow a program's libraries.
const FOLLOW_TIME: Duration = Duration::from_secs(1);
/// Most libraries that are followed.
const MOST_LIBRARIES: usize = 500;

/// The libraries that glibc consists of.
const GLIBC: [&str; 6] =
    ["libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "ld-linux"];

/// A program whose file was read.
pub(super) struct Program {
    shown: PathBuf,
    file: Arc<ObjectFile>,
    resolver: Resolver,
}

impl Program {
    /// `None` if its file cannot be read.
    pub(super) fn of(seen: &Seen) -> Option<Self> {
        let (shown, openable) = seen.program()?;
        let mut resolver = Resolver::new(View::Host);
        match resolver.target(openable.to_str()?) {
            Ok(file) => Some(Self { shown, file, resolver }),
            Err(ResolveError::Script { interpreter, .. }) => {
                let shown = PathBuf::from(interpreter.split_whitespace().next()?);
                // `env` searches for the program that runs the script, and executes it.
                let is_env = shown.file_name().is_some_and(|name| name == "env");
                let file = resolver.target(shown.to_str()?).ok().filter(|_| !is_env)?;
                Some(Self { shown, file, resolver })
            }
            Err(_) => None,
        }
    }

    /// Why the program does not use the file; `None` if it does, or if that is not known.
    pub(super) fn why_without(mut self, file: &ObjectFile) -> Option<Caveat> {
        if self.file.id() == file.id() {
            return None;
        }
        let program = self.shown.clone();
        let Some(loader) = self.file.interpreter() else {
            // A library that can be run has no loader either, but asks for other libraries.
            let is_static = self.file.needed().is_empty();
            return is_static.then_some(Caveat::Static { program });
        };
        let is_musl = name(loader).is_some_and(|name| name.starts_with("ld-musl"));
        if is_musl {
            let is_glibc =
                GLIBC.iter().any(|library| known_as(file).any(|n| n.starts_with(library)));
            let is_loader = name(loader) == name(file.shown_path());
            return (is_glibc && !is_loader)
                .then(|| Caveat::OtherLibc { program, loader: loader.to_owned() });
        }
        let is_program = file.interpreter().is_some() && file.soname().is_none();
        let is_linked = !is_program && self.asks_for(file)?;
        (!is_linked).then_some(Caveat::NotLinked { program })
    }

    /// Whether the program or one of its libraries asks for the file; `None` if not all could be followed.
    fn asks_for(&mut self, file: &ObjectFile) -> Option<bool> {
        let deadline = Instant::now() + FOLLOW_TIME;
        let is_loader = self.file.interpreter().and_then(name).zip(file.soname());
        if is_loader.is_some_and(|(loader, soname)| loader == soname) {
            return Some(true);
        }
        let mut seen = HashSet::new();
        let mut next = self.file.needed().to_vec();
        let mut is_complete = true;
        while let Some(library) = next.pop() {
            if known_as(file).any(|name| name == library) {
                return Some(true);
            }
            if !seen.insert(library.clone()) {
                continue;
            }
            if seen.len() > MOST_LIBRARIES || Instant::now() > deadline {
                return None;
            }
            match self.resolver.target(&library) {
                Ok(found) => next.extend_from_slice(found.needed()),
                // It is found by a path that the program carries.
                Err(_) => is_complete = false,
            }
        }
        is_complete.then_some(false)
    }
}

/// The names by which a program may ask for a library.
fn known_as(file: &ObjectFile) -> impl Iterator<Item = &str> {
    file.soname().into_iter().chain(name(file.shown_path()))
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
