//! Columns that line up.

/// Rows of cells under a head. The first columns are names, to the left; the others are figures, to
/// the right.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    names: usize,
}

impl Table {
    pub(super) fn new<S: Into<String>>(names: usize, head: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![head.into_iter().map(Into::into).collect()], names }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// All of it; the head is dim where there are colours.
    pub(super) fn text(&self, colour: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                if column < self.names {
                    line.push_str(&format!("{gap}{cell:<width$}"));
                } else {
                    line.push_str(&format!("{gap}{cell:>width$}"));
                }
            }
            let line = line.trim_end();
            match (number, colour) {
                (0, true) => text.push_str(&format!("\x1b[2m{line}\x1b[0m\n")),
                _ => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that names stand left, figures right, under their head.
    #[test]
    fn columns_line_up() {
        let mut table = Table::new(1, ["name", "ns", "calls/s"]);
        table.row(["a".into(), "1,000".into(), "5".into()]);
        table.row(["longer".into(), "2".into(), String::new()]);
        assert_eq!(
            table.text(false),
            "name       ns  calls/s\na       1,000        5\nlonger      2\n"
        );
    }
}
