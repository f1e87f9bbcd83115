use super::*;

use proptest::prelude::*;

const CPUS: usize = 2;

fn limit(text: &str, policy: OverheadPolicy) -> OverheadLimit {
    text.parse::<OverheadLimit>().unwrap().with_policy(policy)
}

/// A host in which each attached probe costs its share of all CPUs. The more the others cost, the less each
/// costs, as in a program that does nothing but call them.
struct Host {
    budget: Budget<u32>,
    now: Instant,
    began: Instant,
    /// By probe: how long a call takes with the probe, in units of a call without it; 0 means never called.
    /// The program calls them in turn, and keeps one CPU busy.
    calls: Vec<f64>,
    attached: Vec<bool>,
    /// How long attaching or detaching takes.
    work: Duration,
    spent: Duration,
    /// Accumulated since it was last reset.
    total: Duration,
    correctiones: Vec<(Duration, Correction<u32>)>,
}

impl Host {
    fn new(limit: OverheadLimit, calls: Vec<f64>) -> Self {
        let now = Instant::now();
        let attached = vec![true; calls.len()];
        Self {
            budget: Budget::new(limit, CPUS, now),
            now,
            began: now,
            calls,
            attached,
            work: Duration::from_millis(5),
            spent: Duration::ZERO,
            total: Duration::ZERO,
            correctiones: Vec::new(),
        }
    }

    /// Seconds of one CPU that each probe uses per second.
    fn rates(&self) -> Vec<f64> {
        let cost = |(call, attached): (&f64, &bool)| if *attached { *call } else { 0.0 };
        let costs: Vec<f64> = self.calls.iter().zip(&self.attached).map(cost).collect();
        let round: f64 = costs.iter().sum::<f64>()
            + self.calls.iter().filter(|call| **call > 0.0).count() as f64;
        costs.iter().map(|cost| if round > 0.0 { cost / round } else { 0.0 }).collect()
    }

    fn pass(&mut self, time: Duration) {
        let spent = time.mul_f64(self.rates().iter().sum());
        self.spent += spent;
        self.total += spent;
        self.now += time;
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let wait = self.budget.next_look();
            self.pass(wait);
            let spent = std::mem::take(&mut self.spent);
            let rates = self.rates();
            let costs = || {
                let of = |(index, rate): (usize, &f64)| (index as u32, wait.mul_f64(*rate));
                rates.iter().enumerate().map(of).collect()
            };
            let correction = self.budget.look(self.now, spent, costs);
            if correction == Correction::Nothing {
                continue;
            }
            // The first half with the probes as they were.
            self.pass(self.work / 2);
            match &correction {
                Correction::Nothing => {}
                Correction::Pause => self.attached.fill(false),
                Correction::Resume => self.attached.fill(true),
                Correction::Attach(probes) => probes.iter().for_each(|id| self.set(*id, true)),
                Correction::Detach(probes) => {
                    probes.iter().for_each(|id| self.set(id.probe, false));
                }
            }
            self.pass(self.work / 2);
            self.total += self.work;
            self.budget.done(self.now, &correction, self.work);
            self.correctiones.push((self.now - self.began, correction));
        }
    }

    fn set(&mut self, id: u32, attached: bool) {
        assert_ne!(self.attached[id as usize], attached, "no probe is attached or detached twice");
        self.attached[id as usize] = attached;
    }

    /// The share of all CPUs used in this time.
    fn share(&mut self, time: Duration) -> f64 {
        self.total = Duration::ZERO;
        let began = self.now;
        self.run(time);
        self.total.as_secs_f64() / (self.now - began).as_secs_f64() / CPUS as f64
    }
}

/// Check that limits are parsed, and that invalid ones are refused with a reason.
#[test]
fn limits() {
    let percent = |text: &str| text.parse::<OverheadLimit>().map(OverheadLimit::percent);
    assert_eq!(percent("2%"), Ok(2.0));
    assert_eq!(percent("0.5 %"), Ok(0.5));
    assert_eq!(percent("99.9%").unwrap().round(), 100.0);
    for wrong in ["0%", "100%", "200%", "0.0%"] {
        assert!(matches!(percent(wrong), Err(LimitError::OutOfRange(_))), "{wrong}");
    }
    for wrong in ["abc", "2", "", "%", "-1%", "1e1%", "inf%", "NaN%", "2%%", "1.2.3%"] {
        assert!(matches!(percent(wrong), Err(LimitError::NoPercent(_))), "{wrong}");
    }
}

/// Check that a load within the budget is left alone, including bursts.
#[test]
fn within_the_budget() {
    for policy in [OverheadPolicy::Detach, OverheadPolicy::DutyCycle] {
        let mut budget = Budget::new(limit("2%", policy), CPUS, Instant::now());
        let mut now = budget.looked;
        for step in 0..1000 {
            now += EVERY;
            // 1.95 % on average, all of it in every second look.
            let burst =
                if step % 2 == 0 { EVERY.mul_f64(0.039 * CPUS as f64) } else { Duration::ZERO };
            let correction: Correction<u32> = budget.look(now, burst, || vec![(0, burst)]);
            assert_eq!(correction, Correction::Nothing, "{policy}");
        }
    }
}

