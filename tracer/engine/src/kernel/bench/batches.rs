//! How long attaching and detaching take, by number of probes: undisturbed, and while another thread spends
//! most of its time inside a sleepable handler.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tracer_common::Action;

use super::{
    Bench, Check, Spread, Watch,
    attached::Own,
    code::{self, FIELD, Function},
    cpu::pin_to,
    faulting::Faulter,
};
use faultline_plan::AttachPlan;

/// The time to attach and detach a number of probes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// How many probes.
    pub probes: usize,
    /// Links that they take.
    pub links: usize,
    /// Whether another thread's handler sleeps at the same time.
    pub beside_faults: bool,
    /// Milliseconds until all are attached.
    pub attach_ms: Spread,
    /// Milliseconds until all are detached.
    pub detach_ms: Spread,
    /// Until the fastest link was gone.
    pub grace_ms: Spread,
    /// Whether each function's call was seen: each is called once while attached.
    pub check: Check,
}

/// What the other thread did during the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Faulting {
    /// Pages that its handler waited for.
    pub faults: u64,
    /// How long each took on average.
    pub wait_ns: u64,
    /// Whether each of its calls was seen.
    pub check: Check,
}

/// The results.
#[derive(Debug, Clone)]
pub struct Batches {
    /// By number of probes.
    pub batches: Vec<Batch>,
    /// The other thread's activity; `None` if handlers cannot sleep.
    pub faulting: Option<Faulting>,
}

/// A number of probes, being measured.
struct Size {
    plan: AttachPlan,
    beside_faults: bool,
    links: usize,
    check: Check,
    attach_ms: Vec<f64>,
    detach_ms: Vec<f64>,
    grace_ms: Vec<f64>,
}

impl Bench {
    /// Measures attaching and detaching 1 to 10,000 probes; at most 10 where each probe needs its own link,
    /// which takes a tenth of a second to release.
    ///
    /// # Errors
    ///
    /// [`Stopped`](super::Stopped); those of loading and attaching. Nothing is attached afterwards.
    pub fn batches(&self, watch: Watch<'_>) -> anyhow::Result<Batches> {
        pin_to(self.cpu(0))?;
        let (sizes, rounds): (&[usize], usize) = match (self.features.batches(), self.is_quick()) {
            (true, true) => (&[1, 10, 100, 1_000, FIELD], 2),
            (true, false) => (&[1, 10, 100, 1_000, FIELD], 7),
            (false, true) => (&[1, 4], 1),
            (false, false) => (&[1, 10], 2),
        };
        let mut faulter =
            if self.features.faults_in(false) { Some(Faulter::new(self.features)?) } else { None };
        let mut measured = Vec::new();
        for size in sizes {
            for beside_faults in [false, true].into_iter().take(1 + usize::from(faulter.is_some()))
            {
                measured.push(Size::new(*size, beside_faults)?);
            }
        }
        let numbers = measured.len();
        let of = rounds * numbers;
        for round in 0..rounds {
            for (index, size) in measured.iter_mut().enumerate() {
                watch.step(round * numbers + index, of)?;
                match &mut faulter {
                    Some(faulter) if size.beside_faults => {
                        self.beside(faulter, || size.measure(self))?;
                    }
                    _ => size.measure(self)?,
                }
            }
        }
        let faulting = faulter.map(|faulter| {
            let (faults, wait_ns) = faulter.faults();
            let wait_ns = wait_ns.checked_div(faults).unwrap_or(0);
            Faulting { faults, wait_ns, check: faulter.end() }
        });
        Ok(Batches { batches: measured.into_iter().map(Size::end).collect(), faulting })
    }

    /// Runs a closure while the other thread is being hit.
    fn beside(
        &self,
        faulter: &mut Faulter,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Pinning is optional: it matters only that the thread runs.
                let _ = pin_to(self.cpu(1));
                faulter.call_until(&over);
            });
            let result = work();
            over.store(true, Ordering::Relaxed);
            result
        })
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Size {
    fn new(probes: usize, beside_faults: bool) -> anyhow::Result<Self> {
        Ok(Self {
            plan: code::plan((0..probes).map(Function::of_field), |_| ())?,
            beside_faults,
            links: 0,
            check: Check::default(),
            attach_ms: Vec::new(),
            detach_ms: Vec::new(),
            grace_ms: Vec::new(),
        })
    }

    fn measure(&mut self, bench: &Bench) -> anyhow::Result<()> {
        let own = Own::attach(&self.plan, Action::Count, bench.features, 0)?;
        self.links = own.report.links;
        self.attach_ms.push(ms(own.report.took));
        for index in 0..self.plan.probes.len() {
            Function::of_field(index).call(1);
        }
        self.check = self.check + own.check_all(self.plan.probes.len() as u64);
        let report = own.detach();
        self.detach_ms.push(ms(report.took));
        self.grace_ms.push(ms(report.grace.unwrap_or(report.took)));
        Ok(())
    }

    fn end(self) -> Batch {
        Batch {
            probes: self.plan.probes.len(),
            links: self.links,
            beside_faults: self.beside_faults,
            attach_ms: Spread::of(self.attach_ms),
            detach_ms: Spread::of(self.detach_ms),
            grace_ms: Spread::of(self.grace_ms),
            check: self.check,
        }
    }
}
