//! How the cost of a hit scales when several threads are hit at once, each on its own CPU: each on its own
//! function, or all on the same one; and while another thread of the process keeps mapping and unmapping
//! memory. That thread takes the lock under which the kernel looks up breakpoints when its lockless lookup
//! fails.

use std::time::Duration;

use tracer_common::Action;

use super::{
    Bench, Check, Spread, Watch, Work,
    attached::{Empty, Own},
    callers::Window,
    code::{self, FAST, Function},
};
use crate::kernel::{Links, Progress, online_cpus};

/// What happens at a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadWork {
    /// Arithmetic and no probe, to show how the machine itself scales.
    None,
    /// An empty program runs, to show the kernel's share.
    Empty,
    /// `faultline count`.
    Count,
    /// `faultline trace`, one integer argument, into a buffer that has room.
    Event,
}

impl ThreadWork {
    /// Its name for programs.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Empty => "empty",
            Self::Count => "count",
            Self::Event => "event_1_arg",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "arithmetic, no probe",
            Self::Empty => "empty program",
            Self::Count => "count",
            Self::Event => "trace, 1 argument",
        }
    }
}

/// Which functions the threads call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Functions {
    /// Each thread calls its own function.
    Distinct,
    /// All threads call the same function.
    Same,
}

impl Functions {
    /// Its name.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Distinct => "distinct",
            Self::Same => "same",
        }
    }
}

/// The functions' first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The instruction the kernel handles fastest: a nop, of five bytes on x86-64.
    Fast,
    /// The usual first instruction (`push`), under a breakpoint that traps.
    Trap,
}

impl Entry {
    /// The name of the instruction, for programs.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Fast if cfg!(target_arch = "x86_64") => "nop5",
            Self::Trap if cfg!(target_arch = "x86_64") => "push",
            // The field consists of them there too.
            _ => "nop",
        }
    }
}

/// One combination to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What happens at a hit.
    pub work: ThreadWork,
    /// The functions' first instruction.
    pub entry: Entry,
    /// Which functions.
    pub functions: Functions,
    /// Another thread maps and unmaps memory.
    pub mapping: bool,
    /// Threads that call.
    pub threads: usize,
}

/// The result for one load.
#[derive(Debug, Clone)]
pub struct Throughput {
    /// The load.
    pub load: Load,
    /// Calls per second, of all threads together.
    pub calls_per_s: Spread,
    /// Nanoseconds per call of one thread, in wall time.
    pub ns: Spread,
    /// The same in CPU time: without the time that the thread was not running.
    pub cpu_ns: Spread,
    /// The share of the time that the threads had a CPU.
    pub on_cpu: Spread,
    /// Calls per second, divided by those of a single undisturbed thread times the number of threads.
    /// Compared within each round; 1 is perfect scaling.
    pub scaling: Spread,
    /// The same, by CPU time.
    pub cpu_scaling: Spread,
    /// Calls of mmap and munmap per second, by the thread that makes them.
    pub mappings_per_s: Option<f64>,
    /// Whether each call was seen; `None` if nothing counts them.
    pub check: Option<Check>,
}

/// Target duration of all windows together.
const FULL: Duration = Duration::from_secs(12);
const QUICK: Duration = Duration::from_secs(3);
const WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(8)..=Duration::from_millis(60);
/// Maximum threads where each breakpoint needs its own link, which takes a tenth of a second to release.
const THREADS_WITHOUT_BATCHES: usize = 8;
/// Calls made first, to see that an empty program runs.
const FIRST_CALLS: u32 = 64;
/// Bytes of the ring buffer for each CPU: it is emptied between windows.
const BUFFER_BYTES: u32 = 16 << 20;
const MOST_BUFFER_BYTES: u32 = 1 << 30;

/// What is attached, and which part of it each load calls.
struct Field {
    empty: Empty,
    counting: [Own; 2],
    events: Own,
    links: Vec<Links>,
}

