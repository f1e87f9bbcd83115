//! Children of traced processes: those that exist when tracing begins, and figures about those that are
//! forked later. The mechanism is in [`kernel`](crate::kernel).

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use faultline_resolve::Pid;

use crate::{
    discovery::all_parents,
    kernel::{KernelError, Programs},
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
    /// Children that were traced too.
    pub followed: u64,
    /// Children that should have been traced too, and were not: there was no room for more.
    pub unfollowed: u64,
}

/// When children were freed of the breakpoints that they inherited.
#[derive(Debug)]
pub(crate) struct Freed {
    /// All children that were forked until then are free.
    forked: u64,
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
}

impl Freed {
    pub(crate) fn new() -> Self {
        Self { forked: 0, clean_at: Instant::now(), times: 0, within: None, told: false }
    }

    /// What has to be done if this many children have been forked by now.
    pub(crate) fn due(&mut self, forked: u64) -> Option<Attempt> {
        let began = Instant::now();
        if forked == self.forked {
            self.clean_at = began;
            return None;
        }
        Some(Attempt { forked, began })
    }

    /// Records that an attempt has succeeded.
    pub(crate) fn done(&mut self, attempt: Attempt) {
        let within = self.clean_at.elapsed();
        self.within = Some(self.within.map_or(within, |longest| longest.max(within)));
        self.times += 1;
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
            not_freed: forked.saturating_sub(self.forked),
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
        freed.done(attempt);
        let figures = freed.figures(5, 0, 0);
        assert_eq!((figures.forked, figures.not_freed, figures.freed_times), (5, 2, 1));
        assert!(figures.freed_within.is_some());
        assert!(freed.due(5).is_some());
        assert!(freed.due(3).is_none());
    }
}
