//! A named probe, as the configuration and the control socket give it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use faultline_resolve::Pid;
use faultline_spec::{Condition, ProbeSpec, Rate, Sample, TypeError};

/// Longest name of a probe.
const MAX_NAME: usize = 64;
/// Stands for probes without series of their own in the metrics.
const RESERVED_NAME: &str = "other";

/// What is done with a probe's hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They are counted, in the kernel.
    Count,
    /// The calls' durations go into a histogram, in the kernel.
    Latency,
    /// Each is an event.
    Events,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "count",
            Self::Latency => "latency",
            Self::Events => "events",
        })
    }
}

/// In which processes a probe is hit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selection {
    /// In all, now and later.
    All,
    /// In these.
    Pids(Vec<u32>),
    /// In those of this name, now and later.
    Process(Arc<str>),
    /// In those of this cgroup and the ones below it, now and later.
    Cgroup(Arc<str>),
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Pids(pids) => {
                let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
                write!(f, "pid {}", pids.join(","))
            }
            Self::Process(name) => write!(f, "process {name}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
        }
    }
}

/// A named probe as it is written, in TOML or JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeText {
    /// Its name.
    pub name: String,
    /// `TARGET:FUNCTION(ARGS) -> TYPE`
    pub probe: String,
    /// What is done with its hits.
    #[serde(default = "count")]
    pub action: Action,
    /// Only in these processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some_pids")]
    pub pids: Vec<u32>,
    /// Only in processes of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Only in processes of this cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Only hits of which this holds.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Only this share of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// At most so many calls of each function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Trace returns also in C++ and Rust programs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

fn count() -> Action {
    Action::Count
}

/// A named probe that is known to be right.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// Its name.
    pub name: Arc<str>,
    /// What it probes.
    pub spec: ProbeSpec,
    /// What is done with its hits.
    pub action: Action,
    /// In which processes.
    pub selection: Selection,
    /// Which hits are wanted.
    pub condition: Option<Condition>,
    /// What share of the calls is wanted.
    pub sample: Option<Sample>,
    /// How many calls of each function are wanted.
    pub rate: Option<Rate>,
    /// Trace returns also in C++ and Rust programs.
    pub force: bool,
    /// As it was written: what is written alike is the same probe.
    pub text: ProbeText,
}

/// What is wrong with a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongProbe {
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for WrongProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.message)
    }
}

impl ProbeText {
    /// Checks it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its key.
    pub fn check(self) -> Result<ProbeConfig, WrongProbe> {
        let wrong = |key, message: String| WrongProbe { key, message };
        check_name(&self.name).map_err(|message| wrong("name", message))?;
        let spec =
            self.probe.parse::<ProbeSpec>().map_err(|error| wrong("probe", error.to_string()))?;
        let selection = self.selection()?;
        let condition = self.condition(&spec)?;
        let sample = parsed("sample", self.sample.as_deref())?;
        let rate = parsed("rate", self.rate.as_deref())?;
        if self.action == Action::Count && (sample.is_some() || rate.is_some()) {
            let key = if sample.is_some() { "sample" } else { "rate" };
            let message = "it makes no sense for `count`: every call is counted in the kernel, \
                           which costs next to nothing";
            return Err(wrong(key, message.to_owned()));
        }
        Ok(ProbeConfig {
            name: self.name.as_str().into(),
            spec,
            action: self.action,
            selection,
            condition,
            sample,
            rate,
            force: self.force,
            text: self,
        })
    }

    fn condition(&self, spec: &ProbeSpec) -> Result<Option<Condition>, WrongProbe> {
        let condition: Option<Condition> = parsed("where", self.condition.as_deref())?;
        if let Some(Err(TypeError::Absent { error, .. } | TypeError::Wrong(error))) =
            condition.as_ref().map(|condition| condition.typed(spec))
        {
            return Err(WrongProbe { key: "where", message: error.to_string() });
        }
        Ok(condition)
    }

    fn selection(&self) -> Result<Selection, WrongProbe> {
        let wrong = |key, message: &str| WrongProbe { key, message: message.to_owned() };
        match (self.pids.as_slice(), &self.process, &self.cgroup) {
            ([], None, None) => Ok(Selection::All),
            (pids, None, None) => {
                if pids.iter().any(|pid| Pid::new(*pid).is_none()) {
                    return Err(wrong("pids", "no process has the number 0"));
                }
                let mut pids = pids.to_vec();
                pids.sort_unstable();
                pids.dedup();
                Ok(Selection::Pids(pids))
            }
            ([], Some(name), None) => match name.as_str() {
                "" => Err(wrong("process", "the name is empty")),
                name if name.contains('/') => {
                    Err(wrong("process", "a name has no `/`: give the program's base name"))
                }
                name => Ok(Selection::Process(name.into())),
            },
            ([], None, Some(path)) => {
                if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                    let message =
                        "expected a path in the cgroup tree, such as `/system.slice/nginx.service`";
                    return Err(wrong("cgroup", message));
                }
                Ok(Selection::Cgroup(path.trim_end_matches('/').into()))
            }
            (_, process, _) => Err(wrong(
                if process.is_some() { "process" } else { "cgroup" },
                "only one of `pids`, `process` and `cgroup` can be given",
            )),
        }
    }
}

/// An empty list would be every process, which is not what a template means that fills in none.
fn some_pids<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    let pids = Vec::deserialize(from)?;
    if pids.is_empty() {
        let message = "the list names no process (leave `pids` out for every process)";
        return Err(serde::de::Error::custom(message));
    }
    Ok(pids)
}

fn parsed<T>(key: &'static str, text: Option<&str>) -> Result<Option<T>, WrongProbe>
where
    T: FromStr<Err: fmt::Display>,
{
    let wrong = |error: T::Err| WrongProbe { key, message: error.to_string() };
    text.map(str::parse).transpose().map_err(wrong)
}

/// Whether a probe may have this name. Names are labels of metrics and parts of paths.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} characters"));
    }
    if let Some(other) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"_-.".contains(*c)) {
        return Err(format!(
            "a name has letters, digits, `_`, `-` and `.`; found `{}`",
            other.escape_debug()
        ));
    }
    if name == RESERVED_NAME {
        return Err(format!("`{RESERVED_NAME}` is reserved"));
    }
    Ok(())
}
