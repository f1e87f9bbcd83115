//! The overhead budget: measures what probes cost, decides what must go or may come, and says how it is
//! done. It attaches and releases nothing itself: the tracer has that done, and says
//! whether it succeeded.

mod budget;
mod meter;
mod presence;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use faultline_plan::ProbeId;
use faultline_spec::units::duration_text;

pub use self::{
    budget::{
        Budget, Correction, Costly, LimitError, OverheadFigures, OverheadLimit, OverheadPolicy,
    },
    meter::Meter,
    presence::Presence,
};
use crate::{
    kernel::online_cpus,
    set::{ProbeSet, SetId},
};

/// Reading counters may take at most this fraction of the time: there may be a million of them.
const LOOK_PART: u32 = 50;
/// How many detached probes to name; the rest are counted.
const NAMED: usize = 3;

/// A probe of a set.
pub(crate) type Key = (SetId, ProbeId);

/// The state of the budget, for display.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OverheadStatus {
    /// The share of all CPUs that probes may use.
    pub limit: f64,
    /// What to do above it.
    pub policy: String,
    /// What it did, and what the probes used.
    pub figures: OverheadFigures,
    /// How many probes are detached now.
    pub away: usize,
    /// How long probes were attached while there was a budget.
    pub attached: Duration,
    /// How long there has been a budget.
    pub elapsed: Duration,
}

/// A decision of the limiter, for people.
#[derive(Debug, Clone, PartialEq)]
pub enum LimiterNotice {
    /// Probes were detached.
    Detached {
        /// The share of all CPUs that probes used.
        share: f64,
        /// The limit.
        limit: OverheadLimit,
        /// The costliest by label, with the share that each used.
        named: Vec<(Arc<str>, f64)>,
        /// How many more there are, and their share.
        more: (usize, f64),
        /// When they will be retried.
        again_in: Duration,
    },
    /// Probes are being attached again, to see whether they still cost too much.
    TryingAgain {
        /// The label of one.
        first: Arc<str>,
        /// How many more.
        more: usize,
    },
    /// From now on probes are attached only part of the time.
    DutyCycle {
        /// The share of all CPUs that probes used.
        share: f64,
        /// The limit.
        limit: OverheadLimit,
    },
    /// Detaching or attaching failed; it will be retried.
    Failed {
        /// Why.
        error: String,
    },
}

impl fmt::Display for LimiterNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = |share: f64, limit: OverheadLimit| {
            // Rounded up, so that it never looks like an allowed value.
            let percent = (share * 10_000.0).ceil() / 100.0;
            format!("over budget: {percent:.2} % of all CPUs, at most {} %", limit.percent())
        };
        match self {
            Self::Detached { share, limit, named, more, again_in } => {
                let name = |(label, share): &(Arc<str>, f64)| {
                    format!("`{}` ({})", label.escape_debug(), percent(*share))
                };
                let named = named.iter().map(name).collect::<Vec<_>>().join(", ");
                let more = match more {
                    (0, _) => String::new(),
                    (count, share) => format!(" and {count} more ({})", percent(*share)),
                };
                let again_in = Duration::from_millis(again_in.as_millis() as u64);
                let again_in = duration_text(again_in.as_nanos() as u64);
                let over = over(*share, *limit);
                write!(f, "{over}: detached {named}{more}; trying again in {again_in}")
            }
            Self::TryingAgain { first, more } => {
                let more = match more {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                write!(f, "trying again: `{}`{more}", first.escape_debug())
            }
            Self::DutyCycle { share, limit } => write!(
                f,
                "{}: probes are now attached only part of the time; figures marked `~` are estimates",
                over(*share, *limit)
            ),
            Self::Failed { error } => {
                write!(f, "failed to keep the overhead budget: {error}; trying again")
            }
        }
    }
}

