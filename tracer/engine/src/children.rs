//! Children of traced processes: those that exist when tracing begins, and figures about those that are
//! forked later. The mechanism is in [`kernel`](crate::kernel).

use std::{
    collections::{HashMap, HashSet},
    ops::AddAssign,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use faultline_resolve::{Pid, process};

use crate::{
    discovery::all_parents,
    kernel::{ChildCounts, KernelError, Programs},
};

/// What became of children of traced processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Children {
    /// Children that were forked with a copy of the breakpoints, and are not traced.
    pub forked: u64,
    /// Of these, children that may still have the breakpoints.
    pub not_freed: u64,
    /// How often breakpoints were removed from children.
    pub freed_times: u64,
    /// The longest time from a fork to the removal of its breakpoints, at most.
    pub freed_within: Option<Duration>,
    /// CPU time that those of them had used that were alive when they were freed. What they paid for the
    /// breakpoints is a part of it.
    pub used: Duration,
    /// Children that were traced too.
    pub followed: u64,
    /// Children that should have been traced too, and were not: there was no room for more.
    pub unfollowed: u64,
}

impl AddAssign for Children {
    fn add_assign(&mut self, other: Self) {
        self.forked += other.forked;
        self.not_freed += other.not_freed;
        self.freed_times += other.freed_times;
        self.freed_within = self.freed_within.max(other.freed_within);
        self.used += other.used;
        self.followed += other.followed;
        self.unfollowed += other.unfollowed;
    }
}

/// The figures of a set about children.
#[derive(Debug)]
pub struct ChildFigures {
    counts: ChildCounts,
    freed: Mutex<Freed>,
}

impl ChildFigures {
    pub(crate) fn new(counts: ChildCounts) -> Self {
        Self { counts, freed: Mutex::new(Freed::new()) }
    }

    /// What became of children until now.
    pub fn read(&self) -> Children {
        let ChildFigures { counts, .. } = self;
        self.freed().figures(counts.forked(), counts.followed(), counts.unfollowed())
    }

    pub(crate) fn forked(&self) -> u64 {
        self.counts.forked()
    }

    pub(crate) fn freed(&self) -> MutexGuard<'_, Freed> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When children were freed of the breakpoints that they inherited.
#[derive(Debug)]
pub(crate) struct Freed {
    /// Children that were forked before the last attempt.
    forked: u64,
    /// Of these, children that could not be freed.
    kept: u64,
    /// CPU time that children had used when they were freed.
    used: Duration,
    /// The last moment at which no other child was known.
    clean_at: Instant,
    times: u64,
    within: Option<Duration>,
    told: bool,
}

/// An attempt to free children.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    forked: u64,
    began: Instant,
    /// None of the children was there before.
    pub(crate) clean_at: Instant,
}

impl Attempt {
    /// For how long some of the children may have been there.
    pub(crate) fn pending(&self) -> Duration {
        self.clean_at.elapsed()
    }
}

impl Freed {
    pub(crate) fn new() -> Self {
        Self {
            forked: 0,
            kept: 0,
            used: Duration::ZERO,
            clean_at: Instant::now(),
            times: 0,
            within: None,
            told: false,
        }
    }

    /// What has to be done if this many children have been forked by now.
    pub(crate) fn due(&mut self, forked: u64) -> Option<Attempt> {
        let began = Instant::now();
        if forked == self.forked {
            self.clean_at = began;
            return None;
        }
        Some(Attempt { forked, began, clean_at: self.clean_at })
    }

    /// Records an attempt, after which children have used this much CPU time; `None` if not all of them
    /// could be freed.
    pub(crate) fn done(&mut self, attempt: Attempt, used: Option<Duration>) {
        match used {
            Some(used) => {
                let within = self.clean_at.elapsed();
                self.within = Some(self.within.map_or(within, |longest| longest.max(within)));
                self.times += 1;
                self.used += used;
            }
            None => self.kept += attempt.forked - self.forked,
        }
        self.forked = attempt.forked;
        self.clean_at = attempt.began;
    }

