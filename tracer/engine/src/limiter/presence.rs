//! How long probes were attached that were not attached all the time, and an estimate of the calls that
//! were missed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::kernel::Counters;
use faultline_plan::ProbeId;

/// The presence of a plan's probes.
#[derive(Debug)]
pub struct Presence {
    since: Instant,
    until: Option<Instant>,
    /// For probes detached one by one.
    absences: BTreeMap<ProbeId, Absence>,
    /// For probes that are all attached and detached together.
    windows: Option<Windows>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Absence {
    total: Duration,
    since: Option<Instant>,
}

/// The times in which all probes were attached, and the hits in them. The transitions do not count, because
/// probes are attached and detached one after another.
#[derive(Debug)]
struct Windows {
    hits: Vec<u64>,
    total: Duration,
    open: Option<(Instant, Vec<u64>)>,
}

impl Presence {
    /// Starts with all probes attached; `together` if they are attached and detached together.
    pub fn new(now: Instant, counters: &Counters, together: bool) -> Self {
        let windows = together.then(|| Windows {
            hits: vec![0; counters.probes()],
            total: Duration::ZERO,
            open: Some((now, counters.all_hits())),
        });
        Self { since: now, until: None, absences: BTreeMap::new(), windows }
    }

    /// Starts over with the same probes, all attached.
    #[must_use]
    pub fn again(&self, now: Instant, counters: &Counters) -> Self {
        Self::new(now, counters, self.windows.is_some())
    }

    /// Records that these were detached.
    pub fn detached(&mut self, now: Instant, probes: impl Iterator<Item = ProbeId>) {
        for probe in probes {
            self.absences.entry(probe).or_default().since.get_or_insert(now);
        }
    }

    /// Records that these were attached again.
    pub fn attached(&mut self, now: Instant, probes: impl Iterator<Item = ProbeId>) {
        for probe in probes {
            let Some(absence) = self.absences.get_mut(&probe) else { continue };
            if let Some(since) = absence.since.take() {
                absence.total += now.saturating_duration_since(since);
            }
        }
    }

    /// Records that all were attached.
    pub fn open(&mut self, now: Instant, counters: &Counters) {
        if let Some(windows) = &mut self.windows
            && self.until.is_none()
        {
            windows.open = Some((now, counters.all_hits()));
        }
    }

    /// Records that all are about to be detached.
    pub fn close(&mut self, now: Instant, counters: &Counters) {
        let Some(windows) = &mut self.windows else { return };
        let Some((since, before)) = windows.open.take() else { return };
        windows.total += now.saturating_duration_since(since);
        let all = windows.hits.iter_mut().zip(before).zip(counters.all_hits());
        for ((sum, before), hits) in all {
            *sum += hits.saturating_sub(before);
        }
    }

    /// Ends the record: nothing counts from now on.
    pub fn end(&mut self, now: Instant, counters: &Counters) {
        self.close(now, counters);
        self.until.get_or_insert(now);
    }

    /// The share of the time in which a probe was attached; `None` if that is all of it.
    pub fn share(&self, now: Instant, probe: ProbeId) -> Option<f64> {
        if self.windows.is_some() {
            return self.share_of_all(now);
        }
        let absence = self.absences.get(&probe)?;
        let now = self.until.unwrap_or(now);
        let open =
            absence.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let elapsed = now.saturating_duration_since(self.since);
        Some(1.0 - ratio(absence.total + open, elapsed).min(1.0))
    }

    /// The same for probes that are attached and detached together; also `None` if they are not.
    pub fn share_of_all(&self, now: Instant) -> Option<f64> {
        let windows = self.windows.as_ref()?;
        let now = self.until.unwrap_or(now);
        let open = windows
            .open
            .as_ref()
            .map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
        let elapsed = now.saturating_duration_since(self.since);
        let share = ratio(windows.total + open, elapsed);
        (share < 1.0).then_some(share)
    }

    /// An estimate of how many times more often a probe would have been hit had it been attached all the
    /// time. `None` if no estimate is possible.
    pub fn scale(&self, now: Instant, probe: ProbeId, counters: &Counters) -> Option<f64> {
        let share = self.share_of_all(now)?;
        let windows = self.windows.as_ref()?;
        let index = probe.0 as usize;
        let hits = counters.hits(probe);
        let open = windows.open.as_ref().and_then(|(_, before)| before.get(index));
        let in_window =
            windows.hits.get(index)? + open.map_or(0, |before| hits.saturating_sub(*before));
        (hits != 0 && share > 0.0).then(|| in_window as f64 / share / hits as f64)
    }
}

fn ratio(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 1.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}
