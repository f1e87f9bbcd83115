//! Finds the file of a request's target, and plans its functions there.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Read as _,
    sync::Arc,
};

use faultline_plan::{
    self as plan, AttachPlan, Copying, PlanOptions, ReturnChooser, ReturnOptions,
};
use faultline_resolve::{CodeReader, ObjectFile, Pid, Resolver, View, code_pieces, process};
use faultline_spec::Condition;

use super::Unanswered;
use crate::{
    host::Host,
    request::{Request, Selection},
};

/// How many files' code is kept, to look at the returns of further functions in it.
const MOST_CHOOSERS: usize = 4;

/// Finds files and plans functions. Keeps what it has read.
#[derive(Debug)]
pub(crate) struct Locator {
    host: Host,
    resolver: Resolver,
    view: View,
    /// Targets missing in this view. Building that error is expensive, and a thousand requests may share
    /// one target.
    missing: HashMap<String, Arc<str>>,
    /// Targets whose file system did not answer, with the process whose view it was.
    avoided: HashSet<(Arc<str>, Option<u32>)>,
    /// What is known about how functions return, by file: the last few.
    choosers: Vec<ReturnChooser>,
    /// Sends a child ahead where a file system may not answer.
    guard: Option<Unanswered>,
}

impl Locator {
    pub(crate) fn new(host: Host, guard: Option<Unanswered>) -> Self {
        Self {
            host,
            resolver: Resolver::new(View::Host),
            view: View::Host,
            missing: HashMap::new(),
            avoided: HashSet::new(),
            choosers: Vec::new(),
            guard,
        }
    }

    /// Stops looking for these targets.
    pub(crate) fn avoid(&mut self, avoided: impl IntoIterator<Item = (Arc<str>, Option<u32>)>) {
        self.avoided = avoided.into_iter().collect();
    }

    /// Looks at everything again from now on: files may have been replaced.
    pub(crate) fn refresh(&mut self) {
        self.resolver.refresh();
        self.missing.clear();
        self.choosers.clear();
    }

    /// The files that a request's target is in a view, at least one; or why there is none.
    pub(crate) fn files(
        &mut self,
        request: &Request,
        view: View,
    ) -> Result<Vec<Arc<ObjectFile>>, Arc<str>> {
        self.look_from(view);
        let target = &request.spec.target;
        let pid = match view {
            View::Host => None,
            View::Process(pid) => Some(pid.get()),
        };
        if !self.avoided.is_empty() && self.avoided.contains(&(target.as_str().into(), pid)) {
            return Err("its file system does not answer".into());
        }
        if let Some(error) = self.missing.get(target) {
            return Err(Arc::clone(error));
        }
        let answers = self.guard.as_ref().map_or(Ok(()), |guard| guard.ask(target, view));
        let found = answers.and_then(|()| self.resolver.targets(target).map_err(chain));
        found.inspect_err(|error| drop(self.missing.insert(target.clone(), Arc::clone(error))))
    }

    /// What a request attaches in one of its files in a view; or why it cannot.
    pub(crate) fn plan(
        &mut self,
        request: &Request,
        view: View,
        file: &Arc<ObjectFile>,
    ) -> Result<AttachPlan, Arc<str>> {
        self.look_from(view);
        let mut spec = request.spec.clone();
        let condition = request.condition.as_ref();
        let names_return = condition.is_some_and(Condition::names_return);
        plan::specialize(&mut spec, request.action, condition.is_some(), names_return);
        let mut resolution = self.resolver.resolve_in(&spec, file).map_err(chain)?;
        if !request.force {
            plan::sift_labels(&mut resolution, &code_pieces);
        }
        let code = CodeReader::default();
        let is_filtered = |pid| process::has_seccomp_filter(pid).unwrap_or(true);
        let options = PlanOptions {
            force: request.force,
            condition,
            classes: self.host.classes(),
            quirks: self.host.quirks(),
            copying: match &request.selection {
                // They have done so by now, if they do.
                Selection::Pids(_) => Copying::None,
                Selection::Command if request.huge_pages => Copying::Asked,
                _ => Copying::Unasked,
            },
        };
        let mut planned = plan::plan(vec![resolution], &|probe| code.read(probe), options);
        if planned.probes.iter().any(|probe| probe.ret.is_some()) {
            let may_be_filtered = || match (view, &request.selection) {
                // A command inherits our files.
                (_, Selection::Command) => is_filtered(Pid::own()),
                (View::Process(pid), _) => is_filtered(pid),
                (View::Host, _) => true,
            };
            let options = ReturnOptions {
                returns: request.returns,
                force: request.force,
                kills_filtered: self.host.quirks().returns_kill_filtered && may_be_filtered(),
                classes: self.host.classes(),
                costs: self.host.costs(),
            };
            self.chooser(file).choose(&mut planned, &options);
        }
        Ok(planned)
    }

