//! Breakpoints on functions of our own, and the calls that they recorded.

use std::{
    ffi::CString,
    mem::offset_of,
    ops,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    programs::UProbe,
    sys::{Stats, enable_stats},
};
use tracer_common::{Action, counter::Counter, record::RecordHeader};

use super::super::{
    AttachReport, Counters, DetachReport, Features, KernelError, Links, LoadOptions, Programs,
    Progress, Records,
    links::{Link, LinkKind},
    programs::{load_error, object},
    sys::{Points, UprobePmu, create_multi_link},
};
use super::Check;
use faultline_plan::{ActionNeeds, AttachPlan, ProbeId};
use faultline_resolve::Pid;

/// Programs that do nothing, to measure the kernel's own share of a hit.
pub(super) struct Empty {
    ebpf: Ebpf,
    features: Features,
}

impl Empty {
    /// Loads the unsleeping program and, if the kernel supports it, the sleepable one.
    pub(super) fn load(features: Features) -> anyhow::Result<Self> {
        let ebpf = EbpfLoader::new()
            .load(object())
            .map_err(|source| KernelError::Maps(Box::new(source)))?;
        let mut empty = Self { ebpf, features };
        empty.load_program(false)?;
        if features.sleepable {
            empty.load_program(true)?;
        }
        Ok(empty)
    }

    fn load_program(&mut self, sleepable: bool) -> anyhow::Result<()> {
        let name = self.name(sleepable);
        let missing = KernelError::Missing { kind: "program", name };
        let program = self.ebpf.program_mut(name).ok_or(missing)?;
        let program: &mut UProbe = program.try_into()?;
        program.load().map_err(load_error(name))?;
        Ok(())
    }

    fn name(&self, sleepable: bool) -> &'static str {
        match (self.features.batches(), sleepable) {
            (true, false) => "empty_multi",
            (true, true) => "empty_multi_s",
            (false, false) => "empty_single",
            (false, true) => "empty_single_s",
        }
    }

    fn program(&self, sleepable: bool) -> anyhow::Result<&UProbe> {
        let name = self.name(sleepable);
        let missing = KernelError::Missing { kind: "program", name };
        Ok(self.ebpf.program(name).ok_or(missing)?.try_into()?)
    }

    /// Attaches it to every probe of the plan.
    pub(super) fn attach(
        &self,
        plan: &AttachPlan,
        sleepable: bool,
        at_return: bool,
    ) -> anyhow::Result<Links> {
        let program = self.program(sleepable)?;
        let program = program.fd().map_err(load_error(self.name(sleepable)))?.as_fd();
        let mut links = Vec::new();
        for file in &plan.files {
            let path = CString::new(file.file.attach_path().as_os_str().as_bytes())?;
            let offsets: Vec<_> =
                file.probes.iter().map(|id| plan.probes[id.0 as usize].offset.0).collect();
            let all = Points {
                path: &path,
                offsets: &offsets,
                cookies: &vec![0; offsets.len()],
                pid: self.features.filters_by_process().then(|| Pid::own().get()),
                at_return,
            };
            let context = || format!("failed to attach to {} functions of ours", offsets.len());
            let mut add = |descriptor: OwnedFd, points, kind| {
                links.push(Link { descriptor, points, kind, number: 0 });
            };
            if self.features.batches() {
                let link = create_multi_link(program, &all).with_context(context)?;
                add(link, offsets.len(), LinkKind::Multi);
                continue;
            }
            let pmu = UprobePmu::find()?;
            for offset in &offsets {
                let point = Points { offsets: &[*offset], cookies: &[0], ..all };
                let link = pmu.create_link(program, &point).with_context(context)?;
                add(link, 1, LinkKind::Single);
            }
        }
        Ok(Links::new(links))
    }

    /// How often `calls` made the program run; `None` if the kernel does not say. Counting has a cost, so
    /// the kernel counts only during this call.
    pub(super) fn runs_of(&self, sleepable: bool, calls: impl FnOnce()) -> Option<u64> {
        let _counting = enable_stats(Stats::RunTime).ok()?;
        let runs = || Some(self.program(sleepable).ok()?.info().ok()?.run_count());
        let before = runs()?;
        calls();
        Some(runs()?.saturating_sub(before))
    }
}

/// faultline's own programs, with their probes attached and counting.
pub(super) struct Own {
    programs: Programs,
    counters: Counters,
    records: Records,
    /// Events received, by probe.
    arrived: Vec<u64>,
    action: Action,
    links: Links,
    /// The result of attaching.
    pub(super) report: AttachReport,
}

impl Own {
    /// Loads and attaches.
    pub(super) fn attach(
        plan: &AttachPlan,
        action: Action,
        features: Features,
        buffer_bytes: u32,
    ) -> anyhow::Result<Self> {
        let mut programs = Self::load(plan, action, features, buffer_bytes)?;
        let (links, report) =
            Links::attach_plan(&programs, plan, Some(Pid::own()), &Progress::default())?;
        if let Some(refused) = report.refused.first() {
            anyhow::bail!("cannot measure: {}", refused.reason);
        }
        let counters = programs.counters(plan.probes.len())?;
        let records = programs.take_records()?;
        programs.enable(true);
        let arrived = vec![0; plan.probes.len()];
        Ok(Self { programs, counters, records, arrived, action, links, report })
    }

    fn load(
        plan: &AttachPlan,
        action: Action,
        features: Features,
        buffer_bytes: u32,
    ) -> Result<Programs, KernelError> {
        let own = LoadOptions::new(action, features);
        Programs::load(plan, &LoadOptions { buffer_bytes, pids: vec![Pid::own()], ..own })
    }

    /// Drains the ring buffer.
    pub(super) fn drain(&mut self) {
        let arrived = &mut self.arrived;
        self.records.drain(usize::MAX, |record| {
            if let Some(count) = probe_of(record).and_then(|probe| arrived.get_mut(probe)) {
                *count += 1;
            }
        });
    }

    /// Compares a probe's hits and their outcomes with the expected number. For events, drain the ring
    /// buffer first.
    pub(super) fn check(&self, probe: usize, expected: u64) -> Check {
        let count = |counter| self.counters.sum(ProbeId(probe as u32), counter);
        let hits = self.counters.hits(ProbeId(probe as u32));
        let delivered = if ActionNeeds::of(self.action).records {
            self.arrived.get(probe).copied().unwrap_or(0)
        } else {
            count(Counter::Aggregated)
        };
        Check { expected, hits, delivered, lost: count(Counter::RingFull) }
    }

    /// The same over all probes.
    pub(super) fn check_all(&self, expected: u64) -> Check {
        let checks = (0..self.counters.probes()).map(|probe| self.check(probe, 0));
        checks.fold(Check { expected, ..Check::default() }, ops::Add::add)
    }

    /// A counter, summed over all probes.
    pub(super) fn sum(&self, counter: Counter) -> u64 {
        let probes = 0..self.counters.probes() as u32;
        probes.map(|probe| self.counters.sum(ProbeId(probe), counter)).sum()
    }

    /// Stops counting, and detaches.
    pub(super) fn detach(mut self) -> DetachReport {
        self.take_links().detach(&Progress::default())
    }

    /// Stops counting and gives up the links, so that they can be released together with others.
    pub(super) fn take_links(&mut self) -> Links {
        self.programs.enable(false);
        std::mem::take(&mut self.links)
    }
}

/// The probe of a record.
fn probe_of(record: &[u8]) -> Option<usize> {
    let bytes = record.get(offset_of!(RecordHeader, probe)..)?.first_chunk()?;
    usize::try_from(u32::from_ne_bytes(*bytes)).ok()
}
