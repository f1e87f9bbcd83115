//! The figures as a picture: what a hit costs, how it scales, how long attaching takes.

use plotters::{
    coord::Shift,
    element::{Circle, PathElement, Rectangle, Text},
    prelude::{
        BLACK, ChartBuilder, Color, DrawingArea, IntoDrawingArea as _, IntoFont as _,
        IntoLogRange as _, LineSeries, RGBColor, SVGBackend, WHITE,
    },
    style::{
        FontStyle, ShapeStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    Results,
    text::{figure, rate},
};
use faultline_engine::kernel::bench::{
    Batch, Entry, Functions, HitCost, INSTRUCTIONS, Load, Spread, ThreadWork, Work,
};
use faultline_spec::units::grouped;

const WIDTH: u32 = 1120;
const HEAD: u32 = 64;
const HITS: u32 = 470;
const BELOW: u32 = 440;

/// Colours that people with colour blindness can tell apart (Okabe and Ito), on white.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const RED: RGBColor = RGBColor(213, 94, 0);
const PURPLE: RGBColor = RGBColor(170, 80, 140);
const GREY: RGBColor = RGBColor(130, 130, 130);
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);

/// The programs that are shown, each with its colour.
const SHOWN: [(Work, RGBColor); 6] = [
    (Work::Empty { sleepable: false }, GREY),
    (Work::Count, BLUE),
    (Work::Event { args: 1 }, GREEN),
    (Work::EventString, ORANGE),
    (Work::EmptyReturn { sleepable: false }, PURPLE),
    (Work::Latency, RED),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws all that was measured, as SVG.
///
/// # Errors
///
/// None that figures can cause: it is drawn into memory.
pub(super) fn draw(results: &Results) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEAD + HITS + BELOW));
        paint(&root.into_drawing_area(), results)
            .map_err(|error| anyhow::anyhow!("failed to draw the picture: {error}"))?;
    }
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn paint(root: &Area<'_>, results: &Results) -> Drawn {
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(HEAD);
    let (hits, below) = rest.split_vertically(HITS);
    let (left, right) = below.split_horizontally(WIDTH / 2);
    paint_head(&head, results)?;
    paint_hits(&hits, results.hits.as_deref().unwrap_or_default())?;
    paint_scaling(&left, results)?;
    let batches = results.batches.as_ref().map(|found| found.batches.as_slice());
    paint_batches(&right, batches.unwrap_or_default())?;
    root.present()?;
    Ok(())
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn at(style: &TextStyle<'static>, h: HPos, v: VPos) -> TextStyle<'static> {
    style.pos(Pos::new(h, v))
}

fn title(area: &Area<'_>, text: &str) -> Drawn {
    let style = ("sans-serif", 17).into_font().style(FontStyle::Bold).color(&INK);
    area.draw(&Text::new(text.to_owned(), (16, 6), style))?;
    Ok(())
}

fn paint_head(area: &Area<'_>, results: &Results) -> Drawn {
    let host = &results.host;
    let style = ("sans-serif", 22).into_font().style(FontStyle::Bold).color(&INK);
    area.draw(&Text::new("What a probe costs on this host", (16, 12), style))?;
    let virtualised = match host.virtualised {
        Some(true) => ", virtual machine",
        Some(false) => ", not virtualised",
        None => "",
    };
    let what = format!(
        "Linux {} ({}), {}, {} CPUs{virtualised} · faultline {}",
        host.kernel, host.arch, host.cpu_model, host.cpus, host.faultline
    );
    area.draw(&Text::new(what, (16, 42), font(14)))?;
    Ok(())
}

/// Small squares with names, in a row.
fn legend(area: &Area<'_>, at: (i32, i32), names: &[(&str, RGBColor)]) -> Drawn {
    let (mut x, y) = at;
    for (name, colour) in names {
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled()))?;
        area.draw(&Text::new((*name).to_owned(), (x + 18, y - 1), font(13)))?;
        // Some seven pixels a letter.
        x += 18 + 7 * name.chars().count() as i32 + 18;
    }
    Ok(())
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
    (10_f64.powf(low.log10().floor()), 10_f64.powf((high * 1.6).log10()))
}

