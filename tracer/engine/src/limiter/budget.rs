//! How much of the host tracing may use, and what to do when it uses more.
//!
//! Takes figures and the time; gives corrections. It attaches and detaches nothing and reads no clock. The
//! owner of the links carries a correction out, and reports whether it succeeded or failed.
//!
//! Everything rests on one number, the *debt*: the CPU time that probes have used beyond the budget since
//! the debt was last paid off. It grows with every hit and with the work of attaching, and shrinks as time
//! passes. A correction is made once it reaches half a second's worth of budget. Nothing is attached again
//! before it is paid off. So the budget holds on average, whatever a retry costs.

mod limit;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

pub use self::limit::{LimitError, OverheadLimit, OverheadPolicy};

/// How often to look if nothing is happening.
const EVERY: Duration = Duration::from_millis(100);
/// How often to look after probes were attached or detached: the load may then be high.
const SOON: Duration = Duration::from_millis(10);
/// How long to keep looking that often.
const SOON_FOR: Duration = Duration::from_millis(60);
/// How far the debt may grow before a correction: the budget for this time. Shorter bursts are ignored.
const ALLOWANCE: Duration = Duration::from_millis(500);
/// The part of the budget that the remaining probes are predicted to use at most.
const HEADROOM: f64 = 0.9;
/// Detaching again within this time means that the prediction was wrong: the program is slowed down less,
/// and so calls the remaining functions more often. So each time fewer probes are left.
const AGAIN: Duration = Duration::from_secs(2);
/// The part of the budget that retries may use; the remaining probes use the rest.
const FOR_TRIES: f64 = 0.1;
/// How long a probe is detached the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Probes that are due within this time of each other are retried together.
const TOGETHER: Duration = Duration::from_secs(1);
/// How long to wait after a correction failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Shortest time for which all probes are attached under [`OverheadPolicy::DutyCycle`].
const WINDOW: Duration = Duration::from_millis(20);

/// What the owner of the links must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Correction<K> {
    /// Nothing.
    Nothing,
    /// Detach these, all at once.
    Detach(Vec<Costly<K>>),
    /// Attach these again.
    Attach(Vec<K>),
    /// Detach everything.
    Pause,
    /// Attach everything.
    Resume,
}

/// A probe to detach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costly<K> {
    /// The probe.
    pub probe: K,
    /// The share of all CPUs that it used.
    pub share: f64,
    /// When it will be retried.
    pub again_in: Duration,
}

/// What the budget did, and what the probes used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OverheadFigures {
    /// The highest usage in a look over at least 10 ms: a share of all CPUs.
    pub peak: f64,
    /// What hits have cost: estimated CPU time.
    pub hits: Duration,
    /// What the budget's own attaching and detaching has cost.
    pub work: Duration,
    /// How often the budget was exceeded and corrected.
    pub exceeded: u64,
    /// How often probes were detached.
    pub detached: u64,
    /// How often probes were attached again.
    pub attached_again: u64,
}

/// The budget of some probes.
#[derive(Debug)]
pub struct Budget<K> {
    limit: OverheadLimit,
    cpus: f64,
    debt_ns: f64,
    looked: Instant,
    /// The share used before the last look.
    share: f64,
    /// When probes were last attached or detached.
    changed: Instant,
    /// A correction was decided and is not done yet.
    busy: bool,
    /// Decide nothing before this time: the last correction failed.
    not_before: Instant,
    /// Under [`OverheadPolicy::DutyCycle`]: everything is detached.
    paused: bool,
    /// How many times in a row detaching was not enough.
    strikes: i32,
    detached_at: Option<Instant>,
    away: BTreeMap<K, Away>,
    tried: BTreeMap<K, Tried>,
    figures: OverheadFigures,
}

/// A probe that is detached.
#[derive(Debug, Clone, Copy)]
struct Away {
    pause: Duration,
    until: Instant,
}

/// A probe that was detached once.
#[derive(Debug, Clone, Copy)]
struct Tried {
    pause: Duration,
    since: Instant,
}

