//! Keeps a run within its overhead budget: looks, decides by [`Budget`], and has a thread that owns
//! the links attach and detach.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::tell::tell;
use faultline_engine::{
    aggregate::Seen,
    guard::{Budget, Costly, Meter, OverheadLimit, OverheadPolicy, Presence, Wish},
    kernel::{
        Changed, Counters, KernelError, LinkSets, Links, Programs, Progress, Scope, own_cpu_time,
    },
};
use faultline_output::summary::{Millis, Overhead, Ppm};
use faultline_plan::{AttachPlan, Costs, PlannedProbe, ProbeId};
use faultline_resolve::process;
use faultline_spec::units::duration_text;

/// Looking takes so small a part of the time: it may be over a million counters.
const LOOK_PART: u32 = 50;
/// Probes that are named when they are detached; the rest is counted.
const NAMED: usize = 3;

/// How long probes were attached, for those who show figures.
#[derive(Debug, Clone)]
pub(super) struct Presences {
    presence: Arc<Mutex<Presence>>,
    counters: Counters,
}

impl Presences {
    fn lock(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said of a figure of a probe that was not attached all the time.
    pub(super) fn seen(&self, probe: ProbeId, figure: u64) -> Option<Seen> {
        let presence = self.lock();
        let now = Instant::now();
        let share = presence.share(now, probe)?;
        // Of what was never hit, nothing better is known than that.
        let scale = presence.scale(now, probe, &self.counters).unwrap_or(0.0);
        let estimate = |_| (figure as f64 * scale).round() as u64;
        let estimated = presence.share_of_all(now).map(estimate);
        Some(Seen { attached_ppm: (share * 1e6) as u32, estimated })
    }
}

/// The governor of a run.
#[derive(Debug)]
pub(super) struct Governor {
    budget: Budget<ProbeId>,
    meter: Meter,
    counters: Counters,
    plan: Arc<AttachPlan>,
    presences: Presences,
    began: Instant,
    next: Instant,
    orders: mpsc::Sender<Order>,
    results: UnboundedReceiver<Done>,
    keeper: JoinHandle<LinkSets>,
    told_duty: bool,
}

/// What the owner of the links is to do.
#[derive(Debug)]
struct Order {
    wish: Wish<ProbeId>,
    /// A child is to release links, for a task hangs inside a handler.
    hand_over: bool,
}

/// What it has done.
#[derive(Debug)]
struct Done {
    wish: Wish<ProbeId>,
    result: Result<(), KernelError>,
    work: Duration,
}

/// What a run hands over.
#[derive(Debug)]
pub(super) struct Governed {
    pub(super) limit: OverheadLimit,
    pub(super) costs: Option<Costs>,
    pub(super) scope: Scope,
}

impl Presences {
    /// Of probes that are attached.
    pub(super) fn new(counters: &Counters, limit: OverheadLimit) -> Self {
        let together = limit.policy() == OverheadPolicy::DutyCycle;
        let presence = Presence::new(Instant::now(), counters, together);
        Self { presence: Arc::new(Mutex::new(presence)), counters: counters.clone() }
    }

