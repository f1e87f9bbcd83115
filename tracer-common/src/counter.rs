//! What is counted: one table, and everything made from it.
//!
//! [`counters!`](crate::counters) is the table. It has one row per figure: the counter's name in the
//! programs, its field in the summary and its JSON, its role in the law of conservation, and the metrics
//! that show it. From the table come, in this file, the enum [`Counter`] and its columns; in the output
//! crate, the summary's structures with their sums, their JSON and the equation that they are checked
//! against, and the samples of the metrics. Tests check that the documents name every figure. To count
//! something new, add a row and the increment.
//!
//! The map `COUNTERS` is one array of `u64`; a counter of a probe on a CPU stands at
//! `(cpu * columns + column) * column_len + probe`. It is mapped into user space, so that reading ten
//! thousand probes costs no system call. `columns` is [`COLUMNS`] where anything but hits can be
//! counted, and 1 where only hits are; `column_len` is the number of probes, rounded up so that two
//! CPUs never write to one line of their caches.

/// The table of all figures, passed to the macro `$make`.
///
/// A block is a structure, with its kind, its name and its rows. The kinds are `figures`, `causes` (all
/// fields are numbers, and there is a total) and `errnos` (the same, in capitals and without zeros). A row
/// is
///
/// ```text
/// SOURCE NAME field [ROLES] => METRIC "value of its label", …;
/// ```
///
/// SOURCE is where the number comes from:
/// - `kernel`: the [`Counter`] NAME;
/// - `user`: only user space knows it;
/// - `hits`: the sum of the counters with the role `entry` or `back`;
/// - `group`: the structure NAME;
/// - `total`: the sum of the fields of the structure NAME.
///
/// ROLES are:
/// - `entry`, `back`: it counts hits of breakpoints at entries, or at returns. Each hit is counted by
///   exactly one of these;
/// - `lost`: it counts hits that the programs have lost;
/// - `end`: what became of a hit. The sum of these is the number of hits.
#[macro_export]
macro_rules! counters {
    ($($make:tt)*) => { $($make)*! {
        /// Calls whose return is traced.
        figures Returns {
            /// Calls whose return was awaited.
            kernel CallsOpened opened [entry];
            /// Those that returned.
            kernel CallsReturned returned [back];
            /// Those that will not return: jumped over, ended with their thread, or nested deeper than
            /// the kernel follows.
            kernel CallsLost lost [] => CALLS_LOST "no_return";
            /// Those that had not returned when the run ended.
            user - unfinished [];
            /// Hits of an exit that end no traced call: it began before it was traced, or another function
            /// came along. They are not among the hits.
            kernel ExitsPassed passed [];
        }
        /// Hits that were lost, by cause.
        causes Dropped {
            /// No room in the ring buffer.
            kernel RingFull ring_full [lost] => LOST "ring_full";
            /// The output could not be written.
            user - output [];
            /// Arrived after the run had the requested number of events.
            user - after_limit [];
            /// A return whose entry was not seen: a forked child that returns from its parent's call,
            /// or no memory for the call at its entry.
            kernel NoEntry no_entry [back lost] => LOST "no_entry", CALLS_LOST "no_memory";
            /// The record made no sense. Its probe or CPU may be unknown.
            user - undecodable [];
            /// A duration for which the kernel had no memory.
            kernel NoMemory no_memory [lost] => CALLS_LOST "no_memory";
            /// Still inside its handler, or in the ring buffer, when the run stopped without waiting.
            user - abandoned [];
        }
        /// Reads of memory, by how they ended.
        figures Reads {
            /// The memory was there.
            kernel ReadResident resident [] => READS "resident";
            /// A page had to be faulted in first.
            kernel ReadFaulted faulted [] => READS "faulted";
            /// Read, and truncated at the limit.
            kernel ReadTruncated truncated [] => READS "truncated";
            /// Not read.
            total FailedByErrno failed [];
            /// The same, by reason.
            group FailedByErrno failed_by_errno [];
        }
        /// Failed reads by errno. Those that did not occur are omitted.
        errnos FailedByErrno {
            /// The memory is not mapped, or not readable.
            kernel ReadEfault efault [] => READS "failed";
            /// The length is negative.
            kernel ReadEinval einval [] => READS "failed";
            /// The page is not resident and was not faulted in.
            kernel ReadEagain eagain [] => READS "failed";
        }
        /// Page faults that probes took.
        figures Faults {
            /// Pages faulted in.
            kernel Faults count [];
            /// Nanoseconds that the traced program waited for them.
            kernel FaultWaitNs wait_ns [];
        }
        /// What hits took from the traced programs, in nanoseconds.
        figures Cost {
            /// Time in the eBPF programs, without waits for pages. Measured at all of the first hits,
            /// then at some, each of which represents `TIMED_EVERY`. 0 if they only count, which takes next
            /// to nothing.
            kernel HandlerNs handler_ns [];
            /// The total including the breakpoints: hits times the cost of one on this machine, plus
            /// `handler_ns`. An estimate; 0 if the cost of a hit has not been measured.
            user - estimated_ns [];
        }
        /// Where the hits went, and how their reads ended.
        figures Counts {
            /// Entries and returns, in processes that are traced.
            hits - hits [];
            /// Delivered: an event written, or in the kernel a call counted or a duration added to its
            /// histogram.
            kernel Aggregated delivered [end];
            /// Does not match the user's condition.
            kernel Filtered filtered [end] => WITHHELD "filtered";
            /// Left out by sampling.
            kernel SampledOut sampled_out [end] => WITHHELD "sampled_out";
            /// Left out by the rate limit.
            kernel Throttled throttled [end] => WITHHELD "throttled";
            /// Lost.
            group Dropped dropped [end];
            /// Reads of memory.
            group Reads reads [];
            /// Of the filtered hits, those where the condition needed a value that could not be read.
            kernel Undecided filtered_undecided [];
            /// Pages that were not resident when a probe needed them.
            group Faults faults [];
            /// Calls whose return is traced.
            group Returns returns [];
            /// What the hits took from the traced programs.
            group Cost cost [];
        }
    }};
}

