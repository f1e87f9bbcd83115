//! A named probe while it is attached.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{group::GroupId, look::Traced};
use crate::daemon::config::ProbeConfig;
use faultline_engine::kernel::HeldLinks;
use faultline_output::prometheus::Figures;
use faultline_plan::ProbeId;
use faultline_resolve::ObjectFile;

/// Where a probe comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::daemon) enum Origin {
    /// The configuration.
    Config,
    /// The control socket: a reload leaves it alone.
    Control,
}

/// A named probe.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) config: ProbeConfig,
    pub(super) origin: Origin,
    /// One for each content of its files: those that are alike share a part.
    pub(super) parts: Vec<Part>,
    /// Why it is not attached, if it is not.
    pub(super) problem: Option<Arc<str>>,
    /// Functions that it names and that cannot be probed, with the reason.
    pub(super) skipped: HashMap<Arc<str>, String>,
    /// What its functions counted where they are not attached any more.
    pub(super) retired: HashMap<Arc<str>, Arc<Figures>>,
}

/// The functions of a named probe in files of one content.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) group: GroupId,
    pub(super) ids: Vec<ProbeId>,
    /// The file that they were found in.
    pub(super) file: Arc<ObjectFile>,
    pub(super) attachments: Vec<Attachment>,
}

/// Breakpoints in one file, in one process or in all.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) file: Arc<ObjectFile>,
    pub(super) traced: Option<Traced>,
    pub(super) links: HeldSets,
}

/// Links of a place, by what can go alone: see [`LinkSets`](faultline_engine::kernel::LinkSets).
#[derive(Debug, Default)]
pub(super) struct HeldSets(Vec<(Vec<ProbeId>, HeldLinks)>);

impl HeldSets {
    pub(super) fn new(sets: impl IntoIterator<Item = (Vec<ProbeId>, HeldLinks)>) -> Self {
        Self(sets.into_iter().collect())
    }

    /// Number of links.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(_, links)| links.len()).sum()
    }

    /// The probes that are attached.
    pub(super) fn probes(&self) -> impl Iterator<Item = ProbeId> {
        self.0.iter().flat_map(|(probes, _)| probes).copied()
    }

    pub(super) fn into_links(self) -> impl Iterator<Item = HeldLinks> {
        self.0.into_iter().map(|(_, links)| links)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The sets, by index, that have any of these probes; and what else is in them.
    pub(super) fn touched_by(&self, probes: &HashSet<ProbeId>) -> (HashSet<usize>, Vec<ProbeId>) {
        let is_out = |probe: &ProbeId| probes.contains(probe);
        let touched = self.0.iter().enumerate().filter(|(_, (all, _))| all.iter().any(is_out));
        let touched: HashSet<_> = touched.map(|(index, _)| index).collect();
        let stays = touched.iter().flat_map(|index| &self.0[*index].0);
        let stays = stays.filter(|probe| !is_out(probe)).copied().collect();
        (touched, stays)
    }

    /// Puts others in the place of some; those are to be released.
    pub(super) fn exchange(&mut self, touched: &HashSet<usize>, new: Self) -> Vec<HeldLinks> {
        let mut old = Vec::new();
        for (index, (probes, links)) in std::mem::take(&mut self.0).into_iter().enumerate() {
            if touched.contains(&index) {
                old.push(links);
            } else {
                self.0.push((probes, links));
            }
        }
        self.add(new);
        old
    }
}

impl Named {
    pub(super) fn new(config: ProbeConfig, origin: Origin) -> Self {
        Self {
            config,
            origin,
            parts: Vec::new(),
            problem: None,
            skipped: HashMap::new(),
            retired: HashMap::new(),
        }
    }

    /// What is attached somewhere.
    pub(super) fn live_parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.attachments.is_empty())
    }

    /// Every place that it is attached in.
    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.parts.iter().flat_map(|part| &part.attachments)
    }
}