fn paint_hits(area: &Area<'_>, hits: &[HitCost]) -> Drawn {
    title(area, "Nanoseconds a call, by the instruction under the breakpoint (logarithmic)")?;
    let names: Vec<_> = SHOWN.iter().map(|(work, colour)| (work.name(), *colour)).collect();
    legend(area, (70, 36), &names)?;
    let cost = |work, id| {
        hits.iter().find(|hit| hit.work == work && hit.instruction.id == id).map(|hit| hit.ns)
    };
    let shown = hits.iter().filter(|hit| SHOWN.iter().any(|(work, _)| *work == hit.work));
    let (low, high) = decades(shown.map(|hit| hit.ns.median));
    let groups = INSTRUCTIONS.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(62)
        .margin_left(10)
        .margin_right(16)
        .margin_bottom(6)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..groups, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("ns a call")
        .y_label_formatter(&|ns| figure(*ns))
        .axis_style(GREY)
        .bold_line_style(FAINT)
        .light_line_style(WHITE)
        .label_style(font(13))
        .axis_desc_style(font(14))
        .draw()?;
    let bar = 0.86 / SHOWN.len() as f64;
    for (group, instruction) in INSTRUCTIONS.iter().enumerate() {
        for (number, (work, colour)) in SHOWN.iter().enumerate() {
            let Some(ns) = cost(*work, instruction.id) else { continue };
            let left = group as f64 + 0.07 + number as f64 * bar;
            let (from, to) = ((left, low), (left + bar * 0.88, ns.median));
            chart.draw_series([Rectangle::new([from, to], colour.filled())])?;
            let middle = left + bar * 0.44;
            let above = at(&font(11), HPos::Center, VPos::Bottom);
            let label = Text::new(figure_short(ns.median), (middle, ns.median * 1.03), above);
            chart.draw_series([label])?;
        }
        let below = at(&font(15), HPos::Center, VPos::Top);
        let (x, y) = chart.backend_coord(&(group as f64 + 0.5, low));
        let (base_x, base_y) = area.get_base_pixel();
        let name = instruction.name.to_owned();
        area.draw(&Text::new(name, (x - base_x, y - base_y + 10), below))?;
    }
    Ok(())
}

