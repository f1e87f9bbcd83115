//! What a user has to know about the hits of some probes.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::escape::shown;
use faultline_resolve::Caveat;

/// Probes named in a sentence, and in JSON.
const SHOWN: usize = 3;
const LISTED: usize = 20;

/// A caveat about some probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeCaveat {
    /// What is to be known.
    caveat: Caveat,
    /// The first of the probes, by label.
    probes: Vec<String>,
    /// How many more there are.
    more: usize,
}

impl ProbeCaveat {
    /// A caveat about the probes with these labels.
    pub fn new<'l>(caveat: Caveat, labels: impl IntoIterator<Item = &'l str>) -> Self {
        let mut labels = labels.into_iter();
        let probes: Vec<_> = labels.by_ref().take(LISTED).map(str::to_owned).collect();
        Self { caveat, probes, more: labels.count() }
    }

    /// The probes and what is to be known about them, in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let named: Vec<_> = self.probes.iter().take(SHOWN).map(|probe| shown(probe)).collect();
        let more = match self.probes.len() - named.len() + self.more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let why = if self.caveat.explains_no_hits() { "no hits at " } else { "" };
        format!("{why}{}{more}: {}", named.join(", "), shown(&self.caveat.to_string()))
    }
}

/// `{"cause":"inlined","probes":["app:f"],"places":2,"text":"…","sentence":"…"}`.
impl Serialize for ProbeCaveat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("cause", self.caveat.kind())?;
        map.serialize_entry("probes", &self.probes)?;
        if self.more != 0 {
            map.serialize_entry("more_probes", &self.more)?;
        }
        match &self.caveat {
            Caveat::Copies { names } | Caveat::SameCode { names } => {
                let names: Vec<_> = names.iter().map(Arc::as_ref).collect();
                map.serialize_entry::<_, Vec<&str>>("names", &names)?;
            }
            Caveat::Inlined { places } => map.serialize_entry("places", places)?,
            Caveat::Static { program } | Caveat::NotLinked { program } => {
                map.serialize_entry("program", &program.to_string_lossy())?;
            }
            Caveat::OtherLibc { program, loader } => {
                map.serialize_entry("program", &program.to_string_lossy())?;
                map.serialize_entry("file", &loader.to_string_lossy())?;
            }
            Caveat::OtherFile { pid, path } => {
                map.serialize_entry("pid", &pid.get())?;
                map.serialize_entry("file", &path.to_string_lossy())?;
            }
            Caveat::Replaced { pid }
            | Caveat::Moved { pid }
            | Caveat::Children { pid }
            | Caveat::NotMapped { pid: Some(pid) } => map.serialize_entry("pid", &pid.get())?,
            _ => {}
        }
        map.serialize_entry("text", &self.caveat.to_string())?;
        map.serialize_entry("sentence", &self.sentence())?;
        map.end()
    }
}
