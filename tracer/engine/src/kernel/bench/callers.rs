//! Threads that call functions of our own for some time, each on its own CPU.

use std::{
    hint::black_box,
    ptr,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::super::clock::thread_time;
use super::{Bench, Functions, Load, ThreadWork, cpu::pin_to, scaling::function};

/// How long each thread calls before timing starts: an idle CPU is slow at first.
const WARM_UP: Duration = Duration::from_millis(1);
/// Calls between two looks at the clock.
const CHUNK: u32 = 64;

/// The results of a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Includes the calls before timing started.
    pub(super) all_calls: u64,
    /// Summed over all threads.
    pub(super) calls_per_s: f64,
    pub(super) ns: f64,
    pub(super) cpu_ns: f64,
    pub(super) on_cpu: f64,
    pub(super) mappings_per_s: f64,
}

impl Bench {
    /// Makes the threads call for this long.
    pub(super) fn window(&self, load: &Load, time: Duration) -> anyhow::Result<Window> {
        let barrier = Barrier::new(load.threads);
        let over = AtomicBool::new(false);
        let mappings = AtomicU64::new(0);
        let began = Instant::now();
        let mut took = Duration::ZERO;
        let called = thread::scope(|scope| {
            let mapper = load.mapping.then(|| {
                let cpu = self.cpu(load.threads);
                let (over, mappings) = (&over, &mappings);
                scope.spawn(move || pin_to(cpu).map(|()| map_without_pause(over, mappings)))
            });
            let callers = (0..load.threads).map(|thread| {
                let (barrier, cpu) = (&barrier, self.cpu(thread));
                scope.spawn(move || {
                    // All wait for each other, even if one cannot run on its CPU.
                    let pinned = pin_to(cpu);
                    let called = call_for(load, thread, time, barrier);
                    pinned.map(|()| called)
                })
            });
            let callers: Vec<_> = callers.collect();
            let called: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            took = began.elapsed();
            let mapped = mapper.map_or(Ok(Ok(())), thread::ScopedJoinHandle::join);
            mapped.map_err(panicked)??;
            called.into_iter().map(|called| Ok(called.map_err(panicked)??)).collect()
        });
        let called: anyhow::Result<Vec<_>> = called;
        Ok(Window::of(&called?, mappings.into_inner() as f64 / took.as_secs_f64()))
    }
}

fn panicked<T>(_panic: T) -> anyhow::Error {
    anyhow::anyhow!("a thread panicked")
}

/// What a thread did.
#[derive(Debug, Clone, Copy, Default)]
struct Called {
    calls: u64,
    took: Duration,
    cpu_time: Duration,
    /// Includes the calls before the window.
    all_calls: u64,
}

fn call_for(load: &Load, thread: usize, time: Duration, barrier: &Barrier) -> Called {
    let thread = if load.functions == Functions::Same { 0 } else { thread };
    let function = function(load.work, load.entry, thread);
    let call = || match load.work {
        ThreadWork::None => (0..CHUNK).for_each(|_| calculate()),
        _ => function.call(CHUNK),
    };
    let call_until = |end: Instant| {
        let mut calls = 0;
        loop {
            call();
            calls += u64::from(CHUNK);
            if Instant::now() >= end {
                return calls;
            }
        }
    };
    let first_calls = call_until(Instant::now() + WARM_UP);
    barrier.wait();
    let began = (Instant::now(), thread_time());
    let calls = call_until(began.0 + time);
    Called {
        calls,
        took: began.0.elapsed(),
        cpu_time: thread_time().saturating_sub(began.1),
        all_calls: calls + first_calls,
    }
}

/// Takes about as long as a hit and uses nothing but one CPU.
fn calculate() {
    // Each step depends on the one before, so the time does not depend on the code's alignment.
    let last = (0..200).fold(black_box(1_u64), |number, _| {
        black_box(number).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)
    });
    black_box(last);
}

/// Maps and unmaps a page in a loop.
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
