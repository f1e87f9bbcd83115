//! What to trace: one type, made from flags or from TOML.
//!
//! [`RequestText`] is how a person writes it. [`RequestText::check`] gives a valid [`Request`], or says
//! which key is wrong. Nothing here touches a file or depends on this machine.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_common::Action;

use faultline_plan::{ActionNeeds, Returns};
use faultline_resolve::Pid;
use faultline_spec::{Condition, ProbeSpec, Rate, Sample, SpecError, TypeError};

/// Longest name of a request.
const MAX_NAME: usize = 64;
/// Label for probes that have no series of their own in the metrics.
const RESERVED_NAME: &str = "other";

/// An action by its word.
pub mod action {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
    use tracer_common::Action;

    use faultline_plan::{ACTIONS, ActionNeeds};

    /// The action's word.
    #[must_use]
    pub fn word(action: Action) -> &'static str {
        ActionNeeds::of(action).word
    }

    /// The action of a word.
    ///
    /// # Errors
    ///
    /// There is no such action; the message lists the valid ones.
    pub fn parse(text: &str) -> Result<Action, String> {
        let known = ACTIONS.iter().find(|needs| needs.word == text).map(|needs| needs.action);
        let words = || ACTIONS.map(|needs| format!("`{}`", needs.word)).join(", ");
        known.ok_or_else(|| {
            format!("unknown variant `{}`, expected one of {}", text.escape_debug(), words())
        })
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: Serializer>(action: &Action, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(word(*action))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Action, D::Error> {
        parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// In which processes a probe is hit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selection {
    /// In all processes, now and later.
    All,
    /// In these processes.
    Pids(Vec<Pid>),
    /// In a command that we started and that has not executed its program yet. Files are resolved in our
    /// own view, and hits count from its first instruction.
    Command,
    /// In processes of this name, now and later.
    Process(Arc<str>),
    /// In processes of this cgroup and its descendants, now and later.
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
            Self::Command => f.write_str("the command"),
            Self::Process(name) => write!(f, "process {name}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
        }
    }
}

/// A request as it is written, in TOML or JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RequestText {
    /// Its name.
    pub name: String,
    /// `TARGET:FUNCTION(ARGS) -> TYPE`
    pub probe: String,
    /// What to do with its hits.
    #[serde(default = "count", with = "action")]
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
    /// Only hits that match this condition.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Only this share of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// At most this many calls of each function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Also trace returns in C++ and Rust programs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Also trace the children of the processes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// How returns are watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<String>,
}

fn count() -> Action {
    Action::Count
}

/// A request that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its name.
    pub name: Arc<str>,
    /// What it probes.
    pub spec: ProbeSpec,
    /// What to do with its hits.
    pub action: Action,
    /// The processes it applies to.
    pub selection: Selection,
    /// Which hits to keep.
    pub condition: Option<Condition>,
    /// The command that is to be traced asks its program to put its code on huge pages.
    pub huge_pages: bool,
    /// The share of calls to keep.
    pub sample: Option<Sample>,
    /// How many calls of each function to keep.
    pub rate: Option<Rate>,
    /// Also trace returns in C++ and Rust programs.
    pub force: bool,
    /// Also trace the children of the processes, from their first instruction.
    pub follow: bool,
    /// How returns are watched.
    pub returns: Returns,
    /// Where breakpoints go.
    pub placement: Placement,
    /// The original text, for listings.
    pub text: RequestText,
}

impl Request {
    /// A probe in every process, from its text: `TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]`. Set the other
    /// fields afterwards.
    ///
    /// ```
    /// use faultline_engine::{Action, request::Request};
    ///
    /// let request = Request::parse("libc:write(fd: i32, _, n: u64) -> i64", Action::Events)?;
    /// assert_eq!(&*request.name, "libc:write(fd: i32, _, n: u64) -> i64");
    /// # Ok::<(), faultline_spec::SpecError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The text is not a probe; the error points at the character.
    pub fn parse(text: &str, action: Action) -> Result<Self, SpecError> {
        let spec: ProbeSpec = text.parse()?;
        Ok(Self {
            name: text.into(),
            spec,
            action,
            selection: Selection::All,
            condition: None,
            huge_pages: false,
            sample: None,
            rate: None,
            force: false,
            follow: false,
            returns: Returns::Auto,
            placement: Placement::Auto,
            text: RequestText { probe: text.to_owned(), action, ..RequestText::default() },
        })
    }

