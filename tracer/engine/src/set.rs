//! A set of probes: one load of the eBPF programs, with its own maps and its own watch for stuck faults.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracer_common::{Action, counter::Counter, death::Death, program::FLAG_GOROUTINES};

use faultline_plan::{ActionNeeds, AttachPlan, ProbeId};
use faultline_resolve::{FileId, Pid};
use faultline_spec::{Rate, Sample};

use crate::{
    children::{ChildFigures, follow_existing},
    collect::{
        Outcome, Tally,
        catalog::Source,
        drain::Drain,
        events::{Decoder, EventStream, HandlerFactory},
        tables::Seen,
    },
    compare::Compared,
    host::Host,
    kernel::{Calls, Deaths, Diagnostics, Features, KernelError, LoadOptions, Programs},
    limiter::{OverheadLimit, OverheadPolicy, Presence},
    request::{Request, Selection},
    stuck::{StuckReport, StuckWatch},
};

/// How many processes a set can be limited to at once.
const MAX_PROCESSES: u32 = 16 * 1024;

/// Identifies a set; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub(crate) u64);

/// What the requests of a set have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupKey {
    action: Action,
    selection: Selection,
    sample: Option<Sample>,
    rate: Option<Rate>,
    force: bool,
    follow: bool,
}

impl GroupKey {
    pub(crate) fn of(request: &Request) -> Self {
        Self {
            action: request.action,
            selection: request.selection.clone(),
            sample: request.sample,
            rate: request.rate,
            force: request.force,
            follow: request.follow,
        }
    }
}

/// How to load sets, whatever they probe.
#[derive(Clone)]
pub(crate) struct LoadContext {
    pub(crate) host: Host,
    pub(crate) features: Features,
    pub(crate) buffer_bytes: u32,
    /// Links may be exchanged, because there is a budget now or there may be one later.
    pub(crate) exchanges: bool,
    pub(crate) helper: bool,
    pub(crate) diagnostics: bool,
    pub(crate) limit: Option<OverheadLimit>,
    pub(crate) handlers: Option<HandlerFactory>,
    /// Processes may be added to a set later.
    pub(crate) grows: bool,
}