impl<K: Copy + Ord> Budget<K> {
    /// The budget of a host with this many CPUs. The probes start attached.
    pub fn new(limit: OverheadLimit, cpus: usize, now: Instant) -> Self {
        Self {
            limit,
            cpus: cpus.max(1) as f64,
            debt_ns: 0.0,
            looked: now,
            share: 0.0,
            changed: now,
            busy: false,
            not_before: now,
            paused: false,
            strikes: 0,
            detached_at: None,
            away: BTreeMap::new(),
            tried: BTreeMap::new(),
            figures: OverheadFigures::default(),
        }
    }

    /// Looks. `spent` is what hits have cost since the last look. `costs` gives that by probe, and is
    /// called only to decide what to detach.
    ///
    /// The caller must carry the correction out and then report [`done`](Self::done) or
    /// [`failed`](Self::failed); until then there is no other. Figures are updated in any case.
    pub fn look(
        &mut self,
        now: Instant,
        spent: Duration,
        costs: impl FnOnce() -> Vec<(K, Duration)>,
    ) -> Correction<K> {
        let elapsed = now.saturating_duration_since(self.looked);
        self.looked = now;
        let elapsed_ns = elapsed.as_nanos() as f64;
        let spent_ns = spent.as_nanos() as f64;
        let share = if elapsed_ns > 0.0 { spent_ns / (elapsed_ns * self.cpus) } else { 0.0 };
        self.share = share;
        self.figures.hits += spent;
        if elapsed >= SOON {
            self.figures.peak = self.figures.peak.max(share);
        }
        self.debt_ns = (self.debt_ns + spent_ns - self.granted_ns(elapsed)).max(0.0);
        if self.busy || now < self.not_before {
            return Correction::Nothing;
        }
        let over = share > self.limit.share() && self.debt_ns > self.granted_ns(ALLOWANCE);
        let correction = match self.limit.policy() {
            OverheadPolicy::DutyCycle if self.paused && self.debt_ns <= 0.0 => Correction::Resume,
            OverheadPolicy::DutyCycle
                if !self.paused && over && now - self.changed.min(now) >= WINDOW =>
            {
                self.figures.exceeded += 1;
                Correction::Pause
            }
            OverheadPolicy::DutyCycle => Correction::Nothing,
            OverheadPolicy::Detach if over => self.detach(now, elapsed, costs()),
            OverheadPolicy::Detach => self.attach_due(now),
        };
        match correction {
            Correction::Pause => self.paused = true,
            Correction::Resume => self.paused = false,
            Correction::Nothing | Correction::Detach(_) | Correction::Attach(_) => {}
        }
        self.busy = correction != Correction::Nothing;
        correction
    }

    /// Reports that the correction is done, and how much CPU time it took.
    pub fn done(&mut self, now: Instant, correction: &Correction<K>, work: Duration) {
        self.busy = false;
        self.changed = now;
        self.charge(work);
        match correction {
            Correction::Nothing | Correction::Pause | Correction::Resume => {}
            Correction::Detach(probes) => self.figures.detached += probes.len() as u64,
            Correction::Attach(probes) => {
                self.figures.attached_again += probes.len() as u64;
                for probe in probes {
                    if let Some(Away { pause, .. }) = self.away.remove(probe) {
                        self.tried.insert(*probe, Tried { pause, since: now });
                    }
                }
            }
        }
    }

    /// Reports that the correction failed, and how much CPU time it took. It will be retried later.
    pub fn failed(&mut self, now: Instant, correction: &Correction<K>, work: Duration) {
        self.busy = false;
        self.changed = now;
        self.not_before = now + AFTER_FAILURE;
        self.charge(work);
        match correction {
            Correction::Nothing => {}
            Correction::Pause => self.paused = false,
            Correction::Resume => self.paused = true,
            Correction::Detach(probes) => {
                for probe in probes {
                    self.away.remove(&probe.probe);
                }
            }
            Correction::Attach(probes) => {
                for probe in probes {
                    if let Some(away) = self.away.get_mut(probe) {
                        away.pause = (away.pause * 2).min(LONGEST_PAUSE);
                        away.until = now + away.pause;
                    }
                }
            }
        }
    }

