//! Requests while they are attached: their parts, and the places of those.

use std::{collections::HashMap, sync::Arc};

use faultline_plan::ProbeId;
use faultline_resolve::{ObjectFile, Skipped};

use crate::{
    collect::catalog::Figures,
    discovery::{Known, KnownPart, KnownPlace, PartId},
    kernel::HeldLinks,
    links::Place,
    request::Request,
    set::SetId,
};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration.
    Config,
    /// A client added it: a new configuration leaves it alone.
    Control,
}

/// A request while it is attached.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) request: Arc<Request>,
    pub(super) origin: Origin,
    /// One for each distinct content of its files: identical files share a part.
    pub(super) parts: Vec<Part>,
    /// Why it is not attached, if it is not.
    pub(super) problem: Option<Arc<str>>,
    /// Functions that it names but that cannot be probed, with the reason.
    pub(super) skipped: HashMap<Arc<str>, Skipped>,
    /// What its functions counted at places that are no longer attached.
    pub(super) retired: HashMap<Arc<str>, Arc<Figures>>,
}

/// The functions of a request in files with the same content.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) id: PartId,
    pub(super) set: SetId,
    pub(super) ids: Vec<ProbeId>,
    /// The file in which they were found.
    pub(super) file: Arc<ObjectFile>,
    pub(super) places: Vec<Place>,
}

impl Probed {
    pub(super) fn new(request: Request, origin: Origin) -> Self {
        Self {
            request: Arc::new(request),
            origin,
            parts: Vec::new(),
            problem: None,
            skipped: HashMap::new(),
            retired: HashMap::new(),
        }
    }

    /// The parts that are attached somewhere.
    pub(super) fn live_parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.places.is_empty())
    }

    /// Every place where it is attached.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.parts.iter().flat_map(|part| &part.places)
    }

    /// What a look needs to know about it; `follows_someone`: see [`Known`].
    pub(super) fn known(&self, follows_someone: bool) -> Known {
        let place = |place: &Place| KnownPlace {
            id: place.id,
            at: (Arc::clone(&place.file), place.process),
        };
        let part = |part: &Part| KnownPart {
            id: part.id,
            file: Arc::clone(&part.file),
            functions: part.ids.len(),
            places: part.places.iter().map(place).collect(),
        };
        let parts = self.parts.iter().map(part).collect();
        Known { request: Arc::clone(&self.request), parts, follows_someone }
    }

    /// Records why it is not attached anywhere, if that is so.
    pub(super) fn note_problem(&mut self, problem: Option<&Arc<str>>, was_found: bool) {
        if self.places().next().is_some() {
            self.problem = None;
        } else if let Some(problem) = problem {
            self.problem = Some(Arc::clone(problem));
        } else if was_found {
            let can_be = self.parts.iter().any(|part| !part.ids.is_empty());
            self.problem = Some(match can_be {
                true => "the target disappeared before it was attached".into(),
                false => "none of its functions can be probed".into(),
            });
        } else if self.problem.is_none() {
            self.problem = Some("no process is selected".into());
        }
    }
}

/// The links of parts that are removed.
pub(super) fn into_links(parts: impl IntoIterator<Item = Part>) -> Vec<HeldLinks> {
    let places = parts.into_iter().flat_map(|part| part.places);
    places.flat_map(|place| place.links.into_links()).collect()
}