/// Check that only the costliest probe is detached where that is enough, that its share is reported, and
/// that it is retried at growing intervals.
#[test]
fn the_costliest_goes() {
    let mut host = Host::new(limit("2%", OverheadPolicy::Detach), vec![0.01, 1000.0, 0.01]);
    host.run(Duration::from_secs(120));
    let Correction::Detach(first) = &host.correctiones[0].1 else {
        panic!("{:?}", host.correctiones[0])
    };
    assert_eq!(first.iter().map(|costly| costly.probe).collect::<Vec<_>>(), [1]);
    assert!((first[0].share - 0.5).abs() < 0.01, "{first:?}");
    assert!(host.correctiones[0].0 < Duration::from_millis(200));
    assert!(host.attached[0] && host.attached[2]);
    let pauses: Vec<_> = host
        .correctiones
        .iter()
        .filter_map(|(_, correction)| match correction {
            Correction::Detach(probes) => Some(probes[0].again_in),
            _ => None,
        })
        .collect();
    assert!(pauses.len() >= 3, "{pauses:?}");
    assert!(pauses.windows(2).all(|pair| pair[1] >= pair[0] * 3 / 2), "{pauses:?}");
}

/// Check that a probe stays attached once its load is over, and then starts with a clean slate.
#[test]
fn a_load_that_ends() {
    let mut host = Host::new(limit("2%", OverheadPolicy::Detach), vec![1000.0]);
    host.run(Duration::from_secs(1));
    assert_eq!(host.attached, [false]);
    host.calls[0] = 0.0;
    host.run(Duration::from_secs(30));
    assert_eq!(host.attached, [true]);
    let figures = host.budget.figures();
    assert_eq!((figures.exceeded, figures.detached, figures.attached_again), (1, 1, 1));
    host.calls[0] = 1000.0;
    host.run(Duration::from_secs(1));
    let Some((_, Correction::Detach(last))) = host.correctiones.last() else { panic!() };
    assert!(last[0].again_in < FIRST_PAUSE * 2, "{last:?}");
}

/// Check that the budget holds from two seconds after a load begins, for one function and for many, and
/// that the duty cycle uses all of it.
#[test]
fn the_budget_holds() {
    for percent in ["0.5%", "1%", "2%", "5%"] {
        for functions in [1, 10_000] {
            for policy in [OverheadPolicy::Detach, OverheadPolicy::DutyCycle] {
                let limit = limit(percent, policy);
                let mut host = Host::new(limit, vec![300.0; functions]);
                if functions > 1 {
                    host.work = Duration::from_millis(40);
                }
                host.run(Duration::from_secs(2));
                let share = host.share(Duration::from_secs(300));
                assert!(share < limit.share() * 1.2, "{percent} {functions} {policy}: {share}");
                if policy == OverheadPolicy::DutyCycle {
                    assert!(share > limit.share() * 0.8, "{percent} {functions} {policy}: {share}");
                }
            }
        }
    }
}

/// Check that a failed correction is retried, but not at once.
#[test]
fn failures_are_tried_again() {
    let mut budget = Budget::new(limit("2%", OverheadPolicy::Detach), CPUS, Instant::now());
    let mut now = budget.looked + EVERY;
    let costs = || vec![(7_u32, EVERY)];
    let correction = budget.look(now, EVERY, costs);
    assert!(matches!(correction, Correction::Detach(_)));
    assert_eq!(budget.look(now, EVERY, costs), Correction::Nothing, "one at a time");
    budget.failed(now, &correction, Duration::ZERO);
    assert!(!budget.is_away(&7));
    now += EVERY;
    assert_eq!(budget.look(now, EVERY, costs), Correction::Nothing, "not at once");
    now += AFTER_FAILURE;
    let correction = budget.look(now, EVERY, costs);
    budget.done(now, &correction, Duration::ZERO);
    assert!(budget.is_away(&7));
    let mut tries = 0;
    for _ in 0..1000 {
        now += EVERY;
        let correction = budget.look(now, Duration::ZERO, Vec::new);
        if let Correction::Attach(probes) = &correction {
            assert_eq!(probes, &[7]);
            tries += 1;
            budget.failed(now, &correction, Duration::ZERO);
        }
    }
    assert!((2..=5).contains(&tries), "{tries} in 100 s");
}

proptest! {
    /// Check that for any load, program and cost of attaching, the budget holds on average, no probe is
    /// detached or attached twice, and the attached probes are those that are not away.
    #[test]
    fn any_load(
        calls in prop::collection::vec(0.0..2000.0_f64, 1..20),
        percent in 1..20_u32,
        duty in any::<bool>(),
        work_ms in 1..50_u64,
    ) {
        let policy = if duty { OverheadPolicy::DutyCycle } else { OverheadPolicy::Detach };
        let limit = limit(&format!("{percent}%"), policy);
        let mut host = Host::new(limit, calls);
        host.work = Duration::from_millis(work_ms);
        host.run(Duration::from_secs(2));
        let share = host.share(Duration::from_secs(100));
        prop_assert!(share < limit.share() * 1.2, "{} of {}", share, limit.share());
        for (index, attached) in host.attached.iter().enumerate() {
            prop_assert_eq!(*attached, !host.budget.is_away(&(index as u32)));
        }
    }
}