/// Makes the enum, its columns, and the table of what is known about each counter.
macro_rules! define {
    ($(
        $(#[$about:meta])*
        $kind:ident $group:ident { $(
            $(#[$doc:meta])*
            $source:ident $name:tt $field:ident [$($role:ident)*]
                $(=> $($metric:ident $label:literal),+)?;
        )* }
    )*) => {
        enumerate! {
            [[
                /// The breakpoint was hit in a traced process, and no other counter counts the hit as one.
            ] PlainHits]
            $($( $source $name [$(#[$doc])*] )*)*
        }

        /// What is known about each counter, in the order of the columns.
        pub const TABLE: [Row; COLUMNS as usize] = {
            let plain = Row { counter: Counter::PlainHits, roles: &[Role::Entry], samples: &[] };
            let mut table = [plain; COLUMNS as usize];
            let mut column = 1;
            $($(
                row! { table column $source $name [$($role)*] [$($($metric $label)+)?] }
            )*)*
            assert!(column == COLUMNS as usize);
            table
        };
    };
}

/// Makes the enum of those rows whose source is `kernel`.
macro_rules! enumerate {
    ([$([$(#[$doc:meta])*] $name:ident)*]) => {
        /// What the programs count, in the order of the columns. That order may change: both sides come
        /// from the same build.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $name),* }

        /// Every counter, in the order of the columns.
        pub const ALL: [Counter; COLUMNS as usize] = [$(Counter::$name),*];

        /// Number of counters.
        pub const COLUMNS: u32 = [$(stringify!($name)),*].len() as u32;
    };
    ([$($made:tt)*] kernel $name:ident [$($doc:tt)*] $($rest:tt)*) => {
        enumerate! { [$($made)* [$($doc)*] $name] $($rest)* }
    };
    ([$($made:tt)*] $source:tt $name:tt [$($doc:tt)*] $($rest:tt)*) => {
        enumerate! { [$($made)*] $($rest)* }
    };
}

/// Fills the next row of the table, if its source is `kernel`.
macro_rules! row {
    (
        $table:ident $column:ident kernel $name:ident
        [$($role:ident)*] [$($metric:ident $label:literal)*]
    ) => {
        assert!(Counter::$name as usize == $column);
        $table[$column] = Row {
            counter: Counter::$name,
            roles: &[$(role!($role)),*],
            samples: &[$((metric::$metric.name, $label)),*],
        };
        $column += 1;
    };
    ($($other:tt)*) => {};
}

macro_rules! role {
    (entry) => {
        Role::Entry
    };
    (back) => {
        Role::Return
    };
    (lost) => {
        Role::Lost
    };
    (end) => {
        Role::End
    };
}

crate::counters!(define);

/// What is known about a counter.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The counter.
    pub counter: Counter,
    /// Its role in the law of conservation.
    pub roles: &'static [Role],
    /// The samples that it is added to: a metric's name, and the value of its label.
    pub samples: &'static [(&'static str, &'static str)],
}

/// The role of a counter in the law of conservation. Each hit is counted by exactly one [`Entry`] or
/// [`Return`] counter, and by exactly one [`End`].
///
/// [`Entry`]: Self::Entry
/// [`Return`]: Self::Return
/// [`End`]: Self::End
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Hits of breakpoints at entries.
    Entry,
    /// Hits of breakpoints at returns.
    Return,
    /// Hits that the programs have lost.
    Lost,
    /// What became of hits.
    End,
}

impl Row {
    const fn has(&self, wanted: Role) -> bool {
        let mut index = 0;
        while index < self.roles.len() {
            if self.roles[index] as u32 == wanted as u32 {
                return true;
            }
            index += 1;
        }
        false
    }
}

const fn count_of(role: Role) -> usize {
    let (mut column, mut count) = (0, 0);
    while column < TABLE.len() {
        count += TABLE[column].has(role) as usize;
        column += 1;
    }
    count
}

const fn all_of<const N: usize>(role: Role) -> [Counter; N] {
    let mut all = [Counter::PlainHits; N];
    let (mut column, mut count) = (0, 0);
    while column < TABLE.len() {
        if TABLE[column].has(role) {
            all[count] = TABLE[column].counter;
            count += 1;
        }
        column += 1;
    }
    all
}

/// The counters that together count every hit of a breakpoint at an entry, once.
pub const ENTRIES: [Counter; count_of(Role::Entry)] = all_of(Role::Entry);
/// Those that count every hit of a breakpoint at a return, once.
pub const RETURNS: [Counter; count_of(Role::Return)] = all_of(Role::Return);
/// Those that count hits that the programs have lost.
pub const LOST: [Counter; count_of(Role::Lost)] = all_of(Role::Lost);

/// The metrics that show counters, per probe or per CPU.
pub mod metric {
    /// A family of samples, without the `_total` that its samples end with.
    #[derive(Debug, Clone, Copy)]
    pub struct Metric {
        /// Its name.
        pub name: &'static str,
        /// What it is.
        pub help: &'static str,
        /// The label that tells its samples apart, if there are several.
        pub label: Option<&'static str>,
    }

    const fn of(name: &'static str, help: &'static str, label: Option<&'static str>) -> Metric {
        Metric { name, help, label }
    }

    /// Hits.
    pub const HITS: Metric =
        of("faultline_probe_hits", "Times that the probe's breakpoint was hit", None);
    /// Events.
    pub const EVENTS: Metric = of("faultline_probe_events", "Events that were written", None);
    /// Hits left out on request.
    pub const WITHHELD: Metric = of(
        "faultline_probe_withheld",
        "Hits left out by the probe's own where, sample and rate",
        Some("reason"),
    );
    /// Hits that were lost.
    pub const LOST: Metric =
        of("faultline_probe_lost", "Hits of which the event or duration was lost", Some("cause"));
    /// Calls without a duration.
    pub const CALLS_LOST: Metric =
        of("faultline_probe_calls_lost", "Calls of which the duration was lost", Some("cause"));
    /// Reads of memory.
    pub const READS: Metric = of(
        "faultline_probe_reads",
        "Reads of memory for arguments, by how they ended",
        Some("outcome"),
    );
    /// All of them, in the order of a scrape.
    pub const PROBE: [Metric; 6] = [HITS, EVENTS, WITHHELD, LOST, CALLS_LOST, READS];
}

/// One hit in this number is timed, and all of the first ones up to it. A power of two.
pub const TIMED_EVERY: u64 = 64;

/// For how many hits the timing of one stands, before which `before` were counted; 0: it is not timed.
///
/// Without a branch: see where it is used.
#[inline(always)]
pub const fn timing_weight(before: u64) -> u64 {
    const { assert!(TIMED_EVERY.is_power_of_two()) };
    // 1 where the number that is reduced was 0 or negative.
    let is_early = before.wrapping_sub(TIMED_EVERY) >> 63;
    let is_turn = (before & (TIMED_EVERY - 1)).wrapping_sub(1) >> 63;
    is_early | ((is_turn & !is_early) * TIMED_EVERY)
}
