//! What a hit costs, by the instruction under the breakpoint and by what the program does.
//!
//! Every case has its own function, and all breakpoints are set at the same time. The functions are called
//! in turn, a few hundred calls each, for many rounds. So a temporary disturbance of the machine affects
//! all of them alike.

use std::time::{Duration, Instant};

use tracer_common::{
    Action,
    program::{FLAG_REGISTERS_ONLY, FLAG_TRACK_RETURN, ReadKind},
};

use super::{
    Bench, Check, Spread, Watch,
    attached::{Empty, Own},
    code::{self, Function, INSTRUCTIONS, Instruction},
    cpu::pin_to,
};
use crate::kernel::{Links, Progress, default_buffer_bytes};
use faultline_plan::{PlannedProbe, PlannedValue};
use faultline_spec::{ValueType, types::Str};

/// What happens at a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// No probe.
    None,
    /// An empty program runs at the entry.
    Empty {
        /// Whether it is sleepable.
        sleepable: bool,
    },
    /// An empty program runs at the return only.
    EmptyReturn {
        /// Whether it is sleepable.
        sleepable: bool,
    },
    /// `faultline count`.
    Count,
    /// `faultline latency`: entry and return.
    Latency,
    /// `faultline trace` with integer arguments.
    Event {
        /// How many.
        args: u8,
    },
    /// `faultline trace` with a string of 31 bytes that is resident.
    EventString,
    /// `faultline trace` of entry and return value.
    EventReturn,
}

impl Work {
    /// Every case; the position is its slot in the row of functions.
    pub const ALL: [Self; 12] = [
        Self::None,
        Self::Empty { sleepable: false },
        Self::Empty { sleepable: true },
        Self::EmptyReturn { sleepable: false },
        Self::EmptyReturn { sleepable: true },
        Self::Count,
        Self::Latency,
        Self::Event { args: 0 },
        Self::Event { args: 1 },
        Self::Event { args: 3 },
        Self::EventString,
        Self::EventReturn,
    ];

    /// Its name for programs.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Empty { sleepable: false } => "empty",
            Self::Empty { sleepable: true } => "empty_sleepable",
            Self::EmptyReturn { sleepable: false } => "empty_return",
            Self::EmptyReturn { sleepable: true } => "empty_return_sleepable",
            Self::Count => "count",
            Self::Latency => "latency",
            Self::Event { args: 0 } => "event_0_args",
            Self::Event { args: 1 } => "event_1_arg",
            Self::Event { .. } => "event_3_args",
            Self::EventString => "event_string",
            Self::EventReturn => "event_return",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no probe",
            Self::Empty { sleepable: false } => "empty program",
            Self::Empty { sleepable: true } => "empty, sleepable",
            Self::EmptyReturn { sleepable: false } => "empty at return",
            Self::EmptyReturn { sleepable: true } => "empty at return, sleepable",
            Self::Count => "count",
            Self::Latency => "latency (entry and return)",
            Self::Event { args: 0 } => "trace, no argument",
            Self::Event { args: 1 } => "trace, 1 argument",
            Self::Event { .. } => "trace, 3 arguments",
            Self::EventString => "trace, a string",
            Self::EventReturn => "trace, entry and return",
        }
    }

    /// Hits per call.
    fn hits_a_call(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Latency | Self::EventReturn => 2,
            _ => 1,
        }
    }

    /// What happens to hits, if the program is faultline's own.
    fn action(self) -> Option<Action> {
        match self {
            Self::None | Self::Empty { .. } | Self::EmptyReturn { .. } => None,
            Self::Count => Some(Action::Count),
            Self::Latency => Some(Action::Latency),
            Self::Event { .. } | Self::EventString | Self::EventReturn => Some(Action::Events),
        }
    }

    /// Makes the probe read what the case needs.
    pub(super) fn shape(self, probe: &mut PlannedProbe) {
        let any = ValueType::U64;
        let program = &mut probe.program;
        match self {
            Self::Event { args } => {
                program.entry_len = args;
                program.entry_slots = args;
                program.flags = FLAG_REGISTERS_ONLY;
                for (number, op) in (0..args).zip(&mut program.entry) {
                    // The string passed to every function is its first argument.
                    (op.kind, op.slot, op.register) = (ReadKind::Value as u8, number, number);
                }
                let value = || PlannedValue { name: "value".into(), ty: any.clone() };
                probe.args = (0..args).map(|_| value()).collect();
            }
            Self::EventString => {
                (program.entry_len, program.entry_slots) = (1, 1);
                program.entry[0].kind = ReadKind::Str as u8;
                program.entry[0].max_bytes = faultline_plan::DEFAULT_STR_BYTES;
                probe.args = vec![PlannedValue {
                    name: "text".into(),
                    ty: ValueType::Str(Str { max: None }),
                }];
            }
            Self::Latency | Self::EventReturn => {
                program.flags = FLAG_TRACK_RETURN | FLAG_REGISTERS_ONLY;
                program.return_flags = FLAG_REGISTERS_ONLY;
                program.return_len = 1;
                probe.ret = Some(any);
            }
            Self::None | Self::Empty { .. } | Self::EmptyReturn { .. } | Self::Count => {}
        }
    }
}

