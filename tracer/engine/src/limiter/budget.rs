//! What tracing may take of the host, and what is to be done when it takes more.
//!
//! Takes figures and the time; gives corrections. It attaches and detaches nothing, and reads no clock:
//! the owner of the links carries a correction out, and reports when it is done or has failed.
//!
//! All of it rests on one number, the *debt*: CPU time that probes have taken beyond what the budget
//! grants, since it was last paid off. It grows with every hit and with the work of attaching, and
//! falls as time goes by. Something is done once it is half a second's worth; nothing is tried
//! again before it is paid. So the budget holds on average, whatever a try costs.

mod limit;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

pub use self::limit::{LimitError, OverheadLimit, OverheadPolicy};

/// How often is looked, if nothing is going on.
const EVERY: Duration = Duration::from_millis(100);
/// And how soon after probes were attached or detached: what comes then may be much.
const SOON: Duration = Duration::from_millis(10);
/// For how long after that.
const SOON_FOR: Duration = Duration::from_millis(60);
/// What the debt may grow to before anything is done: the budget of this time. A burst is none.
const ALLOWANCE: Duration = Duration::from_millis(500);
/// The part of the budget that probes which stay are predicted to take at most.
const HEADROOM: f64 = 0.9;
/// Detaching again within this time means that the prediction was wrong: with less to wait for, the
/// program calls what is left more often. So less is left each time.
const AGAIN: Duration = Duration::from_secs(2);
/// The part of the budget that tries may take where probes that stay take the rest.
const FOR_TRIES: f64 = 0.1;
/// For how long a probe is detached for the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Probes that are due within this time of each other are tried together.
const TOGETHER: Duration = Duration::from_secs(1);
/// After a correction that failed, none is made for this long.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Shortest time that all probes are attached under [`OverheadPolicy::DutyCycle`].
const WINDOW: Duration = Duration::from_millis(20);

/// What is to be done.
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

/// A probe that is to be detached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costly<K> {
    /// The probe.
    pub probe: K,
    /// The share of all CPUs that it took.
    pub share: f64,
    /// When it is tried again.
    pub again_in: Duration,
}

/// What the budget has done, and what probes have taken.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OverheadFigures {
    /// The most that was taken in one look of at least 10 ms: a share of all CPUs.
    pub peak: f64,
    /// What hits have cost, estimated: CPU time.
    pub hits: Duration,
    /// What attaching and detaching for the budget's sake has cost.
    pub work: Duration,
    /// Times that the budget was exceeded and something was done.
    pub exceeded: u64,
    /// Probes that were detached, each time that they were.
    pub detached: u64,
    /// Probes that were attached again.
    pub attached_again: u64,
}

/// The budget of some probes.
#[derive(Debug)]
pub struct Budget<K> {
    limit: OverheadLimit,
    cpus: f64,
    debt_ns: f64,
    looked: Instant,
    /// The share that was taken before the last look.
    share: f64,
    /// When probes were last attached or detached.
    changed: Instant,
    /// A correction is decided and not done yet.
    busy: bool,
    /// Nothing is decided before: the last correction failed.
    not_before: Instant,
    /// Under [`OverheadPolicy::DutyCycle`]: everything is detached.
    paused: bool,
    /// Times in a row that detaching was not enough.
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
    /// Of a host with so many CPUs; the probes are attached.
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

    /// Looks: `spent` is what hits have cost since the last look, `costs` that by probe; it is asked
    /// for only if something is to be detached.
    ///
    /// The correction is to be carried out and then reported by [`done`](Self::done) or
    /// [`failed`](Self::failed); until then no other is made. Figures are taken in any case.
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

    /// The correction is done, and took so much CPU time.
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

    /// The correction failed, and took so much CPU time: it is tried again, later.
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

    /// When it wants to look again.
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

    /// The share of all CPUs that was taken before the last look.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// The limit.
    pub fn limit(&self) -> OverheadLimit {
        self.limit
    }

    /// Probes that are detached now.
    pub fn away(&self) -> usize {
        self.away.len()
    }

    /// Whether this probe is detached now.
    pub fn is_away(&self, probe: &K) -> bool {
        self.paused || self.away.contains_key(probe)
    }

    /// Whether a correction was decided that is neither done nor failed.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether everything is detached now.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What the budget grants in this time.
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
        // They are tried again when what this has cost is paid out of what the others leave.
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

    /// Those whose pause is over, if anything may be tried.
    fn attach_due(&mut self, now: Instant) -> Correction<K> {
        // Who has stayed as long as it had to be away is like any other again.
        self.tried.retain(|_, tried| now.saturating_duration_since(tried.since) < tried.pause * 2);
        if self.debt_ns > 0.0 || !self.away.values().any(|away| away.until <= now) {
            return Correction::Nothing;
        }
        let due = self.away.iter().filter(|(_, away)| away.until <= now + TOGETHER);
        Correction::Attach(due.map(|(probe, _)| *probe).collect())
    }
}