impl Bench {
    /// Measures the throughput of 1, 2, 4, … threads, up to the maximum.
    ///
    /// # Errors
    ///
    /// [`Stopped`](super::Stopped); those of loading and attaching. Nothing is attached afterwards.
    pub fn throughput(&self, watch: Watch<'_>) -> anyhow::Result<Vec<Throughput>> {
        let loads = self.loads();
        let threads = loads.iter().map(|load| load.threads).max().unwrap_or(1);
        watch.step(0, 0)?;
        let mut field = self.field(threads)?;
        let (rounds, budget) = if self.is_quick() { (3, QUICK) } else { (7, FULL) };
        let windows = rounds * loads.len();
        let window = budget / u32::try_from(windows).unwrap_or(u32::MAX).max(1);
        let window = window.clamp(*WINDOW.start(), *WINDOW.end());
        let mut found: Vec<Vec<Window>> = loads.iter().map(|_| Vec::new()).collect();
        let mut checks: Vec<_> = loads.iter().map(|load| field.first_check(load)).collect();
        for round in 0..rounds {
            for (index, load) in loads.iter().enumerate() {
                watch.step(round * loads.len() + index, windows)?;
                let before = field.seen(load);
                let window = self.window(load, window)?;
                let expected = window.all_calls;
                let seen = field.seen(load).zip(before).map(|(now, before)| now - before);
                if let (Some(check), Some(seen)) = (&mut checks[index], seen) {
                    *check = *check + Check { expected, ..seen };
                }
                found[index].push(window);
            }
        }
        field.end();
        Ok(loads
            .iter()
            .zip(found.iter().zip(checks))
            .map(|(load, (windows, check))| {
                let alone = Load { threads: 1, mapping: false, ..*load };
                let alone = loads.iter().position(|other| *other == alone);
                let alone = alone.map_or(&found[0], |index| &found[index]);
                throughput(*load, windows, alone, check)
            })
            .collect())
    }

    /// What is measured, in the order of the table.
    fn loads(&self) -> Vec<Load> {
        let most = if self.features.batches() {
            self.threads
        } else {
            self.threads.min(THREADS_WITHOUT_BATCHES)
        };
        let mut numbers: Vec<_> = std::iter::successors(Some(1), |threads| Some(threads * 2))
            .take_while(|threads| *threads < most)
            .collect();
        numbers.push(most);
        let mut rows = vec![(ThreadWork::None, Entry::Fast, Functions::Distinct, false)];
        for work in [ThreadWork::Empty, ThreadWork::Count] {
            for entry in [Entry::Fast, Entry::Trap] {
                for functions in [Functions::Distinct, Functions::Same] {
                    for mapping in [false, true] {
                        rows.push((work, entry, functions, mapping));
                    }
                }
            }
        }
        for functions in [Functions::Distinct, Functions::Same] {
            rows.push((ThreadWork::Event, Entry::Fast, functions, false));
        }
        // The mapping thread needs a CPU, too.
        let with_room = most.min(self.cpus.len().saturating_sub(1)).max(1);
        let beside = if with_room == 1 { vec![1] } else { vec![1, with_room] };
        let loads = rows.into_iter().flat_map(|(work, entry, functions, mapping)| {
            let load = move |threads| Load { work, entry, functions, mapping, threads };
            let numbers = if mapping { beside.clone() } else { numbers.clone() };
            numbers.into_iter().map(load)
        });
        loads.collect()
    }

    fn field(&self, threads: usize) -> anyhow::Result<Field> {
        let empty = Empty::load(self.features)?;
        let mut links = Vec::new();
        for entry in [Entry::Fast, Entry::Trap] {
            let functions = (0..threads).map(|thread| function(ThreadWork::Empty, entry, thread));
            links.push(empty.attach(&code::plan(functions, |_| ())?, false, false)?);
        }
        let own = |work, entry, shape: Work, action, bytes| {
            let functions = (0..threads).map(|thread| function(work, entry, thread));
            let plan = code::plan(functions, |probe| shape.shape(probe))?;
            Own::attach(&plan, action, self.features, bytes)
        };
        let bytes = BUFFER_BYTES.saturating_mul(online_cpus().next_power_of_two() as u32);
        let event = Work::Event { args: 1 };
        Ok(Field {
            counting: [
                own(ThreadWork::Count, Entry::Fast, Work::Count, Action::Count, 0)?,
                own(ThreadWork::Count, Entry::Trap, Work::Count, Action::Count, 0)?,
            ],
            events: own(
                ThreadWork::Event,
                Entry::Fast,
                event,
                Action::Events,
                bytes.min(MOST_BUFFER_BYTES),
            )?,
            empty,
            links,
        })
    }
}

