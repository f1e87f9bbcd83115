//! The figures as tables, for people.

use super::{advice::Advice, table::Table};
use faultline_engine::kernel::bench::{
    Batches, Check, Functions, HitCost, Host, INSTRUCTIONS, Load, Spread, ThreadWork, Throughput,
    Work,
};
use faultline_spec::units::{duration_text, grouped};

/// Marks a case whose figure is not to be trusted.
const UNTRUE: &str = "!";

/// The machine, in a line.
pub(super) fn host(host: &Host, colour: bool) -> String {
    let virtualised = match host.virtualised {
        Some(true) => ", a virtual machine",
        Some(false) => ", not virtualised",
        None => "",
    };
    let load = host.load_average.map_or_else(String::new, |load| format!(", load {load:.1}"));
    let (strong, reset) = if colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    format!(
        "{strong}faultline {} on Linux {} ({}), {}, {} CPU{}{virtualised}{load}{reset}\n",
        host.faultline,
        host.kernel,
        host.arch,
        host.cpu_model.escape_debug(),
        host.cpus,
        if host.cpus == 1 { "" } else { "s" },
    )
}

fn title(text: &str, colour: bool) -> String {
    let (strong, reset) = if colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    format!("\n{strong}{text}{reset}\n")
}

/// What a hit costs: a line a program, a column an instruction.
pub(super) fn hits(hits: &[HitCost], colour: bool) -> String {
    let head = std::iter::once("").chain(INSTRUCTIONS.iter().map(|kind| kind.name));
    let mut table = Table::new(1, head);
    for work in Work::ALL {
        let cells = INSTRUCTIONS.iter().filter_map(|kind| {
            let hit = hits.iter().find(|hit| hit.work == work && hit.instruction.id == kind.id)?;
            Some(format!("{}{}", spread(hit.ns), mark(hit.check)))
        });
        let cells: Vec<_> = cells.collect();
        if !cells.is_empty() {
            table.row(std::iter::once(work.name().to_owned()).chain(cells));
        }
    }
    let title =
        title("ns per call, by the instruction under the breakpoint: median (min..max)", colour);
    title + &table.text(colour)
}

/// What threads reach: a line a case.
pub(super) fn throughput(found: &[Throughput], colour: bool) -> String {
    let mut numbers: Vec<_> =
        found.iter().filter(|found| !found.load.mapping).map(|found| found.load.threads).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let most = numbers.last().copied().unwrap_or(1);
    let several = most > 1;
    let mut head: Vec<_> =
        ["", "begins with", "functions", "ns per call, 1 thread"].map(str::to_owned).to_vec();
    if several {
        head.push(format!("{most} threads"));
    }
    head.push(format!("calls/s, {most} thread{}", if several { "s" } else { "" }));
    head.extend(numbers.iter().skip(1).map(|threads| format!("scaling, {threads}")));
    if several {
        head.extend(["by CPU time".to_owned(), "on CPU".to_owned()]);
    }
    let mut table = Table::new(3, head);
    let quiet = |found: &&Throughput| found.load.threads == 1 && !found.load.mapping;
    for first in found.iter().filter(quiet) {
        let of = |threads| Load { threads, ..first.load };
        let row = numbers.iter().filter_map(|threads| with_load(found, of(*threads)));
        let row: Vec<_> = row.collect();
        let Some(last) = row.last() else { continue };
        let mut cells = names(&row).to_vec();
        cells.push(spread(first.ns));
        if several {
            cells.push(spread(last.ns));
        }
        cells.push(rate(last.calls_per_s.median));
        cells.extend(row.iter().skip(1).map(|found| ratio(found.scaling)));
        if several {
            cells.push(format!("{:.2}", last.cpu_scaling.median));
            cells.push(format!("{:.0}%", last.on_cpu.median * 100.0));
        }
        table.row(cells);
    }
    title("several threads, each on its own CPU", colour)
        + &table.text(colour)
        + &beside_mappings(found, colour)
}

