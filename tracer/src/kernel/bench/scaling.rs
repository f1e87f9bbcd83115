//! How the cost of a hit holds when several threads are hit at once, each on its CPU: on a function
//! each, or all on one; and while another thread of the process maps and unmaps memory without
//! pause, which takes the lock that the kernel looks breakpoints up under, where it cannot do
//! without.

use std::{
    ptr,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracer_common::Action;

use super::{
    Bench, Check, Spread, Watch, Work,
    attached::{Empty, Own},
    code::{self, FAST, Function},
    cpu::{pin_to, thread_time},
};
use crate::kernel::{Links, Progress};

/// What happens at a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadWork {
    /// There is no probe: how the machine itself scales.
    None,
    /// An empty program is run: the kernel's part.
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
            Self::None => "no probe",
            Self::Empty => "empty program",
            Self::Count => "count",
            Self::Event => "trace, 1 argument",
        }
    }
}

/// Which functions are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Functions {
    /// Each thread calls one of its own.
    Distinct,
    /// All call the same.
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

/// What the functions begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// What the kernel runs fastest: a nop, of five bytes on x86-64.
    Fast,
    /// What functions mostly begin with (`push`), behind a breakpoint that traps.
    Trap,
}

impl Entry {
    /// The name of the instruction, for programs.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Fast if cfg!(target_arch = "x86_64") => "nop5",
            Self::Trap if cfg!(target_arch = "x86_64") => "push",
            // The field is made of them there too.
            _ => "nop",
        }
    }
}

/// What is measured at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What happens at a hit.
    pub work: ThreadWork,
    /// What the functions begin with.
    pub entry: Entry,
    /// Which functions.
    pub functions: Functions,
    /// Another thread maps and unmaps memory.
    pub mapping: bool,
    /// Threads that call.
    pub threads: usize,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Throughput {
    /// Of what.
    pub load: Load,
    /// Calls a second, of all threads.
    pub calls_per_s: Spread,
    /// Nanoseconds that a call took a thread.
    pub ns: Spread,
    /// Nanoseconds of CPU time that it took: without those that the thread stood still.
    pub cpu_ns: Spread,
    /// The share of the time that the threads had a CPU.
    pub on_cpu: Spread,
    /// Calls a second over those of one thread times the number of threads, compared within each
    /// round: 1 is perfect.
    pub scaling: Spread,
    /// The same, by CPU time.
    pub cpu_scaling: Spread,
    /// Calls of mmap and munmap a second, by the thread that makes them.
    pub mappings_per_s: Option<f64>,
    /// Whether each call was seen; `None` where nobody counts.
    pub check: Option<Check>,
}

/// What all windows together are to take.
const FULL: Duration = Duration::from_secs(12);
const QUICK: Duration = Duration::from_secs(3);
const WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(8)..=Duration::from_millis(60);
/// Most threads where each breakpoint takes a link, and a tenth of a second to go.
const THREADS_WITHOUT_BATCHES: usize = 8;
/// Calls that are made first, by each thread.
const FIRST_CALLS: u32 = 64;
/// Calls between two looks at the clock; without a probe they are so short that it would matter.
const CHUNK: u32 = 64;
const CHUNK_WITHOUT_PROBE: u32 = 8192;
/// Bytes of the ring buffer for each thread: it is emptied between windows.
const BUFFER_BYTES: u32 = 16 << 20;
const MOST_BUFFER_BYTES: u32 = 512 << 20;

/// What a window gave.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// Those before the clock ran, too.
    all_calls: u64,
    /// By thread, summed up.
    calls_per_s: f64,
    ns: f64,
    cpu_ns: f64,
    on_cpu: f64,
    mappings_per_s: f64,
}

/// What is attached, and what of it each load calls.
struct Field {
    empty: Empty,
    counting: [Own; 2],
    events: Own,
    links: Vec<Links>,
}

