//! The figures, for people and for programs.

use super::cases::{CASES, Case, EMPTY, Group, STARTS, Tool, What};
use super::goals::goals;
use super::measure::{Run, Traced, Whole};
use super::sample::Sample;
use super::{CALLS, Measured, machine};

/// Everything measured, by case.
pub(super) struct Figures<'a> {
    measured: &'a Measured,
}

/// One case and its rounds.
pub(super) struct CaseFigures<'a> {
    case: &'a Case,
    runs: &'a [Run],
}

impl<'a> Figures<'a> {
    fn all(&self) -> impl Iterator<Item = CaseFigures<'a>> + use<'a> {
        CASES.iter().zip(&self.measured.cases).map(|(case, runs)| CaseFigures { case, runs })
    }

    fn group(&self, group: Group) -> impl Iterator<Item = CaseFigures<'a>> + use<'a> {
        self.all().filter(move |figures| figures.case.group == group)
    }

    /// How one whole process compares with another, by a figure of theirs.
    pub(super) fn process_ratio(
        &self,
        one: &str,
        other: &str,
        figure: impl Fn(&Whole) -> f64,
    ) -> Option<Sample> {
        let of = |name: &str| {
            let index = STARTS.iter().position(|start| start.name == name)?;
            let runs = self.measured.starts.get(index)?;
            Some(runs.iter().map(&figure).collect::<Vec<_>>())
        };
        Some(Sample::of_ratios(&of(one)?, &of(other)?))
    }

    pub(super) fn case(&self, group: Group, name: &str) -> Option<CaseFigures<'a>> {
        self.group(group).find(|figures| figures.case.name == name)
    }
}

impl CaseFigures<'_> {
    fn ns(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.ns_a_call).collect()
    }

    fn of_tracer(&self, figure: impl Fn(&Traced) -> f64) -> Sample {
        Sample::of(self.tracer_rounds(figure))
    }

    fn tracer_rounds(&self, figure: impl Fn(&Traced) -> f64) -> Vec<f64> {
        self.runs.iter().filter_map(|run| run.tracer.as_ref()).map(figure).collect()
    }

    /// Lines that a round should have.
    fn expected(&self) -> u64 {
        self.case.lines() * CALLS
    }

    /// Lines that are missing, whatever the tracer says.
    pub(super) fn lost(&self) -> Sample {
        self.of_tracer(|traced| self.expected() as f64 - traced.lines as f64)
    }

    pub(super) fn ns_ratio(&self, to: &Self) -> Sample {
        Sample::of_ratios(&self.ns(), &to.ns())
    }

    pub(super) fn user_ratio(&self, to: &Self) -> Sample {
        let user = |figures: &Self| figures.tracer_rounds(|traced| traced.work.user_s);
        Sample::of_ratios(&user(self), &user(to))
    }

    fn has_tracer(&self) -> bool {
        matches!(self.case.what, What::Tracer { .. })
    }
}

/// Writes what people read to stdout.
pub(super) fn text(measured: &Measured) {
    let figures = Figures { measured };
    for (name, value) in machine() {
        println!("{name:<10} {value}");
    }
    println!("{:<10} {} before, {} after", "load", measured.load_before, measured.load_after);
    let rounds = measured.cases.first().map_or(0, Vec::len);
    println!("{:<10} {rounds}, each {CALLS} calls a case; median (smallest..largest)", "rounds");
    for group in Group::ALL {
        println!("\n{}:", group.title());
        table(&calls(&figures, group));
    }
    println!("\nfrom start to end, one u64 argument where there is a probe:");
    table(&starts(&figures));
    println!("\ngoals:");
    for goal in goals(&figures) {
        let reached = if goal.reached { "reached    " } else { "NOT reached" };
        println!("  {reached}  {}: {}", goal.goal, goal.measured);
    }
}