/// The cost of a call in one case.
#[derive(Debug, Clone)]
pub struct HitCost {
    /// The instruction under the breakpoint.
    pub instruction: &'static Instruction,
    /// What happens at a hit.
    pub work: Work,
    /// Nanoseconds per call, including the call itself.
    pub ns: Spread,
    /// Whether each call was seen; `None` if nothing counts them (there is no probe, or the program is
    /// empty and the kernel does not say how often it ran).
    pub check: Option<Check>,
}

/// Calls made first, to see that the probe works and how long a call takes.
const FIRST_CALLS: u32 = 64;
/// Target duration of a batch of calls.
const BATCH: Duration = Duration::from_micros(300);
/// Maximum calls in a batch: their records must fit into the ring buffer.
const MOST_CALLS: u32 = 4096;

/// A case, being measured.
struct Case {
    cost: HitCost,
    function: Function,
    /// Index of the program, if it is faultline's own.
    own: Option<usize>,
    /// Index of its probe there.
    probe: usize,
    calls_a_batch: u32,
    calls: u64,
    times_ns: Vec<f64>,
}

impl Bench {
    /// Measures what a hit costs: each [`Work`] on each of [`INSTRUCTIONS`]. Cases that this kernel cannot
    /// run are left out.
    ///
    /// # Errors
    ///
    /// [`Stopped`](super::Stopped); those of loading and attaching. Nothing is attached afterwards.
    pub fn hit_costs(&self, watch: Watch<'_>) -> anyhow::Result<Vec<HitCost>> {
        pin_to(self.cpu(0))?;
        let empty = Empty::load(self.features)?;
        let mut links = Vec::new();
        let mut owns = Vec::new();
        let mut cases = Vec::new();
        for (slot, work) in Work::ALL.into_iter().enumerate() {
            watch.step(0, 0)?;
            let row = || INSTRUCTIONS.iter().map(|kind| Function::of(kind, slot));
            let plan = code::plan(row(), |probe| work.shape(probe))?;
            let own = match work {
                Work::Empty { sleepable: true } | Work::EmptyReturn { sleepable: true }
                    if !self.features.sleepable =>
                {
                    continue;
                }
                Work::Empty { sleepable } => {
                    links.push(empty.attach(&plan, sleepable, false)?);
                    None
                }
                Work::EmptyReturn { sleepable } => {
                    links.push(empty.attach(&plan, sleepable, true)?);
                    None
                }
                _ => match work.action() {
                    Some(action) => {
                        owns.push(Own::attach(
                            &plan,
                            action,
                            self.features,
                            default_buffer_bytes(),
                        )?);
                        Some(owns.len() - 1)
                    }
                    None => None,
                },
            };
            cases.extend(INSTRUCTIONS.iter().zip(row()).enumerate().map(
                |(probe, (instruction, function))| Case {
                    cost: HitCost { instruction, work, ns: Spread::default(), check: None },
                    function,
                    own,
                    probe,
                    calls_a_batch: FIRST_CALLS,
                    calls: 0,
                    times_ns: Vec::new(),
                },
            ));
        }
        for case in &mut cases {
            case.begin(&empty);
        }
        let rounds = if self.is_quick() { 15 } else { 100 };
        for round in 0..rounds {
            watch.step(round, rounds)?;
            for case in &mut cases {
                case.measure();
                if let Some(own) = case.own {
                    owns[own].drain();
                }
            }
        }
        owns.iter_mut().for_each(Own::drain);
        for case in &mut cases {
            case.end(&owns);
        }
        links.extend(owns.iter_mut().map(Own::take_links));
        Links::detach_all(links, &Progress::default());
        Ok(cases.into_iter().map(|case| case.cost).collect())
    }
}

impl Case {
    /// Makes the first calls, so that the kernel's one-time work at a function's first hit is done.
    fn begin(&mut self, empty: &Empty) {
        let work = self.cost.work;
        match work {
            Work::Empty { sleepable } | Work::EmptyReturn { sleepable } => {
                let runs = empty.runs_of(sleepable, || self.function.call(FIRST_CALLS));
                let expected = u64::from(FIRST_CALLS);
                self.cost.check =
                    runs.map(|hits| Check { expected, hits, delivered: hits, lost: 0 });
            }
            _ => {
                self.function.call(FIRST_CALLS);
                self.calls += u64::from(FIRST_CALLS);
            }
        }
        let begin = Instant::now();
        self.function.call(FIRST_CALLS);
        self.calls += u64::from(FIRST_CALLS);
        let call_ns = begin.elapsed().as_nanos().max(1) / u128::from(FIRST_CALLS);
        let calls = BATCH.as_nanos() / call_ns.max(1);
        self.calls_a_batch = u32::try_from(calls).unwrap_or(MOST_CALLS).clamp(20, MOST_CALLS);
    }

    /// Makes a batch of calls.
    fn measure(&mut self) {
        let begin = Instant::now();
        self.function.call(self.calls_a_batch);
        let took = begin.elapsed();
        self.calls += u64::from(self.calls_a_batch);
        self.times_ns.push(took.as_nanos() as f64 / f64::from(self.calls_a_batch));
    }

    fn end(&mut self, owns: &[Own]) {
        self.cost.ns = Spread::of(self.times_ns.iter().copied());
        if let Some(own) = self.own.and_then(|own| owns.get(own)) {
            let expected = self.calls * self.cost.work.hits_a_call();
            self.cost.check = Some(own.check(self.probe, expected));
        }
    }
}