    fn begin(&self, together: bool) {
        *self.lock() = Presence::new(Instant::now(), &self.counters, together);
    }
}

impl Governor {
    /// Takes over the links of a run whose hits count from now on.
    pub(super) fn start(
        governed: Governed,
        programs: Arc<Programs>,
        plan: Arc<AttachPlan>,
        presences: Presences,
        links: LinkSets,
    ) -> std::io::Result<Self> {
        let Governed { limit, costs, scope } = governed;
        let now = Instant::now();
        let counters = presences.counters.clone();
        presences.begin(limit.policy() == OverheadPolicy::DutyCycle);
        let costs = costs
            .iter()
            .flat_map(|costs| plan.probes.iter().map(|probe| costs.of_breakpoints(probe)));
        let meter = Meter::new(costs.collect(), plan.probes.len());
        let (orders, receive) = mpsc::channel();
        let (tell, results) = unbounded_channel();
        let own_plan = Arc::clone(&plan);
        let keeper = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            let probes = links.probes();
            let keeper = Keeper { programs, plan: own_plan, scope, probes, links };
            keeper.run(&receive, &tell)
        })?;
        Ok(Self {
            budget: Budget::new(limit, online_cpus(), now),
            meter,
            counters,
            plan,
            presences,
            began: now,
            next: now,
            orders,
            results,
            keeper,
            told_duty: false,
        })
    }

    /// Waits until it is time to look. Can be given up at any moment.
    pub(super) async fn due(governor: &mut Option<Self>) {
        let Some(governor) = governor else { return std::future::pending().await };
        tokio::select! {
            Some(done) = governor.results.recv() => governor.settle(done),
            () = tokio::time::sleep_until(governor.next.into()) => {}
        }
    }

    /// Looks, and has done what is to be done. `inside`: whether a task may be inside a fault.
    pub(super) fn look(&mut self, inside: impl FnOnce() -> bool) {
        let began = Instant::now();
        let spent = self.meter.read(&self.counters);
        let now = Instant::now();
        let wish = self.budget.look(now, spent, || self.meter.costs());
        if wish != Wish::Nothing {
            if wish == Wish::Pause {
                self.presences.lock().close(now, &self.counters);
            }
            self.tell(&wish);
            // Where the thread is gone, the links are.
            let _ = self.orders.send(Order { wish, hand_over: inside() });
        }
        self.next = now + self.budget.next_look().max(began.elapsed() * LOOK_PART);
    }

    fn settle(&mut self, done: Done) {
        let now = Instant::now();
        let Done { wish, result, work } = done;
        tracing::debug!(
            "done with {} of CPU time: {wish:?}",
            duration_text(work.as_nanos() as u64)
        );
        match result {
            Ok(()) => {
                let mut presence = self.presences.lock();
                match &wish {
                    Wish::Detach(probes) => {
                        presence.detached(now, probes.iter().map(|costly| costly.probe));
                    }
                    Wish::Attach(probes) => presence.attached(now, probes.iter().copied()),
                    Wish::Resume => presence.open(now, &self.counters),
                    Wish::Pause | Wish::Nothing => {}
                }
                self.budget.done(now, &wish, work);
            }
            Err(error) => {
                tell!("warning: the overhead budget: {error}");
                if wish == Wish::Pause {
                    self.presences.lock().open(now, &self.counters);
                }
                self.budget.failed(now, &wish, work);
            }
        }
        self.next = now + self.budget.next_look();
    }

    fn tell(&mut self, wish: &Wish<ProbeId>) {
        let over = || self.budget.over();
        match wish {
            Wish::Detach(probes) => tell!("{}: {}", over(), self.detached(probes)),
            Wish::Attach(probes) => {
                let first = probes.first().map_or("", |probe| self.label(*probe));
                let more = match probes.len() {
                    1 => String::new(),
                    all => format!(" and {} more", all - 1),
                };
                tell!("trying again: `{}`{more}", first.escape_debug());
            }
            Wish::Pause if !self.told_duty => {
                let over = over();
                self.told_duty = true;
                tell!(
                    "{over}: the probes are attached a part of the time from now on; what `~` marks \
                     is an estimate"
                );
            }
            Wish::Pause | Wish::Resume | Wish::Nothing => {}
        }
    }

    fn detached(&self, probes: &[Costly<ProbeId>]) -> String {
        let name = |costly: &Costly<ProbeId>| {
            format!("`{}` ({})", self.label(costly.probe).escape_debug(), percent(costly.share))
        };
        let named: Vec<_> = probes.iter().take(NAMED).map(name).collect();
        let more = match probes.len() - named.len() {
            0 => String::new(),
            more => {
                let share: f64 = probes.iter().skip(NAMED).map(|costly| costly.share).sum();
                format!(" and {more} more ({})", percent(share))
            }
        };
        let again = probes.iter().map(|costly| costly.again_in).min().unwrap_or_default();
        let again = Duration::from_millis(again.as_millis() as u64);
        format!(
            "detached {}{more}; tried again in {}",
            named.join(", "),
            duration_text(again.as_nanos() as u64)
        )
    }

    fn label(&self, probe: ProbeId) -> &str {
        self.plan.probes.get(probe.0 as usize).map_or("?", |probe: &PlannedProbe| &probe.label)
    }

    /// Hits do not count any more.
    pub(super) fn end(&mut self) {
        let spent = self.meter.read(&self.counters);
        let now = Instant::now();
        // Of what is left only the figures are of interest.
        let _ = self.budget.look(now, spent, Vec::new);
        self.presences.lock().end(now, &self.counters);
    }

    /// What is to be told at the end, and the thread that gives back the links when it is waited
    /// for.
    pub(super) fn finish(self) -> (Overhead, JoinHandle<LinkSets>) {
        let figures = self.budget.figures();
        let elapsed = self.began.elapsed().as_secs_f64() * online_cpus() as f64;
        let mean = (figures.hits + figures.work).as_secs_f64() / elapsed.max(1e-9);
        let share_of_all = self.presences.lock().share_of_all(Instant::now());
        let overhead = Overhead {
            max_percent: Ppm::percent(self.budget.limit().share()),
            policy: self.budget.limit().policy().to_string(),
            mean_percent: Ppm::percent(mean),
            peak_percent: Ppm::percent(figures.peak),
            attach_work_ms: Millis(figures.work),
            exceeded: figures.exceeded,
            detached: figures.detached,
            attached_again: figures.attached_again,
            away: self.budget.away() as u64,
            attached_share: share_of_all.map(Ppm::share),
        };
        (overhead, self.keeper)
    }
}