fn calls(figures: &Figures<'_>, group: Group) -> Vec<Vec<String>> {
    let heads = [
        "",
        "ns a call",
        "to empty",
        "delivered",
        "lost",
        "said lost",
        "user s",
        "system s",
        "whole run",
        "MiB",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let empty = figures.case(group, EMPTY);
    for case in figures.group(group) {
        let mut row = vec![case.case.name.to_owned(), Sample::of(case.ns()).text(0)];
        row.push(empty.as_ref().map_or_else(String::new, |to| case.ns_ratio(to).text(2)));
        if case.has_tracer() {
            let (delivered, lost, said) = if case.expected() == 0 {
                (String::new(), String::new(), String::new())
            } else {
                let delivered = case.of_tracer(|traced| traced.lines as f64);
                let said = case.of_tracer(|traced| traced.told_lost as f64);
                let lost = case.lost();
                let percent = 100.0 * delivered.median / case.expected() as f64;
                (format!("{percent:.1} %"), lost.text(0), format!("{:.0}", said.median))
            };
            let user = case.of_tracer(|traced| traced.whole.user_s).median;
            let system = case.of_tracer(|traced| traced.whole.system_s).median;
            row.extend([
                delivered,
                lost,
                said,
                case.of_tracer(|traced| traced.work.user_s).text(2),
                case.of_tracer(|traced| traced.work.system_s).text(2),
                format!("{user:.2} + {system:.2}"),
                format!(
                    "{:.0}",
                    case.of_tracer(|traced| traced.peak_rss_kib as f64).median / 1024.0
                ),
            ]);
        }
        rows.push(row);
    }
    rows
}

fn starts(figures: &Figures<'_>) -> Vec<Vec<String>> {
    let mut rows = vec![["", "ms", "MiB"].map(str::to_owned).to_vec()];
    for case in figures.group(Group::Number) {
        let What::Tracer { tool, lines, .. } = case.case.what else { continue };
        if lines == 0 {
            continue;
        }
        let name = tool_name(tool);
        let attached = case.of_tracer(|traced| traced.attached_ms);
        let detach = case.of_tracer(|traced| traced.detach_ms);
        rows.push(vec![format!("{name}: start to attached"), attached.text(0)]);
        rows.push(vec![format!("{name}: SIGINT to end"), detach.text(0)]);
    }
    for (start, runs) in STARTS.iter().zip(&figures.measured.starts) {
        let ms = Sample::of(runs.iter().map(|run| run.ms)).text(0);
        let mib = Sample::of(runs.iter().map(|run| run.peak_rss_kib / 1024.0)).text(0);
        rows.push(vec![start.name.to_owned(), ms, mib]);
    }
    rows
}

fn tool_name(tool: Tool) -> &'static str {
    match tool {
        Tool::Faultline(_) => "faultline",
        Tool::Bpftrace => "bpftrace",
    }
}

/// Prints rows in columns: a Markdown table, which is as readable as any.
fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let width =
        |column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = widths
            .iter()
            .enumerate()
            .map(|(column, &width)| {
                let text = cell(row, column);
                if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
            })
            .collect();
        println!("| {} |", cells.join(" | "));
        if index == 0 {
            let lines: Vec<_> = widths
                .iter()
                .enumerate()
                .map(|(column, &width)| {
                    if column == 0 {
                        "-".repeat(width + 2)
                    } else {
                        format!("{}:", "-".repeat(width + 1))
                    }
                })
                .collect();
            println!("|{}|", lines.join("|"));
        }
    }
}

/// Writes one JSON object a line to stdout.
pub(super) fn json(measured: &Measured) {
    let figures = Figures { measured };
    let mut machine = machine();
    machine.push(("load_before", measured.load_before.clone()));
    machine.push(("load_after", measured.load_after.clone()));
    let machine: Vec<_> =
        machine.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    println!(r#"{{"type":"machine",{}}}"#, machine.join(","));
    for case in figures.all() {
        println!("{}", case_json(&figures, &case));
    }
    for (start, runs) in STARTS.iter().zip(&measured.starts) {
        let ms = Sample::of(runs.iter().map(|run| run.ms)).json();
        let kib = Sample::of(runs.iter().map(|run| run.peak_rss_kib)).json();
        let name = quoted(start.name);
        println!(r#"{{"type":"process","name":{name},"ms":{ms},"peak_rss_kib":{kib}}}"#);
    }
    for goal in goals(&figures) {
        println!(
            r#"{{"type":"goal","goal":{},"measured":{},"reached":{}}}"#,
            quoted(goal.goal),
            quoted(&goal.measured),
            goal.reached
        );
    }
}

fn case_json(figures: &Figures<'_>, case: &CaseFigures<'_>) -> String {
    let mut members = vec![
        r#""type":"case""#.to_owned(),
        format!(r#""function":{}"#, quoted(case.case.group.function())),
        format!(r#""name":{}"#, quoted(case.case.name)),
        format!(r#""calls":{CALLS},"rounds":{}"#, case.runs.len()),
        format!(r#""ns_a_call":{}"#, Sample::of(case.ns()).json()),
    ];
    if let Some(empty) = figures.case(case.case.group, EMPTY) {
        members.push(format!(r#""ratio_to_empty":{}"#, case.ns_ratio(&empty).json()));
    }
    if case.has_tracer() {
        let mut member = |name: &str, figure: fn(&Traced) -> f64| {
            members.push(format!(r#""{name}":{}"#, case.of_tracer(figure).json()));
        };
        member("delivered", |traced| traced.lines as f64);
        member("said_lost", |traced| traced.told_lost as f64);
        member("user_s", |traced| traced.work.user_s);
        member("system_s", |traced| traced.work.system_s);
        member("whole_user_s", |traced| traced.whole.user_s);
        member("whole_system_s", |traced| traced.whole.system_s);
        member("peak_rss_kib", |traced| traced.peak_rss_kib as f64);
        member("attached_ms", |traced| traced.attached_ms);
        member("detach_ms", |traced| traced.detach_ms);
        members.push(format!(r#""expected":{}"#, case.expected()));
        members.push(format!(r#""lost":{}"#, case.lost().json()));
    }
    format!("{{{}}}", members.join(","))
}

/// A JSON string. All texts here are the project's own or a version: nothing needs more.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push(' '),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}
