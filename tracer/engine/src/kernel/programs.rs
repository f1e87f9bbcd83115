//! Loads the eBPF object with maps of the plan's size.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{Program, ProgramError, RawTracePoint, UProbe},
};
use tracer_common::{
    Action, Control,
    condition::{Condition, SAMPLE_ALL, Text},
    counter::COLUMNS,
    exchange::Marks,
    histogram::SHARDS,
    program::ProbeProgram,
    ring::{LEAST_BYTES, Shape},
};

use super::{
    Calls, Counters, Deaths, Diagnostics, Faults, Features, KernelError, Latencies, Records,
    children::Children,
    counters::{CountersShape, column_len, counters_len, cpus, highest_online},
    descriptors,
    exchange::{ControlWords, Gates, MAX_MARKED_TASKS, MAX_RETIRED, Numbered},
    features::UprobePrograms,
    mapped::MappedArray,
    pid_namespace::PidNamespace,
};
use faultline_plan::{ActionNeeds, AttachPlan, Conditions, PlannedProbe};
use faultline_resolve::Pid;
use faultline_spec::{Rate, Sample};

/// How many tasks may be inside traced calls at once. An entry takes 2.5 KiB once it is used.
const MAX_TASKS_IN_CALLS: u32 = 65_536;

/// How to load the programs.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// What to do with hits.
    pub action: Action,
    /// Bytes of the records in the ring buffer of all CPUs: a power of two, at least 256 KiB. Their commit
    /// words take an eighth more. Only events need one.
    pub buffer_bytes: u32,
    /// Trace only these processes; all of them if this is empty and there is no room for more.
    pub pids: Vec<Pid>,
    /// Room for this many processes that are added later ([`Programs::trace_processes`]).
    pub more_pids: u32,
    /// Trace the children of these processes too, from their first instruction.
    pub follow: bool,
    /// Counting starts by itself at the moment a traced process executes a new program.
    pub begin_at_exec: bool,
    /// Links may be exchanged ([`Programs::begin_exchange`]); this adds a comparison to every hit.
    pub exchanges: bool,
    /// A child process may release links: see [`helper::run_if_asked`](crate::helper::run_if_asked).
    pub helper: bool,
    /// Note what traced processes die of ([`Programs::take_deaths`]).
    pub deaths: bool,
    /// Whether the programs' own diagnostics are wanted.
    pub diagnostics: bool,
    /// What the kernel offers.
    pub features: Features,
    /// Fault pages in even where that may hurt other processes: see [`Features::faults_in`].
    pub force: bool,
    /// The share of calls to keep; all if not given.
    pub sample: Option<Sample>,
    /// How many calls of each probe to keep; all if not given.
    pub rate: Option<Rate>,
}

impl LoadOptions {
    /// For every process and every call, with the smallest buffer that every record fits into, and
    /// without diagnostics.
    #[must_use]
    pub fn new(action: Action, features: Features) -> Self {
        Self {
            action,
            buffer_bytes: LEAST_BYTES as u32,
            pids: Vec::new(),
            more_pids: 0,
            follow: false,
            begin_at_exec: false,
            exchanges: false,
            helper: false,
            deaths: false,
            diagnostics: false,
            features,
            force: false,
            sample: None,
            rate: None,
        }
    }
}

/// The plan's programs, loaded.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    pub(super) control: ControlWords,
    pub(super) numbered: Numbered,
    /// Present if links may be exchanged and returns are traced.
    pub(super) gates: Option<Gates>,
    tracks_returns: bool,
    /// Some returns are watched by the kernel's return probe.
    replaces_returns: bool,
    /// Some returns are watched at their functions' exits.
    watches_exits: bool,
    features: Features,
    /// The ring buffer's; `None` once it was taken.
    ring: Option<Shape>,
    /// What becomes of children of the traced processes.
    pub(super) children: Children,
    /// Only the number of hits is needed.
    only_counts: bool,
    /// A child process may release links.
    pub(super) helper: bool,
    /// The processes whose hits count.
    pids: Mutex<HashMap<MapData, u32, u8>>,
    /// The children of those that are traced too, by the kernel's own process ids.
    pub(super) followed: Mutex<HashMap<MapData, u32, u8>>,
    /// The PID namespace that faultline runs in, if it is not the initial one.
    pub(super) namespace: Option<PidNamespace>,
}

