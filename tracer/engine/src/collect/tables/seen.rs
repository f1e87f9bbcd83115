//! For a figure, the share of the time in which it was counted.

/// The caveat on a probe that was not attached all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The share of the time that it was attached, in millionths.
    pub attached_ppm: u32,
    /// What the figure would be had it been attached all the time: an estimate, where one can be
    /// made.
    pub estimated: Option<u64>,
}