    /// Whether nobody has been told yet that there are children; true only once.
    pub(crate) fn newly_forked(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    pub(crate) fn figures(&self, forked: u64, followed: u64, unfollowed: u64) -> Children {
        Children {
            forked,
            not_freed: self.kept + forked.saturating_sub(self.forked),
            used: self.used,
            freed_times: self.times,
            freed_within: self.within,
            followed,
            unfollowed,
        }
    }
}

/// Traces the children that these processes have by now, and the children of those. From then on the kernel
/// reports each fork, so that none is missed.
pub(crate) fn follow_existing(programs: &Programs, pids: &[Pid]) -> Result<(), KernelError> {
    let mut known: HashSet<Pid> = pids.iter().copied().collect();
    loop {
        let parents = all_parents();
        let new = descendants(&parents, &known);
        if new.is_empty() {
            return Ok(());
        }
        // Whoever runs in a namespace inside ours is not recognised by its number.
        let seen: Vec<_> =
            new.iter().copied().filter(|pid| programs.check_process(*pid).is_ok()).collect();
        programs.trace_processes(&seen)?;
        known.extend(new);
    }
}

/// CPU time of the children that these processes have forked since `since`, and of the children of those.
/// Call this on a thread that has just been started: it tells the time.
pub(crate) fn used_by_children(of: &HashSet<Pid>, since: Instant) -> Duration {
    // SAFETY: the call takes no pointer.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let Ok(ticks_a_second) = u64::try_from(ticks_a_second) else { return Duration::ZERO };
    let Ok((now, _)) = process::own_thread_times() else { return Duration::ZERO };
    let earliest = now.0.saturating_sub(since.elapsed().as_millis() as u64 * ticks_a_second / 1000);
    let children = descendants(&all_parents(), of);
    let times = children.into_iter().filter_map(|pid| process::times(pid).ok());
    let ticks: u64 =
        times.filter(|(started, _)| started.0 >= earliest).map(|(_, ticks)| ticks).sum();
    Duration::from_millis(ticks * 1000 / ticks_a_second.max(1))
}

/// Children of these processes and the children of those, without the processes themselves.
fn descendants(parents: &HashMap<Pid, Pid>, of: &HashSet<Pid>) -> HashSet<Pid> {
    let mut found = HashSet::new();
    loop {
        let before = found.len();
        for (child, parent) in parents {
            if !of.contains(child) && (of.contains(parent) || found.contains(parent)) {
                found.insert(*child);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: u32) -> Pid {
        Pid::new(number).unwrap()
    }

    /// Check that children, their children and nobody else are descendants, whatever their numbers.
    #[test]
    fn descendants_of_processes() {
        let parents = [(2, 1), (9, 2), (4, 9), (5, 1), (6, 5), (3, 6)];
        let parents = parents.map(|(child, parent)| (pid(child), pid(parent))).into();
        let of = |pids: &[u32]| {
            let of = pids.iter().map(|number| pid(*number)).collect();
            let mut found: Vec<u32> =
                descendants(&parents, &of).into_iter().map(Pid::get).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(of(&[2]), [4, 9]);
        assert_eq!(of(&[9, 5]), [3, 4, 6]);
        assert_eq!(of(&[3]), [0_u32; 0]);
    }

    /// Check that children forked during an attempt have to be freed by the next one.
    #[test]
    fn forks_during_an_attempt() {
        let mut freed = Freed::new();
        assert!(freed.due(0).is_none());
        let attempt = freed.due(3).unwrap();
        freed.done(attempt, Some(Duration::from_secs(1)));
        let figures = freed.figures(5, 0, 0);
        assert_eq!((figures.forked, figures.not_freed, figures.freed_times), (5, 2, 1));
        assert_eq!(figures.used, Duration::from_secs(1));
        assert!(figures.freed_within.is_some());
        assert!(freed.due(5).is_some());
        assert!(freed.due(3).is_none());
        let attempt = freed.due(6).unwrap();
        freed.done(attempt, None);
        let figures = freed.figures(7, 0, 0);
        assert_eq!((figures.forked, figures.not_freed, figures.freed_times), (7, 4, 1));
    }
}