/// What a thread that maps memory does to the others: a line a case.
fn beside_mappings(found: &[Throughput], colour: bool) -> String {
    let head =
        ["", "begins with", "functions", "threads", "ns per call, alone", "beside", "speed left"];
    let mut table = Table::new(3, head);
    let mut rate_of_mapping = None;
    for beside in found.iter().filter(|found| found.load.mapping) {
        let alone = with_load(found, Load { mapping: false, ..beside.load });
        rate_of_mapping = rate_of_mapping.or(beside.mappings_per_s);
        let mut cells = names(&[beside]).to_vec();
        cells.extend([
            beside.load.threads.to_string(),
            // The numbers of threads need not be among those that were measured alone.
            alone.map_or_else(|| "?".to_owned(), |alone| spread(alone.ns)),
            spread(beside.ns),
            ratio(beside.scaling),
        ]);
        table.row(cells);
    }
    let Some(mapping) = rate_of_mapping else { return String::new() };
    let words = format!(
        "while another thread of the process maps and unmaps memory, {} times a second",
        rate(mapping)
    );
    title(&words, colour) + &table.text(colour)
}

fn with_load(found: &[Throughput], load: Load) -> Option<&Throughput> {
    found.iter().find(|found| found.load == load)
}

/// The names of a case, marked if one of its figures is not to be trusted.
fn names(row: &[&Throughput]) -> [String; 3] {
    let Some(Throughput { load, .. }) = row.first() else { return Default::default() };
    let failed = row.iter().any(|found| found.check.is_some_and(|check| !check.holds()));
    [
        format!("{}{}", load.work.name(), if failed { UNTRUE } else { "" }),
        if load.work == ThreadWork::None { "" } else { load.entry.id() }.to_owned(),
        if load.functions == Functions::Same { "the same" } else { "one each" }.to_owned(),
    ]
}

/// Attaching and detaching: a line a number of probes.
pub(super) fn batches(found: &Batches, colour: bool) -> String {
    let mut head = vec!["probes", "links", "attach, ms", "detach, ms"];
    if found.faulting.is_some() {
        head.extend(["attach beside faults", "detach beside faults"]);
    }
    let mut table = Table::new(0, head);
    for batch in found.batches.iter().filter(|batch| !batch.beside_faults) {
        let mut cells = vec![
            format!("{}{}", grouped(batch.probes as u64), mark(Some(batch.check))),
            batch.links.to_string(),
            spread(batch.attach_ms),
            spread(batch.detach_ms),
        ];
        let beside =
            found.batches.iter().find(|other| other.beside_faults && other.probes == batch.probes);
        if let Some(beside) = beside {
            cells.extend([spread(beside.attach_ms), spread(beside.detach_ms)]);
        }
        table.row(cells);
    }
    let mut text =
        title("attaching and detaching, including all waits", colour) + &table.text(colour);
    if let Some(faulting) = found.faulting {
        text.push_str(&format!(
            "beside faults: another thread's handler waited for {} pages, {} each\n",
            grouped(faulting.faults),
            duration_text(faulting.wait_ns),
        ));
    }
    text
}

/// What the figures mean.
pub(super) fn advice(advice: &[Advice], complete: bool, colour: bool) -> String {
    let mut text = String::new();
    if !complete {
        text.push_str("\ninterrupted: the rest was not measured\n");
    }
    for (number, Advice { text: words, .. }) in advice.iter().enumerate() {
        let (warn, reset) = if colour { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
        text.push_str(if number == 0 { "\n" } else { "" });
        text.push_str(&format!("{warn}*{reset} {words}\n"));
    }
    text
}

fn mark(check: Option<Check>) -> &'static str {
    if check.is_some_and(|check| !check.holds()) { UNTRUE } else { "" }
}

/// `480 (450..510)`.
fn spread(Spread { median, min, max }: Spread) -> String {
    format!("{} ({}..{})", figure(median), figure(min), figure(max))
}

fn ratio(Spread { median, min, max }: Spread) -> String {
    format!("{median:.2} ({min:.2}..{max:.2})")
}

/// Three digits at least where there are that many.
pub(super) fn figure(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => grouped(value.round() as u64),
    }
}

/// `7.1M`.
pub(super) fn rate(a_second: f64) -> String {
    match a_second {
        rate if rate >= 1e9 => format!("{:.1}G", rate / 1e9),
        rate if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.0}k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that figures keep their leading digits.
    #[test]
    fn figures() {
        assert_eq!([1.234, 12.34, 123.4, 12_345.6].map(figure), ["1.23", "12.3", "123", "12,346"]);
        assert_eq!([0.0, 1_500.0, 7.14e6, 2e9].map(rate), ["0", "2k", "7.1M", "2.0G"]);
    }
}
