//! The ring buffer's reading end.

use aya::maps::{MapData, RingBuf};

/// Records in the order in which they were reserved.
pub struct Records(RingBuf<MapData>);

impl Records {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// Hands each record that is ready to `take`, up to `most` of them; returns how many there were.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        for taken in 0..most {
            let Some(record) = self.0.next() else { return taken };
            take(&record);
        }
        most
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}
