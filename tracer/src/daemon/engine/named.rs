//! A named probe while it is attached.

use std::{collections::HashMap, sync::Arc};

use super::{group::GroupId, look::Traced};
use crate::{
    daemon::config::ProbeConfig, kernel::HeldLinks, metrics::Figures, plan::ProbeId,
    resolve::ObjectFile,
};

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
    pub(super) links: HeldLinks,
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

    /// Every place that it is attached in.
    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.parts.iter().flat_map(|part| &part.attachments)
    }
}
