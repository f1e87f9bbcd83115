//! Tables for people: a line a function, one for the rest together, and pictures below.

use super::{TextSink, picture};
use crate::{
    escape::shown as shown_label,
    palette::Palette,
    table::{Cell, Column, Table},
};
use faultline_spec::units::duration_text;

/// Functions whose histogram is drawn; all have their line.
const PICTURES: usize = 4;

impl TextSink {
    /// A table of at most this many lines.
    #[must_use]
    pub fn table_in(&self, table: &Table, lines: usize) -> String {
        // Two for the head and for what is left out.
        let shown = table.shown(lines.saturating_sub(2));
        let rows = rows(table, shown, self.palette);
        let pictures =
            pictures(table, shown, lines.saturating_sub(rows.lines().count()), self.palette);
        rows + &pictures
    }
}

fn rows(table: &Table, shown: usize, palette: Palette) -> String {
    let Palette { dim, probe: strong, reset, .. } = palette;
    let columns: Vec<_> =
        table.columns.iter().filter_map(|column| TextColumn::new(column, shown)).collect();
    let line = |cell: &dyn Fn(&TextColumn<'_>) -> String| {
        let cells = columns.iter().map(|column| format!("{:>1$}", cell(column), column.width));
        cells.collect::<Vec<_>>().join("  ")
    };
    let head = line(&|column| column.head.to_owned());
    let mut text = format!("{dim}{head}  function{reset}\n");
    for (index, label) in table.labels[..shown].iter().enumerate() {
        let cells = line(&|column| cell_text(column.cells.get(index).unwrap_or(&Cell::None)));
        text.push_str(&format!("{cells}  {strong}{}{reset}\n", shown_label(label)));
    }
    let more = table.labels.len() - shown;
    if more != 0 {
        let cells = line(&|column| column.rest.clone());
        text.push_str(&format!("{cells}  {dim}in {more} more{reset}\n"));
    }
    text
}

/// As many pictures as fit into this many lines.
fn pictures(table: &Table, shown: usize, mut lines: usize, palette: Palette) -> String {
    let mut text = String::new();
    for column in &table.columns {
        for (label, cell) in table.labels[..shown].iter().zip(&column.cells).take(PICTURES) {
            let Cell::Durations(buckets) = cell else { continue };
            let picture = picture::durations(label, buckets, palette);
            // And an empty line before it.
            let Some(left) = lines.checked_sub(picture.lines().count() + 1) else { return text };
            lines = left;
            text.push('\n');
            text.push_str(&picture);
        }
    }
    text
}

/// A column that people see.
struct TextColumn<'a> {
    head: &'static str,
    width: usize,
    cells: &'a [Cell],
    /// What stands in the row of those that are not shown one by one.
    rest: String,
}

impl<'a> TextColumn<'a> {
    fn new(column: &'a Column, shown: usize) -> Option<Self> {
        let head = column.head?;
        let shown = shown.min(column.cells.len());
        let (rows, others) = column.cells.split_at(shown);
        let rest = if column.is_summed && !others.is_empty() {
            cell_text(&others.iter().fold(Cell::None, add))
        } else {
            String::new()
        };
        let columns = |text: &str| text.chars().count();
        let widest = rows.iter().map(|cell| columns(&cell_text(cell))).max().unwrap_or(0);
        let width = column.width.max(widest).max(columns(head)).max(columns(&rest));
        Some(Self { head, width, cells: &column.cells, rest })
    }
}

fn cell_text(cell: &Cell) -> String {
    match cell {
        Cell::Number(number) => number.to_string(),
        Cell::Estimate(number) => format!("~{number}"),
        Cell::Ns(ns) => duration_text(*ns).to_string(),
        Cell::EstimatedNs(ns) => format!("~{}", duration_text(*ns)),
        Cell::Rate(rate) => format!("{rate:.0}"),
        Cell::Share(share) => format!("{:.1}%", share.number() * 100.0),
        Cell::Durations(_) => String::new(),
        Cell::None => "?".to_owned(),
    }
}

/// The sum of two figures; what is not known adds nothing.
fn add(sum: Cell, cell: &Cell) -> Cell {
    match (sum, cell) {
        (Cell::None, cell) => cell.clone(),
        (Cell::Number(sum), Cell::Number(number)) => Cell::Number(sum.saturating_add(*number)),
        (Cell::Ns(sum), Cell::Ns(ns)) => Cell::Ns(sum.saturating_add(*ns)),
        (Cell::EstimatedNs(sum), Cell::EstimatedNs(ns)) => {
            Cell::EstimatedNs(sum.saturating_add(*ns))
        }
        (sum, _) => sum,
    }
}
