//! The figures of all rounds as one: the median, and how far they spread.

/// Median, smallest and largest of some figures; all NaN if there are none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Sample {
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let half = figures.len() / 2;
        let median = match figures.len() {
            0 => f64::NAN,
            even if even % 2 == 0 => (at(half - 1) + at(half)) / 2.0,
            _ => at(half),
        };
        Self { median, min: at(0), max: at(figures.len().saturating_sub(1)) }
    }

    /// The ratios of figures of the same round.
    pub(super) fn of_ratios(figures: &[f64], to: &[f64]) -> Self {
        Self::of(figures.iter().zip(to).map(|(figure, to)| figure / to))
    }

    /// `MEDIAN (MIN..MAX)`.
    pub(super) fn text(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
    }

    /// A JSON object.
    pub(super) fn json(&self) -> String {
        let Self { median, min, max } = self;
        // JSON has no NaN and no infinity, which a ratio to zero is.
        let number = |figure: &f64| {
            if figure.is_finite() { format!("{figure:.4}") } else { "null".to_owned() }
        };
        format!(r#"{{"median":{},"min":{},"max":{}}}"#, number(median), number(min), number(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check the median of an odd and an even number of figures, and that ratios are by round.
    #[test]
    fn median_and_spread() {
        assert_eq!(Sample::of([3.0, 1.0, 2.0]).text(0), "2 (1..3)");
        assert_eq!(Sample::of([4.0, 1.0, 2.0, 3.0]).text(1), "2.5 (1.0..4.0)");
        assert_eq!(Sample::of_ratios(&[10.0, 40.0], &[10.0, 20.0]).text(1), "1.5 (1.0..2.0)");
    }

    /// Check that a value that is not a number is null in JSON.
    #[test]
    fn nothing_measured_is_null() {
        let null = r#"{"median":null,"min":null,"max":null}"#;
        assert_eq!(Sample::of([]).json(), null);
        assert_eq!(Sample::of_ratios(&[1.0], &[0.0]).json(), null);
    }
}