    /// Forgets a probe that is gone.
    pub fn forget(&mut self, gone: impl Fn(&K) -> bool) {
        self.away.retain(|probe, _| !gone(probe));
        self.tried.retain(|probe, _| !gone(probe));
    }

    /// When to look again.
    pub fn next_look(&self) -> Duration {
        let since = self.looked.saturating_duration_since(self.changed);
        if self.busy || since < SOON_FOR {
            return SOON;
        }
        if self.paused {
            let ns = self.debt_ns / (self.limit.share() * self.cpus);
            return Duration::from_nanos(ns as u64).clamp(SOON / 5, EVERY);
        }
        EVERY
    }

    /// What it has done so far.
    pub fn figures(&self) -> OverheadFigures {
        self.figures
    }

    /// The share of all CPUs used before the last look.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// The limit.
    pub fn limit(&self) -> OverheadLimit {
        self.limit
    }

    /// How many probes are detached now.
    pub fn away(&self) -> usize {
        self.away.len()
    }

    /// Whether this probe is detached now.
    pub fn is_away(&self, probe: &K) -> bool {
        self.paused || self.away.contains_key(probe)
    }

    /// Whether a correction is pending: neither done nor failed.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether everything is detached now.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What the budget allows for this time.
    fn granted_ns(&self, time: Duration) -> f64 {
        time.as_nanos() as f64 * self.cpus * self.limit.share()
    }

    fn charge(&mut self, work: Duration) {
        self.figures.work += work;
        self.debt_ns += work.as_nanos() as f64;
    }

    /// Picks the costliest, as few as needed.
    fn detach(
        &mut self,
        now: Instant,
        elapsed: Duration,
        mut costs: Vec<(K, Duration)>,
    ) -> Correction<K> {
        let again = self.detached_at.is_some_and(|at| now.saturating_duration_since(at) < AGAIN);
        self.strikes = if again { self.strikes + 1 } else { 0 };
        self.detached_at = Some(now);
        let share = |spent: Duration| {
            spent.as_nanos() as f64 / (elapsed.as_nanos().max(1) as f64 * self.cpus)
        };
        let limit = self.limit.share();
        let target = HEADROOM * limit * 0.5_f64.powi(self.strikes);
        costs.retain(|(probe, spent)| !spent.is_zero() && !self.away.contains_key(probe));
        costs.sort_unstable_by(|(a, one), (b, other)| other.cmp(one).then_with(|| a.cmp(b)));
        let mut rest: f64 = costs.iter().map(|(_, spent)| share(*spent)).sum();
        let mut picked = Vec::new();
        for (probe, spent) in costs {
            if rest <= target {
                break;
            }
            rest -= share(spent);
            picked.push((probe, share(spent)));
        }
        if picked.is_empty() {
            return Correction::Nothing;
        }
        // They are retried once the rest of the budget has paid for what this has cost.
        let left = (HEADROOM * limit - rest).max(FOR_TRIES * limit);
        let paid = Duration::from_secs_f64(self.debt_ns / 1e9 / (left * self.cpus));
        self.figures.exceeded += 1;
        let picked = picked.into_iter().map(|(probe, share)| {
            let longer = |tried: Tried| (tried.pause * 2).min(LONGEST_PAUSE);
            let pause = self.tried.remove(&probe).map_or(FIRST_PAUSE, longer);
            let again_in = pause.max(paid);
            self.away.insert(probe, Away { pause, until: now + again_in });
            Costly { probe, share, again_in }
        });
        Correction::Detach(picked.collect())
    }

    /// The probes whose pause is over, if the budget allows a retry.
    fn attach_due(&mut self, now: Instant) -> Correction<K> {
        // A probe that has stayed attached for as long as it was away starts with a clean slate.
        self.tried.retain(|_, tried| now.saturating_duration_since(tried.since) < tried.pause * 2);
        if self.debt_ns > 0.0 || !self.away.values().any(|away| away.until <= now) {
            return Correction::Nothing;
        }
        let due = self.away.iter().filter(|(_, away)| away.until <= now + TOGETHER);
        Correction::Attach(due.map(|(probe, _)| *probe).collect())
    }
}
