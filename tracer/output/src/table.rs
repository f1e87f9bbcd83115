//! What an action has summed up, by function: columns of figures that every format can show.
//!
//! An action says once what its columns are; it knows no format. A format shows any table; it knows
//! no action.

use std::sync::Arc;

use crate::summary::Ppm;
use faultline_engine::collect::tables::{Bucket, Seen};

/// Figures by function.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The action, as the `type` of a row.
    pub(crate) kind: &'static str,
    /// The functions, those first that matter most.
    pub(crate) labels: Vec<Arc<str>>,
    pub(crate) columns: Vec<Column>,
    /// How many rows are wanted; people see the rest summed up.
    top: usize,
    /// The figures are not the last: the run goes on.
    pub(crate) so_far: bool,
}

/// A figure of every function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    /// Its name for programs; `None` if it is only for people.
    pub(crate) name: Option<&'static str>,
    /// Its head for people; `None` if it is only for programs.
    pub(crate) head: Option<&'static str>,
    /// The least that it is wide, so that a live table stands still.
    pub(crate) width: usize,
    /// What is said of the rows that are not shown one by one: their sum, or nothing.
    pub(crate) is_summed: bool,
    pub(crate) cells: Vec<Cell>,
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// How many.
    Number(u64),
    /// How many it would have been: an estimate.
    Estimate(u64),
    /// A duration in nanoseconds.
    Ns(u64),
    /// A duration in nanoseconds: an estimate.
    EstimatedNs(u64),
    /// How many a second.
    Rate(f64),
    /// A share of 1.
    Share(Ppm),
    /// How many of each duration; people see a picture of it below the table.
    Durations(Vec<Bucket>),
    /// Not known, or not worth a word.
    None,
}

impl Table {
    /// A table of these functions, without columns.
    pub fn new(kind: &'static str, labels: impl Iterator<Item = Arc<str>>) -> Self {
        let labels = labels.collect();
        Self { kind, labels, columns: Vec::new(), top: usize::MAX, so_far: false }
    }

    /// With this many rows at most.
    #[must_use]
    pub fn top(mut self, top: Option<usize>) -> Self {
        self.top = top.unwrap_or(usize::MAX);
        self
    }

    /// With figures that are not the last.
    #[must_use]
    pub fn so_far(mut self) -> Self {
        self.so_far = true;
        self
    }

    /// With a column of these figures, a cell a function.
    #[must_use]
    pub fn column(
        mut self,
        name: Option<&'static str>,
        head: Option<&'static str>,
        cells: impl Iterator<Item = Cell>,
    ) -> Self {
        let cells: Vec<_> = cells.collect();
        let width = match cells.iter().find(|cell| **cell != Cell::None) {
            Some(Cell::Rate(_)) => 10,
            Some(Cell::EstimatedNs(_)) => 9,
            Some(Cell::Ns(_) | Cell::Share(_)) => 8,
            _ => 0,
        };
        self.columns.push(Column { name, head, width, is_summed: false, cells });
        self
    }

    /// With a sum of the last column for the rows that are not shown one by one.
    #[must_use]
    pub fn summed(mut self) -> Self {
        if let Some(last) = self.columns.last_mut() {
            last.is_summed = true;
        }
        self
    }

    /// With columns that say of a figure in which part of the time it was counted, where any was not
    /// counted all the time; `estimate` is the name of what it would have been.
    #[must_use]
    pub fn seen(self, estimate: &'static str, seen: impl Iterator<Item = Option<Seen>>) -> Self {
        let seen: Vec<_> = seen.collect();
        let estimates: Vec<_> =
            seen.iter().map(|seen| seen.and_then(|seen| seen.estimated)).collect();
        let estimated = || estimates.iter().map(|number| number.map_or(Cell::None, Cell::Estimate));
        let share = |seen: Seen| Cell::Share(Ppm::parts(seen.attached_ppm));
        let shares = seen.iter().map(|seen| seen.map_or(Cell::None, share));
        // People see one of the two: an estimate has the share in it.
        let for_people = if estimates.iter().any(Option::is_some) {
            self.column(None, Some("estimate"), estimated())
        } else if seen.iter().any(Option::is_some) {
            let all = || Cell::Share(Ppm::share(1.0));
            let cells = seen.iter().map(|seen| seen.map_or_else(all, share));
            self.column(None, Some("attached"), cells)
        } else {
            self
        };
        for_people.column(Some("attached_share"), None, shares).column(
            Some(estimate),
            None,
            estimated(),
        )
    }

    /// How many rows are shown where there is room for this many.
    pub(crate) fn shown(&self, room: usize) -> usize {
        self.top.min(room).min(self.labels.len())
    }
}
