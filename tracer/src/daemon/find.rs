//! From a named probe to the files that it is in, on this machine and at this moment.

use std::{collections::HashMap, fs, io::Read as _, sync::Arc};

use tracer_common::Action;

use super::config::{self, ProbeConfig};
use faultline_engine::kernel;
use faultline_plan::{self as plan, AttachPlan, PlanOptions};
use faultline_resolve::{CodeReader, ObjectFile, Resolver, View, process};
use faultline_spec::Condition;

/// What a probe's action is for the kernel side.
pub(super) fn action(action: config::Action) -> Action {
    match action {
        config::Action::Count => Action::Count,
        config::Action::Latency => Action::Latency,
        config::Action::Events => Action::Events,
    }
}

/// Finds files and plans probes. What it has read is kept.
#[derive(Debug)]
pub(super) struct Finder {
    resolver: Resolver,
    view: View,
    /// Targets that are not there in this view: saying so is dear, and a thousand probes may be of
    /// one target.
    missing: HashMap<String, Arc<str>>,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self { resolver: Resolver::new(View::Host), view: View::Host, missing: HashMap::new() }
    }

    /// Looks at everything anew from now on: files may have been replaced.
    pub(super) fn refresh(&mut self) {
        self.resolver.refresh();
        self.missing.clear();
    }

    /// The file that a probe's target is in a view; or why there is none.
    pub(super) fn file(
        &mut self,
        probe: &ProbeConfig,
        view: View,
    ) -> Result<Arc<ObjectFile>, Arc<str>> {
        self.look_from(view);
        let target = &probe.spec.target;
        if let Some(error) = self.missing.get(target) {
            return Err(Arc::clone(error));
        }
        self.resolver.target(target).map_err(|error| {
            let error: Arc<str> = error.to_string().into();
            self.missing.insert(target.clone(), Arc::clone(&error));
            error
        })
    }

    /// What a probe attaches in a view; or why it cannot.
    pub(super) fn plan(&mut self, probe: &ProbeConfig, view: View) -> Result<AttachPlan, String> {
        self.look_from(view);
        let mut spec = probe.spec.clone();
        let names_return = probe.condition.as_ref().is_some_and(Condition::names_return);
        plan::specialize(&mut spec, action(probe.action), probe.condition.is_some(), names_return);
        let resolution = self.resolver.resolve(&spec).map_err(|error| error.to_string())?;
        let code = CodeReader::default();
        let options = PlanOptions {
            force: probe.force,
            condition: probe.condition.as_ref(),
            classes: kernel::classes(),
            quirks: kernel::quirks(),
            may_be_filtered: match view {
                View::Host => true,
                View::Process(pid) => process::has_seccomp_filter(pid).unwrap_or(true),
            },
        };
        Ok(plan::plan(vec![resolution], &|probe| code.read(probe), options))
    }

    fn look_from(&mut self, view: View) {
        if view != self.view {
            self.view = view;
            self.missing.clear();
            self.resolver.look_from(view);
        }
    }
}

/// Whether the two are one file: by any name, or the same lower file of two overlay mounts. A
/// breakpoint in one is a breakpoint in the other.
pub(super) fn is_same_file(one: &ObjectFile, other: &ObjectFile) -> bool {
    one.id() == other.id()
        || one.id().differs_by_device_alone(&other.id())
            && (is_on_overlay(one) || is_on_overlay(other))
            && has_same_content(one, other)
}

/// Whether the same code lies in both at the same places.
pub(super) fn has_same_content(one: &ObjectFile, other: &ObjectFile) -> bool {
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
    // SAFETY: `path` is NUL-terminated, and the kernel fills the structure that is given to it.
    let done = unsafe { libc::statfs(path.as_ptr(), filesystem.as_mut_ptr()) };
    // SAFETY: every bit pattern is a `statfs`, and it was zeroed.
    let filesystem = unsafe { filesystem.assume_init() };
    done == 0 && filesystem.f_type as u64 == OVERLAYFS
}