    /// The same functions in the same processes, but only counting every call.
    #[must_use]
    pub fn counting(&self) -> Self {
        let mut spec = self.spec.clone();
        spec.args.clear();
        spec.ret = None;
        Self {
            spec,
            action: Action::Count,
            condition: None,
            sample: None,
            rate: None,
            force: false,
            ..self.clone()
        }
    }
}

/// Where breakpoints go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Placement {
    /// On the cheapest of the function's first instructions, where moving the breakpoint makes no visible
    /// difference.
    #[default]
    Auto,
    /// On the function's first instruction.
    Entry,
    /// On the cheapest, even behind reads through pointers: a call that crashes in one of these is not seen.
    Fast,
}

/// What is wrong with a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRequest {
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for WrongRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.message)
    }
}

impl RequestText {
    /// Checks it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its key.
    pub fn check(self) -> Result<Request, WrongRequest> {
        let wrong = |key, message: String| WrongRequest { key, message };
        check_name(&self.name).map_err(|message| wrong("name", message))?;
        let spec =
            self.probe.parse::<ProbeSpec>().map_err(|error| wrong("probe", error.to_string()))?;
        let selection = self.selection()?;
        if self.follow && selection == Selection::All {
            let message = "every process is traced, and so are its children (use it with `pids`, \
                           `process` or `cgroup`)";
            return Err(wrong("follow", message.to_owned()));
        }
        let condition = self.condition(&spec)?;
        let sample = parsed("sample", self.sample.as_deref())?;
        let rate = parsed("rate", self.rate.as_deref())?;
        let returns = parsed("returns", self.returns.as_deref())?.unwrap_or_default();
        if !ActionNeeds::of(self.action).samples && (sample.is_some() || rate.is_some()) {
            let key = if sample.is_some() { "sample" } else { "rate" };
            let message = format!(
                "it makes no sense for `{}`: every call is counted in the kernel, which costs next to \
                 nothing",
                action::word(self.action)
            );
            return Err(wrong(key, message));
        }
        Ok(Request {
            name: self.name.as_str().into(),
            spec,
            action: self.action,
            selection,
            condition,
            huge_pages: false,
            sample,
            rate,
            force: self.force,
            follow: self.follow,
            returns,
            placement: Placement::Auto,
            text: self,
        })
    }

    fn condition(&self, spec: &ProbeSpec) -> Result<Option<Condition>, WrongRequest> {
        let condition: Option<Condition> = parsed("where", self.condition.as_deref())?;
        if let Some(Err(TypeError::Absent { error, .. } | TypeError::Wrong(error))) =
            condition.as_ref().map(|condition| condition.typed(spec))
        {
            return Err(WrongRequest { key: "where", message: error.to_string() });
        }
        Ok(condition)
    }

    fn selection(&self) -> Result<Selection, WrongRequest> {
        let wrong = |key, message: &str| WrongRequest { key, message: message.to_owned() };
        match (self.pids.as_slice(), &self.process, &self.cgroup) {
            ([], None, None) => Ok(Selection::All),
            (pids, None, None) => {
                let pids: Option<Vec<_>> = pids.iter().map(|pid| Pid::new(*pid)).collect();
                let mut pids = pids.ok_or_else(|| wrong("pids", "0 is not a process id"))?;
                pids.sort_unstable();
                pids.dedup();
                Ok(Selection::Pids(pids))
            }
            ([], Some(name), None) => match name.as_str() {
                "" => Err(wrong("process", "the name is empty")),
                name if name.contains('/') => Err(wrong(
                    "process",
                    "a process name cannot contain `/`: use the program's base name",
                )),
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

/// An empty list would mean every process. A template that fills in no pids does not mean that.
fn some_pids<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    let pids = Vec::deserialize(from)?;
    if pids.is_empty() {
        let message = "the list is empty (leave `pids` out to trace every process)";
        return Err(serde::de::Error::custom(message));
    }
    Ok(pids)
}

fn parsed<T>(key: &'static str, text: Option<&str>) -> Result<Option<T>, WrongRequest>
where
    T: FromStr<Err: fmt::Display>,
{
    let wrong = |error: T::Err| WrongRequest { key, message: error.to_string() };
    text.map(str::parse).transpose().map_err(wrong)
}

/// Checks that a probe may have this name. Names become metric labels and parts of paths.
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
            "a name may contain only letters, digits, `_`, `-` and `.`; found `{}`",
            other.escape_debug()
        ));
    }
    if name == RESERVED_NAME {
        return Err(format!("`{RESERVED_NAME}` is reserved"));
    }
    Ok(())
}
