//! What each action needs, as a table: a new action is a row here.

use tracer_common::Action;

use faultline_spec::{ProbeSpec, types::ValueType};

/// What an action needs of a probe and of the eBPF programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionNeeds {
    /// The action.
    pub action: Action,
    /// Its word in a configuration and in JSON.
    pub word: &'static str,
    /// It writes a record for each hit, with what the probe reads. Otherwise the kernel sums up, and
    /// arguments are read only for a condition.
    pub records: bool,
    /// It needs the call's return, for its duration.
    pub returns: bool,
    /// It adds durations to histograms.
    pub histograms: bool,
    /// It may take a sample of the calls, or limit their rate. Otherwise that makes no sense: every call is
    /// summed up, and costs next to nothing.
    pub samples: bool,
}

/// Every action.
pub const ACTIONS: [ActionNeeds; 3] = [
    ActionNeeds {
        action: Action::Count,
        word: "count",
        records: false,
        returns: false,
        histograms: false,
        samples: false,
    },
    ActionNeeds {
        action: Action::Latency,
        word: "latency",
        records: false,
        returns: true,
        histograms: true,
        samples: true,
    },
    ActionNeeds {
        action: Action::Events,
        word: "events",
        records: true,
        returns: false,
        histograms: false,
        samples: true,
    },
];

impl ActionNeeds {
    /// What this action needs.
    #[must_use]
    pub fn of(action: Action) -> &'static Self {
        let [count, ..] = &ACTIONS;
        ACTIONS.iter().find(|needs| needs.action == action).unwrap_or(count)
    }
}

/// Makes a spec ask for what an action needs, and for nothing else: a call is summed up at its entry,
/// unless its return chooses it or is needed. `names_return`: a condition is about the return.
pub fn specialize(spec: &mut ProbeSpec, action: Action, conditional: bool, names_return: bool) {
    let needs = ActionNeeds::of(action);
    if needs.records {
        return;
    }
    if needs.returns {
        spec.ret.get_or_insert(ValueType::U64);
    } else if !names_return {
        spec.ret = None;
    }
    if !conditional {
        spec.args.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that every action has its row and its own word, and that a sum reads no argument.
    #[test]
    fn rows_are_of_their_actions() {
        for needs in &ACTIONS {
            assert_eq!(ActionNeeds::of(needs.action), needs);
            let alike = ACTIONS.iter().filter(|other| other.word == needs.word).count();
            assert_eq!(alike, 1, "{}", needs.word);
            let mut spec: ProbeSpec = "t:f(a: u32, b: str) -> i32".parse().unwrap();
            specialize(&mut spec, needs.action, false, false);
            assert_eq!(spec.args.is_empty(), !needs.records, "{}", needs.word);
            assert_eq!(spec.ret.is_some(), needs.records || needs.returns, "{}", needs.word);
        }
    }
}
