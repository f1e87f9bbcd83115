//! Links in sets, so that some probes can go while others stay.
//!
//! A set's links come and go together. On a kernel where each breakpoint has a link of its own, each
//! probe is a set; elsewhere all probes of a file are one, and what stays of it when some go is
//! exchanged for a new one.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{AttachReport, KernelError, Links, Programs, Progress, Scope};
use faultline_plan::{AttachPlan, ProbeId};

/// Links, by what can go alone.
#[derive(Debug, Default)]
pub struct LinkSets {
    sets: Vec<(Vec<ProbeId>, Links)>,
}

/// What a change leaves to be done.
#[derive(Debug)]
pub struct Changed {
    /// To be released.
    pub old: Links,
    /// When they are, [`Programs::end_exchange`] is to be called.
    pub exchange: bool,
}

impl LinkSets {
    /// Sets the breakpoints of these probes: see [`Links::attach_groups`].
    ///
    /// # Errors
    ///
    /// As [`Links::attach_groups`].
    pub fn attach(
        programs: &Programs,
        plan: &AttachPlan,
        probes: &[ProbeId],
        scope: &Scope,
        progress: &Progress,
    ) -> Result<(Self, AttachReport), KernelError> {
        let sets = sets(plan, probes, programs.features().batches());
        let groups: Vec<&[ProbeId]> = sets.iter().map(Vec::as_slice).collect();
        let (links, report) = Links::attach_groups(programs, plan, &groups, scope, progress)?;
        // What the kernel has refused once is not offered to it again.
        let refused: HashSet<_> = report.refused_ids.iter().collect();
        let sets = sets.into_iter().map(|mut probes| {
            probes.retain(|probe| !refused.contains(probe));
            probes
        });
        Ok((Self { sets: sets.zip(links).collect() }, report))
    }

    /// Takes these probes out; those that stay lose no hit, and none counts twice.
    ///
    /// # Errors
    ///
    /// As [`Links::attach_groups`], for links with what stays. Nothing has changed then.
    pub fn take_out(
        &mut self,
        programs: &Programs,
        plan: &AttachPlan,
        probes: &HashSet<ProbeId>,
        scope: &Scope,
    ) -> Result<Changed, KernelError> {
        let touched =
            |(of_set, _): &(Vec<ProbeId>, Links)| of_set.iter().any(|probe| probes.contains(probe));
        let stays: Vec<ProbeId> = self
            .sets
            .iter()
            .filter(|set| touched(set))
            .flat_map(|(of_set, _)| of_set)
            .filter(|probe| !probes.contains(probe))
            .copied()
            .collect();
        let exchange = !stays.is_empty();
        if exchange {
            programs.begin_exchange();
        }
        let new = if exchange {
            Self::attach(programs, plan, &stays, scope, &Progress::default())
                .and_then(|(new, _)| programs.outlast_hits().map(|()| new))
                .inspect_err(|_| programs.end_exchange())?
        } else {
            Self::default()
        };
        let (old, kept) = std::mem::take(&mut self.sets).into_iter().partition(touched);
        self.sets = kept;
        self.sets.extend(new.sets);
        let old: Vec<_> = old;
        Ok(Changed { old: Links::join(old.into_iter().map(|(_, links)| links)), exchange })
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.sets.extend(other.sets);
    }

    /// All of them.
    pub fn into_links(self) -> Links {
        Links::join(self.sets.into_iter().map(|(_, links)| links))
    }

    /// Number of links.
    pub fn len(&self) -> usize {
        self.sets.iter().map(|(_, links)| links.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The probes that are attached.
    pub fn probes(&self) -> Vec<ProbeId> {
        self.sets.iter().flat_map(|(probes, _)| probes).copied().collect()
    }
}

/// Which probes come and go together.
fn sets(plan: &AttachPlan, probes: &[ProbeId], batches: bool) -> Vec<Vec<ProbeId>> {
    if !batches {
        return probes.iter().map(|probe| vec![*probe]).collect();
    }
    let mut file_of = vec![0; plan.probes.len()];
    for (file, planned) in plan.files.iter().enumerate() {
        for id in &planned.probes {
            file_of[id.0 as usize] = file;
        }
    }
    let mut by_file: BTreeMap<usize, Vec<ProbeId>> = BTreeMap::new();
    for probe in probes {
        let file = file_of.get(probe.0 as usize).copied().unwrap_or(0);
        by_file.entry(file).or_default().push(*probe);
    }
    by_file.into_values().collect()
}

/// CPU time that this process has used, all threads together.
pub fn own_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and lives through the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
