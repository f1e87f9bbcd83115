//! The figures as a picture: what a hit costs, how it scales, how long attaching takes.

mod svg;

use self::svg::{Anchor, Axis, INK, Plot, Scale, Svg};
use super::{
    Results,
    text::{figure, rate},
};
use faultline_engine::kernel::bench::{
    Batch, Entry, Functions, HitCost, INSTRUCTIONS, Load, Spread, ThreadWork, Throughput, Work,
};
use faultline_spec::units::grouped;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 974.0;
/// Where the lower two plots begin, and what they have in common.
const BELOW: f64 = 534.0;
const LOWER_TOP: f64 = BELOW + 48.0;
const LOWER_BOTTOM: f64 = HEIGHT - 52.0;

// Colours that people with colour blindness can tell apart (Okabe and Ito), on white.
const BLUE: &str = "#0072b2";
const ORANGE: &str = "#e69f00";
const GREEN: &str = "#009e73";
const RED: &str = "#d55e00";
const PURPLE: &str = "#aa508c";
const GREY: &str = "#828282";

/// The programs that are shown, each with its colour.
const SHOWN: [(Work, &str); 6] = [
    (Work::Empty { sleepable: false }, GREY),
    (Work::Count, BLUE),
    (Work::Event { args: 1 }, GREEN),
    (Work::EventString, ORANGE),
    (Work::EmptyReturn { sleepable: false }, PURPLE),
    (Work::Latency, RED),
];

/// Draws all that was measured, as SVG.
pub(super) fn draw(results: &Results) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT);
    head(&mut svg, results);
    hits(&mut svg, results.hits.as_deref().unwrap_or_default());
    svg.title(
        (16.0, BELOW + 17.0),
        16,
        "Threads at once, one per CPU: speed relative to one thread",
    );
    if let Some(most) = results.most_threads() {
        scaling(&mut svg, results.throughput.as_deref().unwrap_or_default(), most);
    }
    svg.title((WIDTH / 2.0 + 16.0, BELOW + 17.0), 16, "Attaching and detaching (logarithmic)");
    let batches = results.batches.as_ref().map(|found| found.batches.as_slice());
    self::batches(&mut svg, batches.unwrap_or_default());
    svg.finish()
}

fn head(svg: &mut Svg, results: &Results) {
    let host = &results.host;
    let virtualised = match host.virtualised {
        Some(true) => ", virtual machine",
        Some(false) => ", not virtualised",
        None => "",
    };
    let what = format!(
        "Linux {} ({}), {}, {} CPUs{virtualised} · faultline {}",
        host.kernel, host.arch, host.cpu_model, host.cpus, host.faultline
    );
    svg.title((16.0, 29.0), 20, "What a probe costs on this host");
    svg.text((16.0, 52.0), 13, Anchor::Start, &what);
}

/// Decades that hold all the values: a logarithmic axis from one to the other.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for value in values.filter(|value| *value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    if high == 0.0 {
        return (1.0, 10.0);
    }
    // Room for what stands above the highest.
    (10_f64.powf(low.log10().floor()), high * 1.6)
}

/// A group of bars for each instruction.
fn hits(svg: &mut Svg, hits: &[HitCost]) {
    let title = "Nanoseconds per call, by the instruction under the breakpoint (logarithmic)";
    svg.title((16.0, 83.0), 16, title);
    let mut x = 74.0;
    for (work, colour) in SHOWN {
        svg.rectangle((x, 99.0), 12.0, 12.0, colour);
        svg.text((x + 18.0, 110.0), 13, Anchor::Start, work.name());
        x += 48.0 + text_width(work.name());
    }
    let shown = hits.iter().filter(|hit| SHOWN.iter().any(|(work, _)| *work == hit.work));
    let (from, to) = decades(shown.map(|hit| hit.ns.median));
    let groups = INSTRUCTIONS.len() as f64;
    let plot = Plot {
        left: 74.0,
        right: WIDTH - 16.0,
        top: 144.0,
        bottom: 494.0,
        x: Axis { name: "", from: 0.0, to: groups, scale: Scale::Linear, label: figure },
        y: Axis { name: "ns a call", from, to, scale: Scale::Logarithmic, label: figure },
    };
    plot.draw_axes(svg);
    let bar = 0.86 / SHOWN.len() as f64;
    for (group, instruction) in INSTRUCTIONS.iter().enumerate() {
        for (number, (work, colour)) in SHOWN.into_iter().enumerate() {
            let of = |hit: &&HitCost| hit.work == work && hit.instruction.id == instruction.id;
            let Some(hit) = hits.iter().find(of) else { continue };
            let x = group as f64 + 0.07 + number as f64 * bar;
            let (left, top) = plot.at(x, hit.ns.median);
            let (right, bottom) = plot.at(x + bar * 0.88, from);
            svg.rectangle((left, top), right - left, bottom - top, colour);
            let above = (f64::midpoint(left, right), top - 4.0);
            svg.text(above, 10, Anchor::Middle, &figure_short(hit.ns.median));
        }
        let (x, y) = plot.at(group as f64 + 0.5, from);
        svg.text((x, y + 22.0), 14, Anchor::Middle, instruction.name);
    }
}