/// A plan's programs in the kernel, and everything that is read from them.
#[derive(Debug)]
pub struct ProbeSet {
    pub(crate) id: SetId,
    /// Its probes.
    pub plan: Arc<AttachPlan>,
    /// The request that each probe is for.
    pub names: Arc<[Arc<str>]>,
    /// Its counters.
    pub source: Arc<Source>,
    programs: Programs,
    calls: Mutex<Calls>,
    deaths: Mutex<Deaths>,
    /// Only some processes are traced.
    pub(crate) selects: bool,
    watch: Mutex<StuckWatch>,
    presence: Option<Mutex<Presence>>,
    refused: Mutex<HashSet<ProbeId>>,
    /// Also attach what may harm a program.
    pub(crate) force: bool,
    compared: Mutex<Compared>,
    drain: Mutex<Option<Drain>>,
    diagnostics: Mutex<Option<Diagnostics>>,
    told_full: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProbeSet {
    /// Loads the programs. Nothing is attached and nothing counts yet.
    ///
    /// # Errors
    ///
    /// Those of [`Programs::load`], and failure to start a thread.
    pub(crate) fn load(
        id: SetId,
        plan: AttachPlan,
        names: Vec<Arc<str>>,
        key: &GroupKey,
        pids: Vec<Pid>,
        context: &LoadContext,
    ) -> Result<Self, KernelError> {
        let action = key.action;
        let more_pids = match key.selection {
            Selection::All => 0,
            _ if key.follow => MAX_PROCESSES,
            Selection::Command => 0,
            _ if context.grows => MAX_PROCESSES,
            _ => 0,
        };
        let options = LoadOptions {
            action,
            buffer_bytes: context.buffer_bytes,
            pids,
            more_pids,
            follow: key.follow,
            begin_at_exec: key.selection == Selection::Command,
            exchanges: context.exchanges,
            helper: context.helper,
            deaths: true,
            diagnostics: context.diagnostics,
            features: context.features,
            force: key.force,
            sample: key.sample,
            rate: key.rate,
        };
        let mut programs = Programs::load(&plan, &options)?;
        if key.follow {
            follow_existing(&programs, &options.pids)?;
        }
        let diagnostics = context.diagnostics.then(|| programs.diagnostics()).transpose()?;
        let counters = programs.counters(plan.probes.len())?;
        let needs = ActionNeeds::of(action);
        let tally = needs.records.then(|| Arc::new(Tally::new(plan.probes.len(), counters.cpus())));
        let latencies = needs.histograms.then(|| programs.take_latencies()).transpose()?;
        let watch = StuckWatch::new(programs.take_faults()?);
        let calls = programs.take_calls()?;
        let deaths = programs.take_deaths()?;
        let costs = context.host.costs();
        let costs = costs
            .iter()
            .flat_map(|costs| plan.probes.iter().map(|probe| costs.of_breakpoints(probe)));
        let source = Source {
            costs: costs.collect(),
            tally,
            latencies: latencies.map(Mutex::new),
            counters: counters.clone(),
            children: ChildFigures::new(programs.child_counts()?),
        };
        let (plan, names): (_, Arc<[Arc<str>]>) = (Arc::new(plan), names.into());
        let presence = context.limit.map(|limit| {
            let together = limit.policy() == OverheadPolicy::DutyCycle;
            Mutex::new(Presence::new(Instant::now(), &counters, together))
        });
        let drain = match (&source.tally, &context.handlers) {
            (Some(tally), Some(handlers)) => {
                let stream = EventStream {
                    plan: Arc::clone(&plan),
                    names: Arc::clone(&names),
                    tally: Arc::clone(tally),
                };
                let handler = handlers(stream.clone());
                let reader = Box::new(Decoder::new(stream, handler));
                let records = programs.take_records()?;
                Some(
                    Drain::start(records, reader)
                        .map_err(|source| KernelError::Thread { source })?,
                )
            }
            _ => None,
        };
        Ok(Self {
            id,
            plan,
            names,
            source: Arc::new(source),
            programs,
            calls: Mutex::new(calls),
            deaths: Mutex::new(deaths),
            selects: key.selection != Selection::All,
            watch: Mutex::new(watch),
            presence,
            refused: Mutex::default(),
            force: key.force,
            compared: Mutex::default(),
            drain: Mutex::new(drain),
            diagnostics: Mutex::new(diagnostics),
            told_full: AtomicBool::new(false),
        })
    }

    /// Hits of all its probes, at entry or return.
    pub fn hits(&self) -> u64 {
        self.source.counters.all_hits().iter().sum()
    }

    /// The attached probes without a hit.
    pub fn silent(&self) -> Vec<ProbeId> {
        let hits = self.source.counters.all_hits();
        let ids = (0..self.plan.probes.len() as u32).map(ProbeId);
        let silent: Vec<_> =
            ids.filter(|id| hits.get(id.0 as usize).is_none_or(|hits| *hits == 0)).collect();
        self.acceptable(&silent)
    }

    /// Events that were handled to their end, or calls that the kernel side summed up.
    pub fn delivered(&self) -> u64 {
        let ids = (0..self.plan.probes.len() as u32).map(ProbeId);
        match &self.source.tally {
            Some(tally) => ids.map(|id| tally.of_probe(id, Outcome::Delivered)).sum(),
            None => self.source.counters.sums(&[Counter::Aggregated]).iter().sum(),
        }
    }

    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Traces these processes too, from now on; if children are followed, also those that they have.
    ///
    /// # Errors
    ///
    /// As [`Programs::trace_processes`].
    pub(crate) fn trace_processes(&self, pids: &[Pid]) -> Result<(), KernelError> {
        self.programs.trace_processes(pids)?;
        if self.programs.follows_children() {
            follow_existing(&self.programs, pids)
        } else {
            Ok(())
        }
    }

    /// Whether a child that is followed has not ended.
    pub fn has_followed(&self) -> bool {
        self.programs.has_followed()
    }

    pub(crate) fn features(&self) -> Features {
        self.programs.features()
    }

    /// Starts counting hits, for all probes at the same moment.
    pub fn begin(&self) {
        self.restart_presence();
        self.programs.enable(true);
    }

    /// Records that all probes are attached from now on.
    pub(crate) fn restart_presence(&self) {
        if let Some(mut presence) = self.presence() {
            *presence = presence.again(Instant::now(), &self.source.counters);
        }
    }

    /// Starts counting hits if the command has executed its program but the kernel did not report it;
    /// returns whether that was the case. The tracepoint program may still be about to run: see
    /// [`saw_command`](Self::saw_command).
    pub fn begin_if_not_yet(&self) -> bool {
        self.programs.enable_if_not_yet()
    }

    /// Whether the kernel has since reported the command's exec, after
    /// [`begin_if_not_yet`](Self::begin_if_not_yet) started the counting.
    pub fn saw_command(&self) -> bool {
        self.programs.saw_command()
    }

    /// Stops counting hits. A task that is already inside a handler is still counted.
    pub fn end(&self) {
        self.programs.enable(false);
        self.forget_ended();
        if let Some(presence) = &self.presence {
            lock(presence).end(Instant::now(), &self.source.counters);
        }
    }

    /// What processes died of since the last call, each by its process id.
    pub fn take_deaths(&self) -> Vec<(u32, Death)> {
        lock(&self.deaths).take()
    }

    /// Hits of each probe.
    pub fn all_hits(&self) -> Vec<u64> {
        self.source.counters.all_hits()
    }

    /// Whether calls belong to goroutines.
    pub(crate) fn has_goroutines(&self) -> bool {
        self.plan.probes.iter().any(|probe| probe.program.flags & FLAG_GOROUTINES != 0)
    }

    /// Counts the open calls of tasks that have ended as lost.
    pub(crate) fn forget_ended(&self) {
        lock(&self.calls).forget_ended(&self.source.counters);
        self.programs.forget_followed();
    }

    /// The probe of each call that has not returned.
    pub fn unfinished(&self) -> Vec<ProbeId> {
        lock(&self.calls).open()
    }

    /// The caveat on a figure of a probe that was not attached all the time.
    pub fn seen(&self, probe: ProbeId, figure: u64) -> Option<Seen> {
        let presence = lock(self.presence.as_ref()?);
        let now = Instant::now();
        let share = presence.share(now, probe)?;
        // A probe that was never hit gives nothing to extrapolate from.
        let scale = presence.scale(now, probe, &self.source.counters).unwrap_or(0.0);
        let estimate = |_| (figure as f64 * scale).round() as u64;
        let estimated = presence.share_of_all(now).map(estimate);
        Some(Seen { attached_ppm: (share * 1e6) as u32, estimated })
    }

    /// The share of the time in which all probes were attached, if they are attached and detached together.
    pub fn share_of_all(&self) -> Option<f64> {
        lock(self.presence.as_ref()?).share_of_all(Instant::now())
    }

    pub(crate) fn presence(&self) -> Option<MutexGuard<'_, Presence>> {
        self.presence.as_ref().map(lock)
    }

