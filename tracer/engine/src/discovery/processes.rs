//! Lists processes, and decides which of them a probe is for.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use faultline_resolve::{Pid, process};

use crate::request::Selection;

/// The kernel keeps this many bytes of a task's name.
const COMM_BYTES: usize = 15;

/// Every current process.
pub(crate) fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The parent of every current process.
pub(crate) fn all_parents() -> HashMap<Pid, Pid> {
    all().into_iter().filter_map(|pid| Some((pid, process::parent(pid).ok()??))).collect()
}

impl Selection {
    /// The processes, if it names them by pid.
    pub(crate) fn pids(&self) -> Option<Vec<Pid>> {
        match self {
            Self::Pids(pids) => Some(pids.clone()),
            Self::All | Self::Command => Some(Vec::new()),
            Self::Process(_) | Self::Cgroup(_) => None,
        }
    }
}

/// Whether a probe with this selection is for the process. `All` selects no particular process.
pub(crate) fn is_selected(pid: Pid, selection: &Selection) -> bool {
    match selection {
        Selection::All | Selection::Command => false,
        Selection::Pids(pids) => pids.contains(&pid),
        Selection::Process(name) => has_name(pid, name),
        Selection::Cgroup(path) => is_in_cgroup(pid, path),
    }
}

/// Matches the name that `ps` shows, or that of its program's file.
fn has_name(pid: Pid, name: &str) -> bool {
    let Ok(comm) = process::comm(pid) else { return false };
    let cut = &name.as_bytes()[..name.len().min(COMM_BYTES)];
    if comm.as_bytes() == cut && (name.len() <= COMM_BYTES || exe_name_is(pid, name)) {
        return true;
    }
    exe_name_is(pid, name)
}

fn exe_name_is(pid: Pid, name: &str) -> bool {
    exe(pid).and_then(|path| Some(path.file_name()? == name)).unwrap_or(false)
}

fn exe(pid: Pid) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let bytes = path.as_os_str().as_bytes();
    match bytes.strip_suffix(b" (deleted)") {
        Some(bytes) => Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes))),
        None => Some(path),
    }
}

fn is_in_cgroup(pid: Pid, wanted: &str) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
    // `0::/path` in cgroup v2, `N:controllers:/path` in v1.
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path == wanted || path.strip_prefix(wanted).is_some_and(|p| p.starts_with('/')))
}

/// Finds processes that see other files than we do: one per program and mount namespace.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    seen: HashSet<(PathBuf, Option<PathBuf>)>,
}

impl Containers {
    /// Whether the process is in a mount namespace other than ours, and is the first one seen of its
    /// program there.
    pub(crate) fn is_new(&mut self, pid: Pid) -> bool {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let Some(its) = namespace(&pid.to_string()) else { return false };
        if namespace("self").is_none_or(|ours| ours == its) {
            return false;
        }
        self.seen.insert((its, exe(pid)))
    }
}

/// The inodes of the files that any process has mapped as code, as far as we have access.
pub(crate) fn mapped_inodes() -> HashSet<u64> {
    all()
        .into_iter()
        .filter_map(|pid| process::maps(pid).ok())
        .flatten()
        .filter(|mapping| mapping.permissions.execute && mapping.inode != 0)
        .map(|mapping| mapping.inode)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a process is found by its program's name, and in its own cgroup.
    #[test]
    fn own_process_is_selected() {
        let own = Pid::own();
        assert!(all().contains(&own));
        let name = exe(own).unwrap().file_name().unwrap().to_string_lossy().into_owned();
        assert!(is_selected(own, &Selection::Process(name.as_str().into())));
        assert!(!is_selected(own, &Selection::Process("nosuch".into())));
        assert!(is_selected(own, &Selection::Pids(vec![own])));
        assert!(is_selected(own, &Selection::Cgroup("".into())), "the root cgroup has all");
        assert!(!is_selected(own, &Selection::Cgroup("/no.such".into())));
        assert!(!Containers::default().is_new(own));
    }
}