impl Programs {
    /// Creates the maps, writes what each probe reads, and has the programs verified.
    ///
    /// # Errors
    ///
    /// [`KernelError::Maps`] and [`KernelError::Load`] without privileges or on a kernel that lacks what is
    /// needed; [`KernelError::Map`] if memory runs out; [`KernelError::TooManyLinks`] if the limit on open
    /// files is too low even for the maps.
    pub fn load(plan: &AttachPlan, options: &LoadOptions) -> Result<Self, KernelError> {
        let probes = plan.probes.len().max(1) as u32;
        let tracks_returns = plan.probes.iter().any(|probe| probe.ret.is_some());
        let watches_exits = plan.probes.iter().any(|probe| !probe.exits().is_empty());
        let replaces_returns = plan.probes.iter().any(PlannedProbe::replaces_return);
        let needs = ActionNeeds::of(options.action);
        let reads_memory =
            needs.records && plan.probes.iter().any(|probe| probe.program.reads_memory());
        let conditional = plan.probes.iter().any(|probe| probe.program.judges());
        let chooses = conditional || options.sample.is_some() || options.rate.is_some();
        let only_counts = !needs.records && !needs.histograms && !tracks_returns && !chooses;
        let columns = if only_counts { 1 } else { COLUMNS };
        let column = column_len(probes);
        let counters = counters_len(cpus()?, columns, column)?;
        let histograms = if needs.histograms { probes * SHARDS } else { 1 };
        let ring = if needs.records {
            Shape::of(highest_online()? as u32, u64::from(options.buffer_bytes))
        } else {
            Shape { rings: 1, segments: 1 }
        };
        let exchanges = options.exchanges && options.features.batches();
        let filter_pids = u8::from(!options.pids.is_empty() || options.more_pids != 0);
        let only_pid = match options.pids.as_slice() {
            [pid] if options.more_pids == 0 && !options.follow => pid.get(),
            _ => 0,
        };
        let children = Children::of(options)?;
        let may_fault = options.features.faults_in(options.force);
        let namespace = PidNamespace::own()?;
        let room = descriptors::make_room_to_load(plan.probes.len());
        // aya-log's levels: 0 is off, 3 is info and worse, 5 is everything.
        let log_level: u8 = if options.diagnostics { 5 } else { 0 };
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader
            .override_global("COLUMN_LEN", &column, true)
            .override_global("PIDNS_DEV", &namespace.map_or(0, |own| own.device), true)
            .override_global("PIDNS_INO", &namespace.map_or(0, |own| own.inode), true)
            .override_global("FILTER_PIDS", &filter_pids, true)
            .override_global("ONLY_PID", &only_pid, true)
            .override_global("FOLLOW", &u8::from(children.follows()), true)
            .override_global("TASK_TGID", &children.layout().tgid, true)
            .override_global("TASK_COMM", &options.features.task_name_at.unwrap_or(0), true)
            .override_global("TASK_SIGNAL", &children.layout().signal, true)
            .override_global("SIGNAL_LIVE", &children.layout().live, true)
            .override_global("ACTION", &(options.action as u8), true)
            .override_global("COUNTER_COLUMNS", &columns, true)
            .override_global("READS_MEMORY", &u8::from(reads_memory), true)
            .override_global("TRACKS_RETURNS", &u8::from(tracks_returns), true)
            .override_global("EXCHANGES", &u8::from(exchanges), true)
            .override_global("MAY_FAULT", &u8::from(may_fault), true)
            .override_global("CONDITIONAL", &u8::from(conditional), true)
            .override_global(
                "SAMPLE_BELOW",
                &options.sample.map_or(SAMPLE_ALL, Sample::threshold),
                true,
            )
            .override_global("RATE_INTERVAL_NS", &options.rate.map_or(0, Rate::interval_ns), true)
            .override_global("RATE_AHEAD_NS", &options.rate.map_or(0, Rate::ahead_ns), true)
            .map_max_entries("CONDITIONS", plan.conditions.conditions.len().max(1) as u32)
            .map_max_entries("TEXTS", plan.conditions.texts.len().max(1) as u32)
            .map_max_entries("RATES", if options.rate.is_some() { probes } else { 1 })
            .override_global("AYA_LOG_LEVEL", &log_level, false)
            .override_global("RING_MASK", &(ring.rings - 1), true)
            .override_global("RING_SEGMENTS", &ring.segments, true)
            .map_max_entries("RINGS", ring.rings)
            .map_max_entries("SEGMENTS", ring.rings * ring.segments)
            .map_max_entries("PROGRAMS", if only_counts { 1 } else { probes })
            .map_max_entries("COUNTERS", counters)
            .map_max_entries("PIDS", (options.pids.len() as u32 + options.more_pids).max(1))
            .map_max_entries("FOLLOWED", children.room())
            .map_max_entries("GATES", if exchanges && tracks_returns { probes } else { 1 })
            .map_max_entries("MARKS", if exchanges { MAX_MARKED_TASKS } else { 1 })
            .map_max_entries("RETIRED", if exchanges { MAX_RETIRED } else { 1 })
            .map_max_entries("CALLS", if tracks_returns { MAX_TASKS_IN_CALLS } else { 1 })
            .map_max_entries("HISTOGRAMS", histograms)
            .load(object())
            .map_err(|source| match room {
                Err(too_few) if descriptors::is_out_of_files(&source) => too_few,
                _ => KernelError::Maps(Box::new(source)),
            })?;
        let control = mapped(&ebpf, "CONTROL", ControlWords::WORDS).map(ControlWords::new)?;
        let marks: HashMap<MapData, u64, Marks> = typed(ebpf.take_map("MARKS"), "MARKS")?;
        let numbered = Numbered::new(marks, typed(ebpf.take_map("RETIRED"), "RETIRED")?);
        let gates = (exchanges && tracks_returns)
            .then(|| mapped(&ebpf, "GATES", probes as usize).map(Gates::new))
            .transpose()?;
        let (features, helper) = (options.features, options.helper);
        let pids = Mutex::new(typed(ebpf.take_map("PIDS"), "PIDS")?);
        let followed = Mutex::new(typed(ebpf.take_map("FOLLOWED"), "FOLLOWED")?);
        let mut programs = Self {
            control,
            numbered,
            gates,
            ebpf,
            tracks_returns,
            replaces_returns,
            watches_exits,
            only_counts,
            features,
            ring: Some(ring),
            children,
            helper,
            pids,
            followed,
            namespace,
        };
        if !only_counts {
            programs.write_reads(plan)?;
        }
        programs.trace_processes(&options.pids)?;
        programs.verify(options)?;
        Ok(programs)
    }