/// What stands above a bar has to be short: `118`, `9.8k`.
fn figure_short(value: f64) -> String {
    match value {
        value if value >= 9_999.5 => format!("{:.1}k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => figure(value),
    }
}

/// Roughly: seven pixels a letter of size 13.
fn text_width(text: &str) -> f64 {
    7.0 * text.chars().count() as f64
}

/// A line of a plot, and what is said about it.
struct Line {
    key: String,
    colour: &'static str,
    points: Vec<(f64, f64)>,
    is_dashed: bool,
}

/// The lines, each figure a dot, and their keys one below the other at the lower right, where few
/// lines pass.
fn lines(svg: &mut Svg, plot: &Plot, lines: &[Line]) {
    for line in lines {
        let points: Vec<_> = line.points.iter().map(|(x, y)| plot.at(*x, *y)).collect();
        if line.is_dashed {
            svg.line(&points, line.colour, 1.0, "6 4");
            continue;
        }
        svg.line(&points, line.colour, 2.0, "");
        points.iter().for_each(|point| svg.dot(*point, line.colour));
    }
    let longest = lines.iter().map(|line| text_width(&line.key)).fold(0.0, f64::max);
    let height = 19.0 * lines.len() as f64;
    let (left, top) = (plot.right - 44.0 - longest, plot.bottom - 16.0 - height);
    svg.rectangle((left - 8.0, top), longest + 44.0, height + 6.0, "white");
    for (number, line) in lines.iter().enumerate() {
        let y = top + 17.0 + 19.0 * number as f64;
        let (width, dashes) = if line.is_dashed { (1.0, "6 4") } else { (3.0, "") };
        svg.line(&[(left, y - 5.0), (left + 20.0, y - 5.0)], line.colour, width, dashes);
        svg.text((left + 28.0, y), 13, Anchor::Start, &line.key);
    }
}

/// The lines of the plot of threads.
const LOADS: [(&str, ThreadWork, Functions, bool, &str); 5] = [
    ("no probe: arithmetic", ThreadWork::None, Functions::Distinct, false, GREY),
    ("count, a function each", ThreadWork::Count, Functions::Distinct, false, BLUE),
    ("count, all one function", ThreadWork::Count, Functions::Same, false, GREEN),
    ("trace, a function each", ThreadWork::Event, Functions::Distinct, false, RED),
    ("count, mmap beside", ThreadWork::Count, Functions::Distinct, true, PURPLE),
];

fn scaling(svg: &mut Svg, found: &[Throughput], most: usize) {
    let most = most as f64;
    let fastest = found.iter().map(|found| found.scaling.median * found.load.threads as f64);
    let top = fastest.fold(most, f64::max) * 1.12;
    let number = |value: f64| value.to_string();
    let plot = Plot {
        left: 66.0,
        right: WIDTH / 2.0 - 20.0,
        top: LOWER_TOP,
        bottom: LOWER_BOTTOM,
        x: Axis {
            name: "threads",
            from: 1.0,
            to: most.max(1.2),
            scale: Scale::Whole,
            label: number,
        },
        y: Axis {
            name: "times the calls/s of one thread",
            from: 0.0,
            to: top,
            scale: Scale::Linear,
            label: number,
        },
    };
    plot.draw_axes(svg);
    let mut shown = vec![Line {
        key: "ideal (dashed)".to_owned(),
        colour: INK,
        points: vec![(1.0, 1.0), (most, most)],
        is_dashed: true,
    }];
    for (name, work, functions, mapping, colour) in LOADS {
        // Of a program that has both, the way that traps: most functions begin with such.
        let entry = match work {
            ThreadWork::None | ThreadWork::Event => Entry::Fast,
            ThreadWork::Empty | ThreadWork::Count => Entry::Trap,
        };
        let of = |threads| Load { work, entry, functions, mapping, threads };
        let points: Vec<_> = found
            .iter()
            .filter(|found| found.load == of(found.load.threads))
            .map(|found| {
                let threads = found.load.threads as f64;
                (threads, found.scaling.median * threads)
            })
            .collect();
        let one = found.iter().find(|found| found.load == of(1));
        let (Some(one), Some((_, last))) = (one, points.last()) else { continue };
        let key = format!("{name}: ×{last:.2} (one: {}/s)", rate(one.calls_per_s.median));
        shown.push(Line { key, colour, points, is_dashed: false });
    }
    lines(svg, &plot, &shown);
}

/// The lines of the plot of batches.
type OfBatch = (&'static str, fn(&Batch) -> Spread, bool, &'static str);

fn batches(svg: &mut Svg, batches: &[Batch]) {
    let Some(most) = batches.iter().map(|batch| batch.probes).max() else { return };
    let values = batches.iter().flat_map(|batch| [batch.attach_ms.median, batch.detach_ms.median]);
    let (low, to) = decades(values);
    let plot = Plot {
        left: WIDTH / 2.0 + 74.0,
        right: WIDTH - 32.0,
        top: LOWER_TOP,
        bottom: LOWER_BOTTOM,
        x: Axis {
            name: "probes",
            from: 1.0,
            to: (most as f64).max(2.0),
            scale: Scale::Logarithmic,
            label: |probes| grouped(probes.round() as u64),
        },
        y: Axis {
            name: "milliseconds",
            // Room for the keys below the lines.
            from: low / 100.0,
            to,
            scale: Scale::Logarithmic,
            label: |ms| ms.to_string(),
        },
    };
    plot.draw_axes(svg);
    let of_batch: [OfBatch; 4] = [
        ("attach", |batch| batch.attach_ms, false, BLUE),
        ("attach beside faults", |batch| batch.attach_ms, true, GREEN),
        ("detach", |batch| batch.detach_ms, false, RED),
        ("detach beside faults", |batch| batch.detach_ms, true, ORANGE),
    ];
    let mut shown = Vec::new();
    for (name, of, beside_faults, colour) in of_batch {
        let points: Vec<_> = batches
            .iter()
            .filter(|batch| batch.beside_faults == beside_faults)
            .map(|batch| (batch.probes as f64, of(batch).median))
            .collect();
        let Some((_, last)) = points.last() else { continue };
        let key = format!("{name}: {} in {} ms", grouped(most as u64), figure(*last));
        shown.push(Line { key, colour, points, is_dashed: false });
    }
    lines(svg, &plot, &shown);
}