/// `38 %`, `0.42 %`.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 10.0 {
        format!("{percent:.0} %")
    } else if percent < 0.01 {
        "below 0.01 %".to_owned()
    } else {
        let text = format!("{percent:.2}");
        format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// CPUs that there are now.
fn online_cpus() -> usize {
    faultline_output::prometheus::online_cpus().max(1)
}

/// Owns the links of a run.
struct Keeper {
    programs: Arc<Programs>,
    plan: Arc<AttachPlan>,
    scope: Scope,
    /// Those that the kernel accepts.
    probes: Vec<ProbeId>,
    links: LinkSets,
}

impl Keeper {
    fn run(mut self, orders: &mpsc::Receiver<Order>, tell: &UnboundedSender<Done>) -> LinkSets {
        for Order { wish, hand_over } in orders {
            let before = own_cpu_time();
            let result = self.obey(&wish, hand_over);
            let work = own_cpu_time().saturating_sub(before);
            if tell.send(Done { wish, result, work }).is_err() {
                break;
            }
        }
        self.links
    }

    fn obey(&mut self, wish: &Wish<ProbeId>, hand_over: bool) -> Result<(), KernelError> {
        match wish {
            Wish::Nothing => Ok(()),
            Wish::Pause => {
                self.programs.close_gates(&self.probes);
                release(std::mem::take(&mut self.links).into_links(), hand_over);
                Ok(())
            }
            Wish::Resume => self.attach(&self.probes.clone()),
            Wish::Attach(probes) => self.attach(probes),
            Wish::Detach(probes) => {
                let out: HashSet<_> = probes.iter().map(|costly| costly.probe).collect();
                let scope = living(&self.scope);
                self.programs.close_gates(&out);
                let Changed { old, exchange } = self
                    .links
                    .take_out(&self.programs, &self.plan, &out, &scope)
                    .inspect_err(|_| self.programs.open_gates(&out))?;
                release(old, hand_over);
                if exchange {
                    self.programs.end_exchange();
                }
                Ok(())
            }
        }
    }

    fn attach(&mut self, probes: &[ProbeId]) -> Result<(), KernelError> {
        let scope = living(&self.scope);
        let (links, _) =
            LinkSets::attach(&self.programs, &self.plan, probes, &scope, &Progress::default())?;
        self.links.add(links);
        self.programs.open_gates(probes);
        Ok(())
    }
}

/// Of several processes, those that have not ended: the kernel attaches to no other.
fn living(scope: &Scope) -> Scope {
    match scope {
        Scope::AllProcesses => Scope::AllProcesses,
        Scope::Processes(pids) => {
            Scope::Processes(pids.iter().copied().filter(|pid| process::exists(*pid)).collect())
        }
    }
}

fn release(links: Links, hand_over: bool) {
    let progress = Progress::default();
    if !hand_over {
        links.detach(&progress);
        return;
    }
    match links.hand_over() {
        Ok(releaser) => drop(releaser.release(&progress)),
        Err((links, error)) => {
            tracing::warn!("failed to start a process that releases the links: {error}");
            links.detach(&progress);
        }
    }
}
