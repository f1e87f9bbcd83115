//! The colours of text for people.

/// The escape sequences before each kind of text, and after it. Empty without colours, so that lines
/// are written in one way.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    /// Times and headings.
    pub dim: &'static str,
    /// Names of probes.
    pub probe: &'static str,
    /// Strings and characters.
    pub string: &'static str,
    /// Errors and losses.
    pub error: &'static str,
    /// Back to normal.
    pub reset: &'static str,
}

impl Palette {
    /// With colours, or without.
    #[must_use]
    pub const fn new(colour: bool) -> Self {
        if colour {
            Self {
                dim: "\x1b[2m",
                probe: "\x1b[1m",
                string: "\x1b[32m",
                error: "\x1b[31m",
                reset: "\x1b[0m",
            }
        } else {
            Self { dim: "", probe: "", string: "", error: "", reset: "" }
        }
    }
}