/// The function that a thread calls.
pub(super) fn function(work: ThreadWork, entry: Entry, thread: usize) -> Function {
    const SHARE: usize = FAST / 3;
    const { assert!(SHARE >= super::MAX_THREADS, "a function a thread and program") };
    // Far enough apart that no two share a cache line.
    const APART: usize = 16;
    let share = match work {
        ThreadWork::None | ThreadWork::Empty => 0,
        ThreadWork::Count => 1,
        ThreadWork::Event => 2,
    };
    match (work, entry) {
        // No function is called.
        (ThreadWork::None, _) => Function::of(&code::INSTRUCTIONS[0], 0),
        (_, Entry::Fast) => Function::fast(share * SHARE + thread),
        (_, Entry::Trap) => Function::of_field((share * SHARE + thread) * APART),
    }
}

impl Field {
    /// The program of ours that a load's calls trigger.
    fn own(&mut self, load: &Load) -> Option<&mut Own> {
        match (load.work, load.entry) {
            (ThreadWork::None | ThreadWork::Empty, _) => None,
            (ThreadWork::Count, Entry::Fast) => self.counting.first_mut(),
            (ThreadWork::Count, Entry::Trap) => self.counting.last_mut(),
            (ThreadWork::Event, _) => Some(&mut self.events),
        }
    }

    /// What a load's program has seen so far, if it is one of ours.
    fn seen(&mut self, load: &Load) -> Option<Check> {
        let own = self.own(load)?;
        own.drain();
        Some(own.check_all(0))
    }

    /// The check of a load before it is measured. An empty program does not count hits, so each of its
    /// functions is called a few times while the kernel counts.
    fn first_check(&mut self, load: &Load) -> Option<Check> {
        if load.work != ThreadWork::Empty {
            return self.own(load).map(|_| Check::default());
        }
        let functions = if load.functions == Functions::Same { 1 } else { load.threads };
        let hits = self.empty.runs_of(false, || {
            for thread in 0..functions {
                function(load.work, load.entry, thread).call(FIRST_CALLS);
            }
        })?;
        let expected = functions as u64 * u64::from(FIRST_CALLS);
        Some(Check { expected, hits, delivered: hits, lost: 0 })
    }

    fn end(mut self) {
        let mut links = self.links;
        links.extend(self.counting.iter_mut().map(Own::take_links));
        links.push(self.events.take_links());
        Links::detach_all(links, &Progress::default());
    }
}

fn throughput(
    load: Load,
    windows: &[Window],
    alone: &[Window],
    check: Option<Check>,
) -> Throughput {
    let spread = |of: fn(&Window) -> f64| Spread::of(windows.iter().map(of));
    let compare = |of: &dyn Fn(&Window, &Window) -> f64| {
        Spread::of(windows.iter().zip(alone).map(|(together, alone)| of(together, alone)))
    };
    let threads = load.threads as f64;
    Throughput {
        load,
        calls_per_s: spread(|window| window.calls_per_s),
        ns: spread(|window| window.ns),
        cpu_ns: spread(|window| window.cpu_ns),
        on_cpu: spread(|window| window.on_cpu),
        scaling: compare(&|all, one| all.calls_per_s / (threads * one.calls_per_s)),
        cpu_scaling: compare(&|all, one| one.cpu_ns / all.cpu_ns),
        mappings_per_s: load
            .mapping
            .then(|| Spread::of(windows.iter().map(|window| window.mappings_per_s)).median),
        check,
    }
}