/// `38 %`, `0.42 %`.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 10.0 {
        format!("{percent:.0} %")
    } else if percent < 0.01 {
        "below 0.01 %".to_owned()
    } else {
        let text = format!("{percent:.2}");
        format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Keeps the joint budget of all sets.
#[derive(Debug)]
pub(crate) struct Limiter {
    budget: Budget<Key>,
    meters: BTreeMap<SetId, Meter>,
    began: Instant,
    next: Instant,
    looked: Instant,
    attached: Duration,
    told_duty: bool,
}

impl Limiter {
    /// Begins now: what the sets have counted before does not matter.
    pub(crate) fn new(limit: OverheadLimit, sets: &BTreeMap<SetId, Arc<ProbeSet>>) -> Self {
        let meters = sets.iter().map(|(id, set)| {
            let mut meter = Meter::new(set.source.costs.clone(), set.plan.probes.len());
            meter.read(&set.source.counters);
            (*id, meter)
        });
        let meters = meters.collect();
        let now = Instant::now();
        Self {
            budget: Budget::new(limit, online_cpus(), now),
            meters,
            began: now,
            next: now,
            looked: now,
            attached: Duration::ZERO,
            told_duty: false,
        }
    }

    pub(crate) fn limit(&self) -> OverheadLimit {
        self.budget.limit()
    }

    /// Whether everything is detached at the moment.
    pub(crate) fn is_paused(&self) -> bool {
        self.budget.is_paused()
    }

    /// Whether one of its decisions is being carried out.
    pub(crate) fn is_correcting(&self) -> bool {
        self.budget.is_busy()
    }

    /// Whether a probe is detached and must stay so.
    pub(crate) fn is_away(&self, set: SetId, probe: ProbeId) -> bool {
        self.budget.is_away(&(set, probe))
    }

    /// How long until the next look.
    pub(crate) fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks at what probes have cost; returns what to do about it.
    pub(crate) fn look(&mut self, sets: &BTreeMap<SetId, Arc<ProbeSet>>) -> Correction<Key> {
        let began = Instant::now();
        self.meters.retain(|id, _| sets.contains_key(id));
        let mut spent = Duration::ZERO;
        for (id, set) in sets {
            let new = || Meter::new(set.source.costs.clone(), set.plan.probes.len());
            spent += self.meters.entry(*id).or_insert_with(new).read(&set.source.counters);
        }
        let now = Instant::now();
        if !self.budget.is_paused() {
            self.attached += now - self.looked;
        }
        self.looked = now;
        self.budget.forget(|(set, _)| !sets.contains_key(set));
        let meters = &self.meters;
        let correction = self.budget.look(now, spent, || {
            let of = |(id, meter): (&SetId, &Meter)| {
                let id = *id;
                meter.costs().into_iter().map(move |(probe, spent)| ((id, probe), spent))
            };
            meters.iter().flat_map(of).collect()
        });
        self.next = now + self.budget.next_look().max(began.elapsed() * LOOK_PART);
        correction
    }

    /// Reports that the decision was carried out, and how much CPU time it took.
    pub(crate) fn done(&mut self, correction: &Correction<Key>, work: Duration) {
        let now = Instant::now();
        self.budget.done(now, correction, work);
        self.next = now + self.budget.next_look();
    }

    /// Reports that the decision failed: it will be made again later.
    pub(crate) fn failed(&mut self, correction: &Correction<Key>, work: Duration) {
        let now = Instant::now();
        self.budget.failed(now, correction, work);
        self.next = now + self.budget.next_look();
    }

    /// The notice about a decision.
    pub(crate) fn notice(
        &mut self,
        correction: &Correction<Key>,
        sets: &BTreeMap<SetId, Arc<ProbeSet>>,
    ) -> Option<LimiterNotice> {
        let label = |(set, probe): Key| -> Arc<str> {
            let probe = sets.get(&set).and_then(|set| set.plan.probes.get(probe.0 as usize));
            probe.map_or_else(|| "?".into(), |probe| Arc::clone(&probe.label))
        };
        let (share, limit) = (self.budget.share(), self.budget.limit());
        match correction {
            Correction::Detach(costly) => {
                let (named, rest) = costly.split_at(costly.len().min(NAMED));
                Some(LimiterNotice::Detached {
                    share,
                    limit,
                    named: named.iter().map(|costly| (label(costly.probe), costly.share)).collect(),
                    more: (rest.len(), rest.iter().map(|costly| costly.share).sum()),
                    again_in: costly.iter().map(|costly| costly.again_in).min().unwrap_or_default(),
                })
            }
            Correction::Attach(probes) => Some(LimiterNotice::TryingAgain {
                first: label(*probes.first()?),
                more: probes.len() - 1,
            }),
            Correction::Pause if !self.told_duty => {
                self.told_duty = true;
                Some(LimiterNotice::DutyCycle { share, limit })
            }
            Correction::Pause | Correction::Resume | Correction::Nothing => None,
        }
    }

    /// Looks for the last time: nothing is detached or attached after it. Returns the status.
    pub(crate) fn last_look(&mut self, sets: &BTreeMap<SetId, Arc<ProbeSet>>) -> OverheadStatus {
        let correction = self.look(sets);
        if correction != Correction::Nothing {
            // It will not be carried out.
            self.failed(&correction, Duration::ZERO);
        }
        self.status()
    }

    /// An earlier status, with what has been carried out since.
    pub(crate) fn status_since(&self, earlier: OverheadStatus) -> OverheadStatus {
        OverheadStatus { figures: self.budget.figures(), away: self.budget.away(), ..earlier }
    }

    pub(crate) fn status(&self) -> OverheadStatus {
        let limit = self.budget.limit();
        OverheadStatus {
            limit: limit.share(),
            policy: limit.policy().to_string(),
            figures: self.budget.figures(),
            away: self.budget.away(),
            attached: self.attached,
            elapsed: self.began.elapsed(),
        }
    }
}