    /// What user space and the programs tell each other, mapped once more.
    pub(super) fn map_control(&self) -> Result<ControlWords, KernelError> {
        mapped(&self.ebpf, "CONTROL", ControlWords::WORDS).map(ControlWords::new)
    }

    fn write_reads(&mut self, plan: &AttachPlan) -> Result<(), KernelError> {
        let slots: MappedArray<ProbeProgram> =
            mapped(&self.ebpf, "PROGRAMS", plan.probes.len().max(1))?;
        for (index, probe) in plan.probes.iter().enumerate() {
            slots.write(index, probe.program);
        }
        self.write_conditions(&plan.conditions)
    }

    fn write_conditions(&mut self, all: &Conditions) -> Result<(), KernelError> {
        let conditions: MappedArray<Condition> =
            mapped(&self.ebpf, "CONDITIONS", all.conditions.len().max(1))?;
        for (index, condition) in all.conditions.iter().enumerate() {
            conditions.write(index, *condition);
        }
        let texts: MappedArray<Text> = mapped(&self.ebpf, "TEXTS", all.texts.len().max(1))?;
        for (index, text) in all.texts.iter().enumerate() {
            texts.write(index, *text);
        }
        Ok(())
    }

    fn pids(&self) -> MutexGuard<'_, HashMap<MapData, u32, u8>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts hits in these processes too, from now on. Adding a process twice changes nothing.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if there is no room ([`LoadOptions::more_pids`]);
    /// [`KernelError::NestedNamespace`] if the programs cannot recognise a process by its number.
    pub fn trace_processes(&self, traced: &[Pid]) -> Result<(), KernelError> {
        traced.iter().try_for_each(|pid| self.check_process(*pid))?;
        let mut pids = self.pids();
        for pid in traced {
            pids.insert(&pid.get(), &1, 0).map_err(map_error("write", "PIDS"))?;
        }
        Ok(())
    }

