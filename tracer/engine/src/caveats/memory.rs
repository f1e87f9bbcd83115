//! How often the kernel killed a process of a memory cgroup.

use std::{fs, path::PathBuf};

use faultline_resolve::Pid;

/// The kills of one cgroup since a moment.
#[derive(Debug)]
pub(super) struct MemoryKills {
    file: PathBuf,
    before: u64,
}

impl MemoryKills {
    /// From now on, in the cgroup that the process is in; `None` if that is not known.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let file = counters(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?;
        let before = kills(&fs::read_to_string(&file).ok()?)?;
        Some(Self { file, before })
    }

    pub(super) fn so_far(&self) -> u64 {
        let now = fs::read_to_string(&self.file).ok().and_then(|text| kills(&text));
        now.map_or(0, |now| now.saturating_sub(self.before))
    }
}

/// The file with the counters, from `/proc/PID/cgroup`.
fn counters(text: &str) -> Option<PathBuf> {
    let of = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => Some(format!("/sys/fs/cgroup{path}/memory.events")),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control"))
            }
            _ => None,
        }
    };
    let mut files = text.lines().filter_map(of).map(PathBuf::from);
    files.find(|file| file.exists())
}

fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the counter is found in both versions' files, and not taken for the one of its groups.
    #[test]
    fn kills_are_read() {
        let v2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(kills(v2), Some(3));
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(kills("low 0\n"), None);
    }
}
