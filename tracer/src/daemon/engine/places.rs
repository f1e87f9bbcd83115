//! Where probes are attached: places that begin to count, and places that have nothing to do any
//! more.

use std::{collections::HashSet, sync::Arc};

use super::{
    Engine,
    group::{Group, GroupId},
    named::Part,
};
use faultline_engine::kernel::HeldLinks;

/// Contents of its files that a probe may be without a place for, before the oldest is forgotten.
const KEPT_EMPTY: usize = 2;

impl Engine {
    /// Has new groups count from now on.
    pub(super) fn begin(&mut self, groups: Vec<(GroupId, Group)>) {
        for (id, group) in groups {
            group.programs.enable(true);
            self.groups.insert(id, group);
        }
    }

    /// Takes parts out of their groups; their links are to be released.
    pub(super) fn leave(&mut self, parts: Vec<Part>) -> Vec<HeldLinks> {
        let mut links = Vec::new();
        for part in parts {
            if let Some(group) = self.groups.get_mut(&part.group) {
                group.members = group.members.saturating_sub(1);
            }
            links.extend(part.attachments.into_iter().flat_map(|place| place.links.into_links()));
        }
        links
    }

    /// Takes out attachments that have nothing to do any more; their links are to be released.
    pub(super) fn drop_attachments(
        &mut self,
        mut gone: Vec<(Arc<str>, usize, usize)>,
    ) -> Vec<HeldLinks> {
        // From the last to the first, so that those before keep their places.
        gone.sort_unstable_by(|one, other| other.cmp(one));
        let mut links = Vec::new();
        let mut ended = HashSet::new();
        for (name, part, place) in gone {
            let part = self.named.get_mut(&name).and_then(|named| named.parts.get_mut(part));
            let Some(part) = part.filter(|part| place < part.attachments.len()) else { continue };
            let attachment = part.attachments.remove(place);
            if let Some(traced) = attachment.traced {
                ended.insert((part.group, traced.pid));
            }
            links.extend(attachment.links.into_links());
        }
        // A process may be in a group for several probes; where one has lost it, all have.
        for (id, pid) in ended {
            if let Some(group) = self.groups.get_mut(&id)
                && let Err(error) = group.programs.forget_process(pid)
            {
                tracing::debug!("{error}");
            }
        }
        links
    }

    /// Forgets contents of files that are nowhere any more, but for the last few; what they
    /// counted is kept.
    pub(super) fn forget_empty(&mut self) -> Vec<HeldLinks> {
        let mut forgotten = Vec::new();
        for named in self.named.values_mut() {
            let empty = |part: &Part| part.attachments.is_empty();
            while named.parts.iter().filter(|part| empty(part)).count() > KEPT_EMPTY {
                let Some(oldest) = named.parts.iter().position(empty) else { break };
                let part = named.parts.remove(oldest);
                if let Some(group) = self.groups.get(&part.group) {
                    for (label, figures) in super::publish::figures_of(group, &part) {
                        let sum = named.retired.entry(label).or_default();
                        let mut figures = figures;
                        figures.add(sum);
                        *sum = Arc::new(figures);
                    }
                }
                forgotten.push(part);
            }
        }
        self.leave(forgotten)
    }

    /// Says of probes that have lost their last place that they wait.
    pub(super) fn note_placeless(&mut self) {
        for named in self.named.values_mut() {
            if named.problem.is_none() && named.attachments().next().is_none() {
                named.problem = Some("its target is gone".into());
            }
        }
    }
}