    /// Makes sure that the programs can recognise a process by its number.
    ///
    /// # Errors
    ///
    /// [`KernelError::NestedNamespace`] if it runs in a PID namespace inside faultline's.
    pub fn check_process(&self, pid: Pid) -> Result<(), KernelError> {
        self.namespace.map_or(Ok(()), |own| own.check(pid))
    }

    /// Stops counting hits in this process.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if the map cannot be written.
    pub fn forget_process(&self, pid: Pid) -> Result<(), KernelError> {
        match self.pids().remove(&pid.get()) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error("write", "PIDS")(error)),
        }
    }

    fn verify(&mut self, options: &LoadOptions) -> Result<(), KernelError> {
        // Before anything is attached: a child that is forked unseen would not be known.
        self.watch_children()?;
        let entry = self.entry_name();
        self.load_uprobe(entry)?;
        if self.tracks_returns {
            if self.replaces_returns {
                self.load_uprobe(self.features.programs().ret)?;
            }
            if self.watches_exits {
                self.load_uprobe(self.features.programs().exit)?;
            }
            // Attached first: otherwise a task with an open call could exit unseen.
            self.attach_tracepoint("task_exit", "sched_process_exit")?;
            self.attach_tracepoint("task_exec", "sched_process_exec")?;
        }
        if options.deaths
            && let Err(error) = self.attach_tracepoint("signal_delivered", "signal_deliver")
        {
            // A kernel without type information for its own structures. Deaths are not explained there.
            tracing::debug!("what processes die of is not noted: {error}");
        }
        if options.begin_at_exec {
            self.attach_tracepoint("command_begins", "sched_process_exec")?;
        }
        Ok(())
    }

    pub(super) fn attach_tracepoint(
        &mut self,
        name: &'static str,
        tracepoint: &'static str,
    ) -> Result<(), KernelError> {
        let program: &mut RawTracePoint = self
            .program(name)?
            .try_into()
            .map_err(|_| KernelError::Missing { kind: "raw tracepoint", name })?;
        program.load().map_err(load_error(name))?;
        program.attach(tracepoint).map_err(load_error(name))?;
        Ok(())
    }

    /// The program for entries.
    fn entry_name(&self) -> &'static str {
        let UprobePrograms { entry, count, .. } = self.features.programs();
        if self.only_counts { count } else { entry }
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, KernelError> {
        self.ebpf.program_mut(name).ok_or(KernelError::Missing { kind: "program", name })
    }

    pub(super) fn load_uprobe(&mut self, name: &'static str) -> Result<(), KernelError> {
        let program: &mut UProbe = self
            .program(name)?
            .try_into()
            .map_err(|_| KernelError::Missing { kind: "uprobe program", name })?;
        program.load().map_err(load_error(name))
    }

    /// The program for entries.
    pub(super) fn entry(&self) -> Result<BorrowedFd<'_>, KernelError> {
        self.descriptor(self.entry_name())
    }

    /// The program for returns, if any are watched by the kernel's return probe.
    pub(super) fn ret(&self) -> Result<Option<BorrowedFd<'_>>, KernelError> {
        let ret = || self.descriptor(self.features.programs().ret);
        self.replaces_returns.then(ret).transpose()
    }

    /// The program for functions' exits, if any are watched.
    pub(super) fn exit(&self) -> Result<Option<BorrowedFd<'_>>, KernelError> {
        let exit = || self.descriptor(self.features.programs().exit);
        self.watches_exits.then(exit).transpose()
    }

    pub(super) fn descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        let missing = || KernelError::Missing { kind: "uprobe program", name };
        let program = self.ebpf.program(name).ok_or_else(missing)?;
        let program: &UProbe = program.try_into().map_err(|_| missing())?;
        Ok(program.fd().map_err(load_error(name))?.as_fd())
    }

    /// The kernel's features, as given when the programs were loaded.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Makes hits count, or makes every program return at once.
    ///
    /// So all probes of a run start and stop at the same moment, however long attaching and detaching take.
    pub fn enable(&self, enabled: bool) {
        self.control.set_enabled(if enabled { 1 } else { Control::ENDED });
    }

    /// Makes hits count if the command has executed its program but the tracepoint has not started the
    /// counting; returns whether that was the case. The tracepoint's program may be about to run, or the
    /// kernel may have skipped it as in [`Calls::forget_ended`].
    pub fn enable_if_not_yet(&self) -> bool {
        let not_yet = self.control.enabled() == 0;
        if not_yet {
            self.control.add_enabled();
        }
        not_yet
    }

    /// Whether the tracepoint's program ran after hits had already been made to count.
    pub fn saw_command(&self) -> bool {
        self.control.enabled() > 1
    }

    /// The records, for a single owner to drain.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if the buffer cannot be mapped; [`KernelError::Missing`] if the
    /// records were taken before.
    pub fn take_records(&mut self) -> Result<Records, KernelError> {
        let missing = KernelError::Missing { kind: "map", name: "SEGMENTS" };
        let ring = self.ring.take().ok_or(missing)?;
        let ends = mapped(&self.ebpf, "RINGS", ring.rings as usize)?;
        let segments = mapped(&self.ebpf, "SEGMENTS", (ring.rings * ring.segments) as usize)?;
        Ok(Records::new(ends, segments, ring))
    }

    /// The counters.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if they cannot be mapped.
    pub fn counters(&self, probes: usize) -> Result<Counters, KernelError> {
        let cpus = cpus()?;
        let probes = probes.max(1);
        let columns = if self.only_counts { 1 } else { COLUMNS as usize };
        let column_len = column_len(probes as u32) as usize;
        let slots = mapped(&self.ebpf, "COUNTERS", cpus * columns * column_len)?;
        Ok(Counters::new(slots, CountersShape { cpus, columns, column_len, probes }))
    }

    /// The durations of calls.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] if they were taken before.
    pub fn take_latencies(&mut self) -> Result<Latencies, KernelError> {
        self.take_typed("HISTOGRAMS").map(Latencies::new)
    }

    /// The tasks inside a fault, for a single owner to watch.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] if they were taken before.
    pub fn take_faults(&mut self) -> Result<Faults, KernelError> {
        Ok(Faults::new(self.take_typed("FAULTS")?, self.take_typed("NO_FAULT")?))
    }

    /// The calls that have not returned.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] if they were taken before.
    pub fn take_calls(&mut self) -> Result<Calls, KernelError> {
        self.take_typed("CALLS").map(Calls::new)
    }

    /// What traced processes die of.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] if they were taken before.
    pub fn take_deaths(&mut self) -> Result<Deaths, KernelError> {
        self.take_typed("DEATHS").map(Deaths::new)
    }

    /// The programs' own diagnostics.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] if their buffer cannot be opened.
    pub fn diagnostics(&mut self) -> Result<Diagnostics, KernelError> {
        Diagnostics::new(&mut self.ebpf)
    }

    fn take_typed<T>(&mut self, name: &'static str) -> Result<T, KernelError>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        typed(self.ebpf.take_map(name), name)
    }
}