/// What stands above a bar has to be short: `118`, `9.8k`.
fn figure_short(value: f64) -> String {
    match value {
        value if value >= 9_999.5 => format!("{:.1}k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => figure(value),
    }
}

/// The lines of the picture of threads.
const LINES: [(&str, ThreadWork, Functions, bool, RGBColor); 5] = [
    ("no probe: arithmetic", ThreadWork::None, Functions::Distinct, false, GREY),
    ("count, a function each", ThreadWork::Count, Functions::Distinct, false, BLUE),
    ("count, all one function", ThreadWork::Count, Functions::Same, false, GREEN),
    ("trace, a function each", ThreadWork::Event, Functions::Distinct, false, RED),
    ("count, mmap beside", ThreadWork::Count, Functions::Distinct, true, PURPLE),
];

fn paint_scaling(area: &Area<'_>, results: &Results) -> Drawn {
    title(area, "Threads at once, one a CPU: speed over that of one")?;
    let Some(most) = results.most_threads() else { return Ok(()) };
    let found = results.throughput.as_deref().unwrap_or_default();
    let fastest = found.iter().map(|found| found.scaling.median * found.load.threads as f64);
    let top = fastest.fold(most as f64, f64::max) * 1.12;
    let mut chart = ChartBuilder::on(area)
        .margin_top(36)
        .margin_left(10)
        .margin_right(20)
        .margin_bottom(8)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(1.0..(most as f64).max(1.2), 0.0..top)?;
    let whole = |value: &f64| {
        if value.fract().abs() < 1e-6 { format!("{value:.0}") } else { format!("{value:.1}") }
    };
    chart
        .configure_mesh()
        .x_labels(most.min(9))
        .y_labels(6)
        .x_desc("threads")
        .y_desc("times the calls/s of one thread")
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .axis_style(GREY)
        .bold_line_style(FAINT)
        .light_line_style(WHITE)
        .label_style(font(13))
        .axis_desc_style(font(14))
        .draw()?;
    let ideal = [(1.0, 1.0), (most as f64, most as f64)];
    chart.draw_series(plotters::series::DashedLineSeries::new(
        ideal,
        6,
        4,
        BLACK.stroke_width(1),
    ))?;
    let mut keys: Vec<(String, RGBColor)> = vec![("ideal (dashed)".to_owned(), BLACK)];
    for (name, work, functions, mapping, colour) in LINES {
        // Of a program that has both, the way that traps: most functions begin with such.
        let entry = match work {
            ThreadWork::None | ThreadWork::Event => Entry::Fast,
            ThreadWork::Empty | ThreadWork::Count => Entry::Trap,
        };
        let of = |threads| Load { work, entry, functions, mapping, threads };
        let one = found.iter().find(|found| found.load == of(1));
        let points: Vec<_> = found
            .iter()
            .filter(|found| found.load == of(found.load.threads))
            .map(|found| {
                let threads = found.load.threads as f64;
                (threads, found.scaling.median * threads)
            })
            .collect();
        let (Some(one), Some(last)) = (one, points.last().copied()) else { continue };
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        let key = format!("{name}: ×{:.2} (one: {}/s)", last.1, rate(one.calls_per_s.median));
        keys.push((key, colour));
    }
    keys_below(area, &keys)
}

/// Names of lines, one below the other, at the lower right, where few lines pass.
fn keys_below(area: &Area<'_>, keys: &[(String, RGBColor)]) -> Drawn {
    let (width, height) = area.dim_in_pixel();
    let longest = keys.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0) as i32;
    let left = width as i32 - 30 - 28 - longest * 7;
    let first = height as i32 - 64 - 19 * keys.len() as i32;
    let box_style = ShapeStyle { color: WHITE.mix(0.85), filled: true, stroke_width: 0 };
    let corners = [(left - 8, first - 4), (width as i32 - 22, height as i32 - 60)];
    area.draw(&Rectangle::new(corners, box_style))?;
    for (number, (key, colour)) in keys.iter().enumerate() {
        let y = first + 19 * number as i32;
        let line = [(left, y + 8), (left + 20, y + 8)];
        area.draw(&PathElement::new(line, colour.stroke_width(3)))?;
        area.draw(&Text::new(key.clone(), (left + 28, y), font(13)))?;
    }
    Ok(())
}

/// The lines of the picture of batches.
type Line = (&'static str, fn(&Batch) -> Spread, bool, RGBColor);

fn paint_batches(area: &Area<'_>, batches: &[Batch]) -> Drawn {
    title(area, "Attaching and detaching (logarithmic)")?;
    let Some(most) = batches.iter().map(|batch| batch.probes).max() else { return Ok(()) };
    let values = batches.iter().flat_map(|batch| [batch.attach_ms.median, batch.detach_ms.median]);
    let (low, high) = decades(values);
    // Room for the names of the lines below them.
    let low = low / 100.0;
    let mut chart = ChartBuilder::on(area)
        .margin_top(36)
        .margin_left(10)
        .margin_right(24)
        .margin_bottom(8)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..(most as f64).max(2.0)).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(5)
        .x_desc("probes")
        .y_desc("milliseconds")
        .x_label_formatter(&|probes| grouped(probes.round() as u64))
        .y_label_formatter(&|ms| format!("{ms}"))
        .axis_style(GREY)
        .bold_line_style(FAINT)
        .light_line_style(WHITE)
        .label_style(font(13))
        .axis_desc_style(font(14))
        .draw()?;
    let lines: [Line; 4] = [
        ("attach", |batch| batch.attach_ms, false, BLUE),
        ("attach beside faults", |batch| batch.attach_ms, true, GREEN),
        ("detach", |batch| batch.detach_ms, false, RED),
        ("detach beside faults", |batch| batch.detach_ms, true, ORANGE),
    ];
    let mut keys = Vec::new();
    for (name, of, beside_faults, colour) in lines {
        let points: Vec<_> = batches
            .iter()
            .filter(|batch| batch.beside_faults == beside_faults)
            .map(|batch| (batch.probes as f64, of(batch).median))
            .collect();
        let Some((_, last)) = points.last().copied() else { continue };
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        let probes = grouped(most as u64);
        keys.push((format!("{name}: {probes} in {} ms", figure(last)), colour));
    }
    keys_below(area, &keys)
}
