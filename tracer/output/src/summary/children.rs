//! What became of children that traced processes have forked.

use serde::Serialize;

use super::Millis;
use faultline_spec::units::duration_text;

/// What became of children that traced processes have forked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Children {
    /// Children that were traced too, each from its first instruction.
    pub followed: u64,
    /// Children that should have been traced too, and were not: there was no room for more.
    pub not_followed: u64,
    /// Children that inherited breakpoints without being traced. What they paid for them is not known.
    pub inherited: u64,
    /// Of these, children that had them until the end of the run, or their own.
    pub inherited_to_the_end: u64,
    /// How often breakpoints were removed from children.
    pub freed_times: u64,
    /// The longest time from a fork until then, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed_within_ms: Option<Millis>,
    /// CPU time that children had used when they were freed, as far as they were still alive then: they paid
    /// for the breakpoints with a part of it.
    pub cpu_ms: Millis,
}

impl From<faultline_engine::Children> for Children {
    fn from(children: faultline_engine::Children) -> Self {
        let faultline_engine::Children {
            forked,
            not_freed,
            freed_times,
            freed_within,
            used,
            followed,
            unfollowed,
        } = children;
        Self {
            followed,
            not_followed: unfollowed,
            inherited: forked,
            inherited_to_the_end: not_freed,
            freed_times,
            freed_within_ms: freed_within.map(Millis),
            cpu_ms: Millis(used),
        }
    }
}

impl Children {
    /// In words.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.followed != 0 {
            sentences.push(format!("{} traced too (--follow)", forked(self.followed)));
        }
        if self.not_followed != 0 {
            sentences.push(format!("{} not traced: too many at once", forked(self.not_followed)));
        }
        if self.inherited != 0 {
            let at_the_end = self.inherited_to_the_end;
            let within = match self.freed_within_ms {
                Some(within) if at_the_end < self.inherited => {
                    let ns = u64::try_from(within.0.as_nanos()).unwrap_or(u64::MAX);
                    format!(" within {}", duration_text(ns))
                }
                _ => String::new(),
            };
            let rest = match at_the_end {
                0 => String::new(),
                all if all == self.inherited => " at the end".to_owned(),
                some => format!(", from {some} of them at the end"),
            };
            sentences.push(format!(
                "{} not traced (use --follow to trace children); the breakpoints that they inherited were \
                 removed{within}{rest}",
                forked(self.inherited),
            ));
            let used = match self.cpu_ms.0.as_nanos() {
                0 => String::new(),
                ns => format!(
                    "; those alive at that time had used {} of CPU",
                    duration_text(u64::try_from(ns).unwrap_or(u64::MAX))
                ),
            };
            sentences.push(format!(
                "what these children paid until then is not known and not in any budget{used}"
            ));
        }
        sentences
    }
}

/// `1 forked child was`, `2 forked children were`.
fn forked(number: u64) -> String {
    match number {
        1 => "1 forked child was".to_owned(),
        many => format!("{many} forked children were"),
    }
}