/// The eBPF object, aligned as the ELF parser wants it.
pub(super) fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/faultline-ebpf"))
}

fn mapped<T: aya::Pod>(
    ebpf: &Ebpf,
    name: &'static str,
    len: usize,
) -> Result<MappedArray<T>, KernelError> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        return Err(KernelError::Missing { kind: "array map", name });
    };
    MappedArray::new(map.fd(), len).map_err(map_error("map", name))
}

fn typed<M, T>(map: Option<M>, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<M, Error = aya::maps::MapError>,
{
    let map = map.ok_or(KernelError::Missing { kind: "map", name })?;
    T::try_from(map).map_err(map_error("open", name))
}

pub(super) fn map_error<E>(action: &'static str, map: &'static str) -> impl FnOnce(E) -> KernelError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| KernelError::Map { action, map, source: Box::new(source) }
}

pub(super) fn load_error(program: &'static str) -> impl FnOnce(ProgramError) -> KernelError {
    move |error| {
        // This can be thousands of lines, so it is only shown on request.
        tracing::debug!("failed to load `{program}`: {error}");
        KernelError::Load { program, reason: short_reason(&error) }
    }
}

/// Why a program was refused, in one line: the verifier's last line before its statistics.
fn short_reason(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let said = log
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| {
            !line.is_empty()
                && !["processed ", "verification time", "stack depth", "max_states"]
                    .iter()
                    .any(|statistics| line.starts_with(statistics))
        })
        .unwrap_or("the verifier says nothing");
    format!("{io_error}: {said}")
}
