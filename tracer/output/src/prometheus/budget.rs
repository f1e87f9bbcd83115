//! Which probes have series of their own.
//!
//! The number of series has a hard limit. If the probes need more, the busiest have their own and the
//! rest is summed up. No series may ever decrease. So the sum contains what probes counted *while* they
//! were in it, and a probe with series of its own shows what it counted outside of it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::collector::series_of;
use faultline_engine::collect::catalog::{Catalog, Figures, Reading, Series};

/// A probe replaces another only if it is this many times busier, so that series do not change from
/// scrape to scrape.
const BUSIER: u64 = 2;

type Key = (Arc<str>, Arc<str>);

/// The decision, kept from scrape to scrape.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) max_series: usize,
    /// Probes that have series of their own; all, as long as they fit.
    own: HashSet<Key>,
    /// What each probe counted inside the sum, and its last reading.
    folded: HashMap<Key, Folded>,
    /// Everything that was counted inside the sum.
    sum: Figures,
}

#[derive(Debug, Default)]
struct Folded {
    inside: Figures,
    last: Figures,
}

/// What a scrape shows.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Probes with series of their own: index of the series, and what it shows.
    pub(super) own: Vec<(usize, Figures)>,
    /// Probes without.
    pub(super) folded: usize,
    /// All of those together, now and before.
    pub(super) sum: Option<Figures>,
    /// Series that this takes.
    pub(super) series: usize,
}

impl Budget {
    pub(super) fn new(max_series: usize) -> Self {
        Self { max_series, own: HashSet::new(), folded: HashMap::new(), sum: Figures::default() }
    }

    /// Decides for one reading.
    pub(super) fn decide(&mut self, catalog: &Catalog, reading: Reading) -> Shown {
        let needed: usize = catalog.series.iter().map(series_of).sum();
        if needed <= self.max_series && self.folded.is_empty() && self.own.is_empty() {
            let own = reading.series.into_iter().enumerate().collect();
            return Shown { own, series: needed, ..Shown::default() };
        }
        self.choose(catalog, &reading);
        let mut shown = Shown::default();
        let mut alive = HashSet::new();
        for (index, (series, now)) in catalog.series.iter().zip(reading.series).enumerate() {
            let key = key(series);
            alive.insert(key.clone());
            if self.own.contains(&key) {
                shown.series += series_of(series);
                let figures = match self.folded.get_mut(&key) {
                    Some(folded) => {
                        folded.last = now.clone();
                        now.since(&folded.inside)
                    }
                    None => now,
                };
                shown.own.push((index, figures));
            } else {
                shown.folded += 1;
                let folded = self.folded.entry(key).or_default();
                let new = now.since(&folded.last);
                folded.inside.add(&new);
                folded.last = now;
                self.sum.add(&new);
            }
        }
        self.folded.retain(|key, _| alive.contains(key));
        shown.sum = Some(self.sum.clone());
        shown
    }

    /// Chooses who has series of its own.
    fn choose(&mut self, catalog: &Catalog, reading: &Reading) {
        let mut ranked: Vec<_> = catalog
            .series
            .iter()
            .zip(&reading.series)
            .map(|(series, figures)| {
                let advantage = if self.own.contains(&key(series)) { BUSIER } else { 1 };
                (figures.hits().saturating_mul(advantage), series)
            })
            .collect();
        // Stable: equally busy probes stay sorted by name.
        ranked.sort_by_key(|(hits, _)| std::cmp::Reverse(*hits));
        let mut left = self.max_series;
        let mut own = HashSet::new();
        for (_, series) in ranked {
            let Some(rest) = left.checked_sub(series_of(series)) else { continue };
            left = rest;
            own.insert(key(series));
        }
        // A probe that loses its series adds to the sum only what it counts from now on.
        for (series, figures) in catalog.series.iter().zip(&reading.series) {
            let key = key(series);
            if self.own.contains(&key) && !own.contains(&key) {
                self.folded.entry(key).or_default().last = figures.clone();
            }
        }
        self.own = own;
    }
}

fn key(series: &Series) -> Key {
    (Arc::clone(&series.name), Arc::clone(&series.probe))
}

#[cfg(test)]
mod tests;