impl Bench {
    /// Measures what threads reach together, on 1, 2, 4, … up to all of them.
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
                let alone = loads.iter().position(|other| *other == Load { threads: 1, ..*load });
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
        let mut numbers: Vec<_> =
            std::iter::successors(Some(1), |threads| Some(threads * 2))
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
        let loads = rows.into_iter().flat_map(|(work, entry, functions, mapping)| {
            let load = move |threads| Load { work, entry, functions, mapping, threads };
            numbers.clone().into_iter().map(load)
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
        let bytes = BUFFER_BYTES.saturating_mul(threads.next_power_of_two() as u32);
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

    /// Has the threads call for that long.
    fn window(&self, load: &Load, time: Duration) -> anyhow::Result<Window> {
        let barrier = Barrier::new(load.threads);
        let over = AtomicBool::new(false);
        let mappings = AtomicU64::new(0);
        let began = Instant::now();
        let (threads, took) = thread::scope(|scope| {
            let mapper = load.mapping.then(|| {
                let cpu = self.cpu(load.threads);
                let (over, mappings) = (&over, &mappings);
                scope.spawn(move || pin_to(cpu).map(|()| map_without_pause(over, mappings)))
            });
            let callers: Vec<_> = (0..load.threads)
                .map(|thread| {
                    let (barrier, cpu) = (&barrier, self.cpu(thread));
                    scope.spawn(move || {
                        // All wait for each other, also if one has no CPU.
                        let pinned = pin_to(cpu);
                        let called = call_for(load, thread, time, barrier);
                        pinned.map(|()| called)
                    })
                })
                .collect();
            let callers: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            let took = began.elapsed();
            let mapper = mapper.map(thread::ScopedJoinHandle::join);
            (callers.into_iter().map(|end| end.ok()).chain(mapper.map(|end| {
                end.ok().map(|mapped| mapped.map(|()| Called::default()))
            })).collect::<Vec<_>>(), took)
        });
        let threads = threads
            .into_iter()
            .map(|thread| Ok(thread.ok_or_else(|| anyhow::anyhow!("a thread panicked"))??))
            .collect::<anyhow::Result<Vec<Called>>>()?;
        Ok(Window::of(&threads, mappings.into_inner() as f64 / took.as_secs_f64()))
    }
}

/// The function that a thread calls.
fn function(work: ThreadWork, entry: Entry, thread: usize) -> Function {
    const SHARE: usize = FAST / 3;
    const { assert!(SHARE >= super::MAX_THREADS, "a function a thread and program") };
    // So far apart that two do not share a line of the CPU's cache.
    const APART: usize = 16;
    let share = match work {
        ThreadWork::None | ThreadWork::Empty => 0,
        ThreadWork::Count => 1,
        ThreadWork::Event => 2,
    };
    match (work, entry) {
        // Not the first of an instruction, which has a probe: one of the row that never has.
        (ThreadWork::None, _) => Function::of(&code::INSTRUCTIONS[0], 0),
        (_, Entry::Fast) => Function::fast(share * SHARE + thread),
        (_, Entry::Trap) => Function::of_field((share * SHARE + thread) * APART),
    }
}

/// What a thread did.
#[derive(Debug, Clone, Copy, Default)]
struct Called {
    calls: u64,
    took: Duration,
    cpu_time: Duration,
    /// Those before the window too.
    all_calls: u64,
}

fn call_for(load: &Load, thread: usize, time: Duration, barrier: &Barrier) -> Called {
    let thread = if load.functions == Functions::Same { 0 } else { thread };
    let function = function(load.work, load.entry, thread);
    let chunk = if load.work == ThreadWork::None { CHUNK_WITHOUT_PROBE } else { CHUNK };
    function.call(FIRST_CALLS);
    barrier.wait();
    let began = (Instant::now(), thread_time());
    let mut calls = 0;
    while began.0.elapsed() < time {
        function.call(chunk);
        calls += u64::from(chunk);
    }
    Called {
        calls,
        took: began.0.elapsed(),
        cpu_time: thread_time().saturating_sub(began.1),
        all_calls: calls + u64::from(FIRST_CALLS),
    }
}

/// Maps a page, unmaps it, and so on.
fn map_without_pause(over: &AtomicBool, mappings: &AtomicU64) {
    const PAGE_BYTES: usize = 4096;
    while !over.load(Ordering::Relaxed) {
        // SAFETY: a fresh private mapping.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return;
        }
        // SAFETY: it is ours, and nothing borrows from it.
        unsafe { libc::munmap(page, PAGE_BYTES) };
        mappings.fetch_add(1, Ordering::Relaxed);
    }
}

impl Window {
    fn of(threads: &[Called], mappings_per_s: f64) -> Self {
        let sum = |of: fn(&Called) -> f64| threads.iter().map(of).sum::<f64>();
        let (calls, took) = (sum(|thread| thread.calls as f64), sum(|t| t.took.as_secs_f64()));
        let cpu_time = sum(|thread| thread.cpu_time.as_secs_f64());
        let rate = |thread: &Called| match thread.calls {
            0 => 0.0,
            calls => calls as f64 / thread.took.as_secs_f64(),
        };
        Self {
            all_calls: threads.iter().map(|thread| thread.all_calls).sum(),
            calls_per_s: threads.iter().map(rate).sum(),
            ns: took * 1e9 / calls,
            cpu_ns: cpu_time * 1e9 / calls,
            on_cpu: cpu_time / took,
            mappings_per_s,
        }
    }
}

impl Field {
    /// The program of ours that a load's calls run.
    fn own(&mut self, load: &Load) -> Option<&mut Own> {
        match (load.work, load.entry) {
            (ThreadWork::None | ThreadWork::Empty, _) => None,
            (ThreadWork::Count, Entry::Fast) => self.counting.first_mut(),
            (ThreadWork::Count, Entry::Trap) => self.counting.last_mut(),
            (ThreadWork::Event, _) => Some(&mut self.events),
        }
    }

    /// What the program of a load has seen so far, if it is one of ours.
    fn seen(&mut self, load: &Load) -> Option<Check> {
        let own = self.own(load)?;
        own.drain();
        Some(own.check_all(0))
    }

    /// What is known of a load before it is measured. An empty program does not count: each of its
    /// functions is called some times while the kernel does.
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

fn throughput(load: Load, windows: &[Window], alone: &[Window], check: Option<Check>) -> Throughput {
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
