//! SVG, written as text: lines, rectangles, words, and the axes of a plot.
//!
//! Takes positions in pixels or, through a [`Plot`], in units of the figures. Knows nothing of what
//! is measured.

use std::fmt::Write as _;

/// What is written and drawn in, where it is not a colour of the figures.
pub(super) const INK: &str = "#282828";
const AXIS: &str = "#828282";
const GRID: &str = "#e1e1e1";

/// A picture, painted element by element: a later one covers an earlier one.
pub(super) struct Svg(String);

/// Which point of a text is at its position.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty picture of this size, white.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="{INK}">
<rect width="{width}" height="{height}" fill="white"/>
"#
        ))
    }

    pub(super) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{element}");
    }

    pub(super) fn rectangle(&mut self, (x, y): (f64, f64), width: f64, height: f64, fill: &str) {
        self.element(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        ));
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), fill: &str) {
        self.element(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{fill}"/>"#));
    }

    /// A line through all these points; `dashes` are lengths of strokes and gaps, empty for none.
    pub(super) fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dashes: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.element(format_args!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{}"/>"#,
            if dashes.is_empty() { "none" } else { dashes }
        ));
    }

    /// A text whose baseline is at this height.
    pub(super) fn text(&mut self, at: (f64, f64), size: u32, anchor: Anchor, text: &str) {
        self.styled(at, size, anchor, "", text);
    }

    pub(super) fn title(&mut self, at: (f64, f64), size: u32, text: &str) {
        self.styled(at, size, Anchor::Start, r#" font-weight="bold""#, text);
    }

    fn styled(&mut self, (x, y): (f64, f64), size: u32, anchor: Anchor, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.element(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}"{style}>{text}</text>"#
        ));
    }
}

/// As the content of an element. What XML allows in no form, control characters, is left out.
fn escaped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).fold(String::new(), |mut escaped, c| {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            c => escaped.push(c),
        }
        escaped
    })
}

/// What an axis shows, from one end to the other.
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) scale: Scale,
    /// How a value is written beside it.
    pub(super) label: fn(f64) -> String,
}

pub(super) enum Scale {
    /// Steps of 1, 2 or 5 times a power of ten.
    Linear,
    /// The same for what can be counted: no smaller than 1.
    Whole,
    /// A step a decade.
    Logarithmic,
}

impl Axis {
    /// Where a value is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear | Scale::Whole => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value / self.from).ln() / (self.to / self.from).ln(),
        }
    }

    /// The values that have a line and a label.
    fn steps(&self) -> Vec<f64> {
        // What is computed may be a hair beyond an end.
        let hair = 1e-9;
        match self.scale {
            Scale::Linear | Scale::Whole => {
                let least = if matches!(self.scale, Scale::Whole) { 1.0 } else { 0.0 };
                let step = nice(((self.to - self.from) / 8.0).max(least));
                let (first, last) = ((self.from / step).ceil(), (self.to / step + hair).floor());
                (first as i64..=last as i64).map(|number| number as f64 * step).collect()
            }
            Scale::Logarithmic => {
                let first = (self.from.log10() - hair).ceil();
                let last = (self.to.log10() + hair).floor();
                (first as i32..=last as i32).map(|power| 10_f64.powi(power)).collect()
            }
        }
    }
}

/// The next of 1, 2, 5, 10, … times a power of ten.
fn nice(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|step| step * decade)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * decade)
}

/// A part of the picture whose points are figures.
pub(super) struct Plot {
    /// In pixels.
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// Without a name it has no steps either: what is shown along it has names of its own.
    pub(super) x: Axis,
    pub(super) y: Axis,
}

impl Plot {
    /// Where a point is, in pixels.
    pub(super) fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (across, up) = (self.x.share(x), self.y.share(y));
        let width = self.right - self.left;
        (self.left + across * width, self.bottom - up * (self.bottom - self.top))
    }

    /// Draws the axes, their lines and their names.
    pub(super) fn draw_axes(&self, svg: &mut Svg) {
        for value in self.y.steps() {
            let (x, y) = self.at(self.x.from, value);
            svg.line(&[(x - 5.0, y), (self.right, y)], GRID, 1.0, "");
            svg.text((x - 9.0, y + 4.5), 12, Anchor::End, &(self.y.label)(value));
        }
        svg.text((self.left - 50.0, self.top - 9.0), 12, Anchor::Start, self.y.name);
        if !self.x.name.is_empty() {
            for value in self.x.steps() {
                let (x, y) = self.at(value, self.y.from);
                svg.line(&[(x, y + 5.0), (x, self.top)], GRID, 1.0, "");
                svg.text((x, y + 19.0), 12, Anchor::Middle, &(self.x.label)(value));
            }
            let middle = f64::midpoint(self.left, self.right);
            svg.text((middle, self.bottom + 40.0), 13, Anchor::Middle, self.x.name);
        }
        let corner = (self.left, self.bottom);
        svg.line(&[(self.left, self.top), corner, (self.right, self.bottom)], AXIS, 1.0, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(from: f64, to: f64, scale: Scale) -> Axis {
        Axis { name: "", from, to, scale, label: |value| value.to_string() }
    }

    /// Check that lines are at round values, both ends included.
    #[test]
    fn steps_of_axes() {
        assert_eq!(axis(0.0, 2.24, Scale::Linear).steps(), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(axis(1.0, 2.0, Scale::Whole).steps(), [1.0, 2.0]);
        let many = axis(1.0, 64.0, Scale::Whole);
        assert_eq!(many.steps(), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        let decades = axis(1.0, 10_000.0, Scale::Logarithmic);
        assert_eq!(decades.steps(), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(axis(0.02, 150.0, Scale::Logarithmic).steps(), [0.1, 1.0, 10.0, 100.0]);
    }

    /// Check that a name of a CPU cannot break the document.
    #[test]
    fn texts_are_escaped() {
        let mut svg = Svg::new(1.0, 1.0);
        svg.text((0.0, 0.0), 12, Anchor::Start, "A<B> & \u{1b}[1mC\0");
        let text = svg.finish();
        assert!(text.contains(">A&lt;B&gt; &amp; [1mC</text>"), "{text}");
    }
}
