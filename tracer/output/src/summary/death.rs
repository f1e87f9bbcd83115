//! How a traced process died.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use faultline_engine::death::{DeathReport, Suspect};

/// A process that died of a signal while it was probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death(pub DeathReport);

#[derive(Serialize)]
struct SuspectLine<'s> {
    suspect: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<&'s str>,
    text: String,
}

impl<'s> From<&'s Suspect> for SuspectLine<'s> {
    fn from(suspect: &'s Suspect) -> Self {
        Self {
            suspect: suspect.kind(),
            probes: suspect.probes().iter().map(Arc::as_ref).collect(),
            text: suspect.to_string(),
        }
    }
}

/// `{"pid":1,"signal":5,"name":"SIGTRAP","address":4096,"suspects":[…],"text":"…"}`.
impl Serialize for Death {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let DeathReport { pid, signal, at, place, suspects } = &self.0;
        let mut line = serializer.serialize_struct("Death", 8)?;
        line.serialize_field("pid", pid)?;
        line.serialize_field("signal", signal)?;
        line.serialize_field("name", &self.0.signal_name())?;
        if let Some(at) = at {
            line.serialize_field("address", &at.0)?;
        }
        if let Some((file, offset)) = place {
            line.serialize_field("file", &file.to_string_lossy())?;
            line.serialize_field("offset", offset)?;
        }
        let suspects: Vec<_> = suspects.iter().map(SuspectLine::from).collect();
        line.serialize_field("suspects", &suspects)?;
        line.serialize_field("text", &self.0.to_string())?;
        line.end()
    }
}
