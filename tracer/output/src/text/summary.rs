//! The summary for people: the most important first, and nothing that is zero.

use crate::{
    escape::shown,
    palette::Palette,
    summary::{
        Children, CommandEnd, Cost, Counts, CpuSummary, Dropped, Millis, Ppm, ProbeCaveat,
        ProbeSummary, ReturnsWatched, Summary,
    },
};
use faultline_spec::units::{duration_text, percent_text};
use tracer_common::task::MAX_OPEN_CALLS;

/// Most probes that get a line each. One alone has the figures of the total.
const TABLE: std::ops::RangeInclusive<usize> = 2..=20;

/// From this many hits on, it is worth saying that one CPU carried this share of them.
const MANY_HITS: u64 = 10_000;
const MOST_PERCENT: u128 = 90;

/// A figure and what it means.
struct Row {
    tone: Tone,
    name: &'static str,
    number: u64,
    note: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    /// Something is missing, and the user may want to act.
    Bad,
}

impl Summary {
    /// A headline, a line for each thing that is not zero, and a table of the probes if there are
    /// not too many. Each line ends with a newline.
    #[must_use]
    pub fn text(&self, palette: Palette) -> String {
        let mut rows = Vec::new();
        self.left_out(&mut rows);
        lost(&self.counts.dropped, &mut rows);
        self.reads(&mut rows);
        self.calls(&mut rows);
        if self.probes.len() > *TABLE.end() {
            self.busiest(&mut rows);
        }
        let mut lines = vec![self.headline(palette)];
        lines.extend(aligned(&rows, palette));
        lines.extend(self.sentences().into_iter().map(|text| format!("  {text}")));
        if !self.is_conserved() {
            let Palette { error, reset, .. } = palette;
            lines.push(format!("  {error}these figures do not add up: please report this{reset}"));
        }
        if TABLE.contains(&self.probes.len()) {
            lines.extend(table(&self.probes, palette));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    fn headline(&self, palette: Palette) -> String {
        let Palette { probe: strong, error, reset, .. } = palette;
        let Counts { hits, delivered, dropped, .. } = self.counts;
        let what = match hits {
            0 => format!("{strong}no hits{reset}"),
            _ if delivered == hits => {
                format!("{strong}{} delivered{reset}", counted(hits, "hit", "hits, all"))
            }
            _ => format!("{strong}{}, {delivered} delivered{reset}", counted(hits, "hit", "hits")),
        };
        let lost = match dropped.total() {
            0 => String::new(),
            lost => format!(", {error}{lost} lost{reset}"),
        };
        let stopped = match &*self.stopped_by {
            "" => String::new(),
            by => format!(" ({})", shown(by)),
        };
        format!("{what}{lost} in {}{stopped}", self.duration_ms.text())
    }

    fn left_out(&self, rows: &mut Vec<Row>) {
        let Counts { filtered, sampled_out, throttled, .. } = self.counts;
        let causes = [
            (filtered, "by the condition"),
            (sampled_out, "by sampling"),
            (throttled, "by the rate limit"),
        ];
        let causes: Vec<_> = causes.into_iter().filter(|(number, _)| *number != 0).collect();
        let note = match &causes[..] {
            [] => return,
            [(_, cause)] => (*cause).to_owned(),
            several => listed(several.iter().map(|(number, cause)| format!("{number} {cause}"))),
        };
        let number = causes.iter().map(|(number, _)| number).sum();
        rows.push(Row { tone: Tone::Plain, name: "left out", number, note });
        push(rows, Tone::Bad, "undecided", self.counts.filtered_undecided, || {
            "of these because a value in the condition could not be read".to_owned()
        });
    }

    fn reads(&self, rows: &mut Vec<Row>) {
        let Counts { reads, faults, .. } = self.counts;
        let errnos = [
            (reads.failed_by_errno.efault, "EFAULT (not mapped)"),
            (reads.failed_by_errno.einval, "EINVAL (a negative length)"),
            (reads.failed_by_errno.eagain, "EAGAIN (not resident, and not waited for)"),
        ];
        let errnos: Vec<_> = errnos.into_iter().filter(|(number, _)| *number != 0).collect();
        let why = match &errnos[..] {
            [(_, errno)] => (*errno).to_owned(),
            several => listed(several.iter().map(|(number, errno)| format!("{number} {errno}"))),
        };
        push(rows, Tone::Bad, "unread", reads.failed, || {
            format!("values could not be read: {why}")
        });
        push(rows, Tone::Bad, "cut", reads.truncated, || {
            "values were longer than their limit: raise it, as in str[4096]".to_owned()
        });
        push(rows, Tone::Plain, "faulted in", reads.faulted, || {
            format!(
                "values were not resident: {} faulted in, {} waited",
                counted(faults.count, "page", "pages"),
                duration_text(faults.wait_ns)
            )
        });
    }

    fn calls(&self, rows: &mut Vec<Row>) {
        let returns = self.counts.returns;
        push(rows, Tone::Plain, "unfinished", returns.unfinished, || {
            format!("of {} had not returned", counted(returns.opened, "call", "calls"))
        });
        push(rows, Tone::Plain, "no return", returns.lost, || {
            let detached = self.overhead.as_ref().is_some_and(|overhead| overhead.exceeded > 0);
            let end = if detached { ", or were open when their probe was detached" } else { "" };
            format!(
                "calls did not return, or not as far as faultline can follow: left by a jump or with their \
                 thread, over {MAX_OPEN_CALLS} deep, on another stack, or of \
                 too many tasks at once{end}"
            )
        });
        push(rows, Tone::Plain, "passed", returns.passed, || {
            "hits were at `ret`s of traced functions, but of no call that is followed".to_owned()
        });
    }

    fn busiest(&self, rows: &mut Vec<Row>) {
        let busiest = self.probes.iter().max_by_key(|probe| probe.counts.hits);
        if let Some(ProbeSummary { probe, counts, .. }) = busiest {
            let note = format!("hits at {}, of {} probes hit", shown(probe), self.probes.len());
            rows.push(Row { tone: Tone::Plain, name: "busiest", number: counts.hits, note });
        }
    }

    /// What the hits cost.
    fn cost(&self) -> Option<String> {
        let Cost { handler_ns, estimated_ns } = self.counts.cost;
        let ran_ns = self.duration_ms.0.as_nanos();
        if estimated_ns == 0 || ran_ns == 0 {
            return None;
        }
        let of = match handler_ns {
            0 => String::new(),
            ns => format!(", {} of it in faultline's programs", duration_text(ns)),
        };
        let share = percent_text(estimated_ns as f64 * 100.0 / ran_ns as f64);
        Some(format!("probes took about {}{of}: {share} of one CPU", duration_text(estimated_ns)))
    }

    /// The CPU that carried nearly everything, if there are several.
    fn busiest_cpu(&self) -> Option<String> {
        let CpuSummary { cpu, counts } = self.per_cpu.iter().max_by_key(|cpu| cpu.counts.hits)?;
        let percent = u128::from(counts.hits) * 100 / u128::from(self.counts.hits.max(1));
        (self.cpus > 1 && self.counts.hits >= MANY_HITS && percent >= MOST_PERCENT)
            .then(|| format!("CPU {cpu} of {} carried {percent} % of the hits", self.cpus))
    }

    /// What the overhead budget did, in words.
    fn overhead_text(&self) -> Option<String> {
        let overhead = self.overhead.as_ref()?;
        let share = |ppm: Ppm| format!("{:.2} %", ppm.number());
        let taken = format!(
            "the probes took about {} of all CPUs (at most {}; budget {})",
            share(overhead.mean_percent),
            share(overhead.peak_percent),
            share(overhead.max_percent),
        );
        let done = match overhead.attached_share {
            _ if overhead.exceeded == 0 => String::new(),
            Some(attached) => format!(
                ", and were attached {:.1} % of the time: figures with ~ are estimates",
                attached.number() * 100.0
            ),
            None => format!(
                "; exceeded {}: {} detached, {} attached again, {} still detached at the end",
                counted(overhead.exceeded, "time", "times"),
                counted(overhead.detached, "probe", "probes"),
                overhead.attached_again,
                overhead.away,
            ),
        };
        Some(taken + &done)
    }

    /// Everything that is not a figure.
    fn sentences(&self) -> Vec<String> {
        let deaths = self.deaths.iter().map(|death| shown(&death.0.to_string()));
        let mut sentences: Vec<_> =
            deaths.chain(self.caveats.iter().map(ProbeCaveat::sentence)).collect();
        if self.attach.probes != 0 {
            let slowest = self.attach.slowest.as_ref().map_or_else(String::new, |slowest| {
                format!(", slowest: {}, {}", shown(&slowest.file), slowest.ms.text())
            });
            let grace = self
                .detach
                .grace_ms
                .map_or_else(String::new, |grace| format!(" (grace period {})", grace.text()));
            sentences.push(format!(
                "{} attached in {} ({}{slowest}), detached in {}{grace}",
                counted(self.attach.probes, "probe", "probes"),
                self.attach.ms.text(),
                counted(self.attach.links, "link", "links"),
                self.detach.ms.text(),
            ));
        }
        sentences.extend(self.attach.returns.map(returns_watched));
        sentences.extend(self.cost());
        sentences.extend(self.busiest_cpu());
        if self.attach.skipped != 0 {
            let first = self.skipped.first().map_or_else(String::new, |first| {
                let such_as = if self.attach.skipped == 1 { ":" } else { ", such as" };
                format!("{such_as} {}: {}", shown(&first.probe), shown(&first.reason))
            });
            let skipped = counted(self.attach.skipped, "function", "functions");
            sentences.push(format!("{skipped} not probed{first}"));
        }
        sentences.extend(self.overhead_text());
        sentences.extend(self.children.iter().flat_map(Children::sentences));
        sentences.extend(self.notes.iter().cloned());
        sentences.extend(self.command.map(|end| match end {
            CommandEnd::Code(code) => format!("the command exited with status {code}"),
            CommandEnd::Signal(signal) => format!("the command was killed by signal {signal}"),
        }));
        sentences
    }
}

fn lost(dropped: &Dropped, rows: &mut Vec<Row>) {
    let Dropped { ring_full, output, after_limit, no_entry, undecodable, no_memory, abandoned } =
        *dropped;
    for (name, number, note) in [
        ("ring full", ring_full, "lost before they were read: raise --buffer, or trace less"),
        ("output", output, "lost because the output could not be written"),
        ("after limit", after_limit, "arrived after the last event that was requested"),
        ("no entry", no_entry, "returns of calls whose entry was not seen"),
        ("undecodable", undecodable, "records could not be decoded: please report this"),
        ("no memory", no_memory, "the kernel had no memory for them"),
        ("abandoned", abandoned, "still in flight when the run ended without waiting for them"),
    ] {
        push(rows, Tone::Bad, name, number, || note.to_owned());
    }
}

impl Millis {
    fn text(self) -> String {
        let ns = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        duration_text(ns).to_string()
    }
}

fn push(
    rows: &mut Vec<Row>,
    tone: Tone,
    name: &'static str,
    number: u64,
    note: impl FnOnce() -> String,
) {
    if number != 0 {
        rows.push(Row { tone, name, number, note: note() });
    }
}

/// `1 hit`, `2 hits`.
fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn aligned(rows: &[Row], palette: Palette) -> impl Iterator<Item = String> {
    let name_columns = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let numbers = rows.iter().map(|row| row.number.to_string().len());
    let number_columns = numbers.max().unwrap_or(0);
    rows.iter().map(move |Row { tone, name, number, note }| {
        let (on, off) = if *tone == Tone::Bad { (palette.error, palette.reset) } else { ("", "") };
        format!("  {on}{name:<name_columns$}  {number:>number_columns$}{off}  {note}")
    })
}

/// A column of the table: its head and its figure.
type Column = (&'static str, fn(&Counts) -> u64);

const COLUMNS: [Column; 7] = [
    ("hits", |counts| counts.hits),
    ("delivered", |counts| counts.delivered),
    ("left out", |counts| counts.filtered + counts.sampled_out + counts.throttled),
    ("lost", |counts| counts.dropped.total()),
    ("unread", |counts| counts.reads.failed),
    ("cut", |counts| counts.reads.truncated),
    ("faulted in", |counts| counts.reads.faulted),
];

/// A line a probe, most hits first, without the columns in which all is zero.
fn table(probes: &[ProbeSummary], palette: Palette) -> Vec<String> {
    let columns = COLUMNS
        .iter()
        .filter(|(_, figure)| probes.iter().any(|ProbeSummary { counts, .. }| figure(counts) != 0));
    let columns: Vec<(usize, &Column)> = columns
        .map(|column| {
            let (head, figure) = column;
            let longest = probes.iter().map(|probe| figure(&probe.counts)).max().unwrap_or(0);
            (longest.to_string().len().max(head.len()), column)
        })
        .collect();
    let mut probes: Vec<_> = probes.iter().collect();
    probes.sort_by(|a, b| b.counts.hits.cmp(&a.counts.hits).then_with(|| a.probe.cmp(&b.probe)));
    let Palette { dim, probe: strong, reset, .. } = palette;
    let heads = columns.iter().map(|(width, (head, _))| format!("  {head:>width$}"));
    let mut lines = vec![format!("{dim}{}  probe{reset}", heads.collect::<String>())];
    lines.extend(probes.into_iter().map(|ProbeSummary { probe, counts, .. }| {
        let figures = columns.iter().map(|(width, (_, figure))| {
            let number = figure(counts);
            format!("  {number:>width$}")
        });
        format!("{}  {strong}{}{reset}", figures.collect::<String>(), shown(probe))
    }));
    lines
}

/// How returns were watched.
fn returns_watched(ReturnsWatched { ret, uretprobe }: ReturnsWatched) -> String {
    let functions = counted(ret, "function at its own `ret`s", "functions at their own `ret`s");
    match (ret, uretprobe) {
        (_, 0) => format!("returns watched: {functions}"),
        (0, _) => format!("returns watched: {uretprobe} by the kernel's return probe"),
        _ => format!("returns watched: {functions}, {uretprobe} by the kernel's return probe"),
    }
}
