//! The summary for people.

use super::Summary;

impl Summary {
    /// Some lines of text.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        let _ = colour;
        String::new()
    }
}