    /// Those of these probes that the kernel has not refused.
    pub(crate) fn acceptable(&self, probes: &[ProbeId]) -> Vec<ProbeId> {
        let refused = lock(&self.refused);
        probes.iter().copied().filter(|probe| !refused.contains(probe)).collect()
    }

    /// Records probes that the kernel refused.
    pub(crate) fn refuse(&self, probes: &[ProbeId]) {
        lock(&self.refused).extend(probes);
    }

    /// Whether a file's code is to be compared with that of all processes: once.
    pub(crate) fn compares(&self, file: FileId) -> bool {
        lock(&self.compared).insert(file)
    }

    /// Tasks newly found stuck in a fault that we caused. From now on, their processes are read without
    /// faulting.
    pub(crate) fn newly_stuck(&self) -> Vec<StuckReport> {
        lock(&self.watch).check().unwrap_or_else(|error| {
            tracing::warn!("failed to look for stuck tasks: {error}");
            Vec::new()
        })
    }

    /// How many tasks are inside a fault at this moment.
    pub(crate) fn tasks_in_fault(&self) -> usize {
        lock(&self.watch).inside()
    }

    /// Whether any task is inside a fault at this moment.
    pub fn anyone_inside(&self) -> bool {
        lock(&self.watch).anyone_inside()
    }

    /// The tasks that a release is waiting for.
    pub fn waiting(&self) -> Vec<StuckReport> {
        lock(&self.watch).waiting()
    }

    /// Whether the ring buffer was too full for an event; true only once.
    pub(crate) fn newly_full(&self) -> bool {
        if self.source.tally.is_none() || self.told_full.load(Ordering::Relaxed) {
            return false;
        }
        let full = self.source.counters.sums(&[Counter::RingFull]).iter().any(|lost| *lost != 0);
        full && !self.told_full.swap(true, Ordering::Relaxed)
    }

    /// Hands the programs' own messages to the log.
    pub(crate) fn flush_diagnostics(&self) {
        if let Some(diagnostics) = &mut *lock(&self.diagnostics) {
            diagnostics.flush();
        }
    }

    /// How often the drain has looked for records: if this stops rising, the thread is stuck.
    pub(crate) fn looks(&self) -> Option<u64> {
        lock(&self.drain).as_ref().map(Drain::looks)
    }

    /// Drains what is left in the ring buffer and waits for that. Call it once the probes are gone. Returns
    /// whether every record was handed on.
    pub fn finish(&self, patience: Duration) -> bool {
        let drain = lock(&self.drain).take();
        drain.is_none_or(|drain| drain.finish(patience))
    }
}