    /// The one that knows the file.
    fn chooser(&mut self, file: &Arc<ObjectFile>) -> &mut ReturnChooser {
        let known = self.choosers.iter().position(|known| known.file().id() == file.id());
        let chooser = match known {
            Some(at) => self.choosers.remove(at),
            None => ReturnChooser::new(Arc::clone(file), &code_pieces),
        };
        if self.choosers.len() >= MOST_CHOOSERS {
            self.choosers.remove(0);
        }
        self.choosers.push(chooser);
        let last = self.choosers.len() - 1;
        &mut self.choosers[last]
    }

    fn look_from(&mut self, view: View) {
        if view != self.view {
            self.view = view;
            self.missing.clear();
            self.resolver.look_from(view);
        }
    }
}

/// An error and its causes, in one line.
fn chain(error: impl Into<anyhow::Error>) -> Arc<str> {
    format!("{:#}", error.into()).into()
}

/// Whether the two are the same file: under any name, or as the lower file of two overlay mounts. A
/// breakpoint in one is then a breakpoint in the other.
pub(crate) fn is_same_file(one: &ObjectFile, other: &ObjectFile) -> bool {
    one.id() == other.id()
        || one.id().differs_by_device_alone(&other.id())
            && (is_on_overlay(one) || is_on_overlay(other))
            && changed_at(one).is_some_and(|when| Some(when) == changed_at(other))
            && has_same_content(one, other)
}

/// When the file or its metadata last changed. An overlay mount with a copied-up file shows it with the
/// inode number and the times of the original, except for this one.
fn changed_at(file: &ObjectFile) -> Option<(i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(file.attach_path()).ok()?;
    Some((metadata.ctime(), metadata.ctime_nsec()))
}

/// Whether both have the same code at the same offsets.
pub(crate) fn has_same_content(one: &ObjectFile, other: &ObjectFile) -> bool {
    if one.id() == other.id() {
        return true;
    }
    if one.id().bytes() != other.id().bytes() {
        return false;
    }
    match (one.build_id(), other.build_id()) {
        (Some(one), Some(other)) => one == other,
        _ => has_same_bytes(one, other).unwrap_or(false),
    }
}

fn has_same_bytes(one: &ObjectFile, other: &ObjectFile) -> std::io::Result<bool> {
    let mut one = fs::File::open(one.attach_path())?;
    let mut other = fs::File::open(other.attach_path())?;
    let (mut some, mut same) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = one.read(&mut some)?;
        if count == 0 {
            return Ok(other.read(&mut same)? == 0);
        }
        other.read_exact(&mut same[..count])?;
        if some[..count] != same[..count] {
            return Ok(false);
        }
    }
}

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAYFS: u64 = 0x794c_7630;

fn is_on_overlay(file: &ObjectFile) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(path) = std::ffi::CString::new(file.attach_path().as_os_str().as_bytes()) else {
        return false;
    };
    let mut filesystem = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is NUL-terminated, and the kernel fills the structure that we pass.
    let done = unsafe { libc::statfs(path.as_ptr(), filesystem.as_mut_ptr()) };
    // SAFETY: every bit pattern is a `statfs`, and it was zeroed.
    let filesystem = unsafe { filesystem.assume_init() };
    done == 0 && filesystem.f_type as u64 == OVERLAYFS
}
