//! The reading end of the ring buffer: [`tracer_common::ring`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tracer_common::{
    record::{HEADER_BYTES, RecordHeader, SLOT_ROOM},
    ring::{Commit, Ends, SEGMENT_SLOTS, Segment, Shape},
};

use super::{clock::monotonic_ns, counters::online_cpus, mapped::MappedArray};

/// What part of a ring may be consumed before its programs are told. They read that number at every hit, so it
/// is not written for every record.
const RELEASED_AT_ONCE: u64 = 16;

/// How long a program that does nothing but write records takes for one, at least.
const FASTEST_HIT: Duration = Duration::from_nanos(100);

/// Bytes of the ring buffer if the user does not say: enough for some milliseconds of a CPU that does nothing
/// but write records, on hosts of up to 128 CPUs.
#[must_use]
pub fn default_buffer_bytes() -> u32 {
    (online_cpus() as u32).clamp(16, 128).next_power_of_two() << 20
}

/// Records in the order of their times, as far as they are there: one whose hit has waited, for a page or for
/// the CPU, comes later. Those of one thread are in the order of its hits.
pub struct Records {
    ends: MappedArray<Ends>,
    segments: MappedArray<Segment>,
    shape: Shape,
    rings: Vec<Ring>,
}

/// How far a ring is read.
#[derive(Debug, Clone, Copy, Default)]
struct Ring {
    /// The position of the next record.
    position: u64,
    /// The tail that its programs know.
    released: u64,
}

/// A record that is ready.
#[derive(Debug, Clone, Copy)]
struct Ready {
    time_ns: u64,
    slots: u64,
}

impl Records {
    pub(super) fn new(
        ends: MappedArray<Ends>,
        segments: MappedArray<Segment>,
        shape: Shape,
    ) -> Self {
        let rings = vec![Ring::default(); shape.rings as usize];
        Self { ends, segments, shape, rings }
    }

    /// How long it takes at least until half of an empty ring is full of records of registers.
    #[must_use]
    pub fn half_full_after(&self) -> Duration {
        FASTEST_HIT * u32::try_from(self.shape.capacity() / 2).unwrap_or(u32::MAX)
    }

    /// Hands each record that is ready to `take`, up to `most` of them; returns how many there were.
    pub fn drain(&mut self, most: usize, take: impl FnMut(&[u8])) -> usize {
        self.drain_until(monotonic_ns(), most, take)
    }

    /// The same for hits up to a time. What is committed meanwhile on a CPU is left for the next time, so that
    /// it does not come before what another CPU has just missed to hand on.
    fn drain_until(&mut self, until_ns: u64, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut ready: Vec<Option<Ready>> =
            (0..self.rings.len()).map(|ring| self.next(ring, until_ns)).collect();
        let mut taken = 0;
        while taken < most {
            let Some((ring, limit_ns)) = earliest(&ready) else { break };
            // One ring is read as long as its records are the earliest.
            while let Some(Ready { time_ns, slots }) = ready[ring] {
                if time_ns > limit_ns || taken == most {
                    break;
                }
                take(self.record(ring, slots));
                taken += 1;
                self.consume(ring, slots);
                ready[ring] = self.next(ring, until_ns);
            }
        }
        (0..self.rings.len()).for_each(|ring| self.release(ring));
        taken
    }

    /// The next record of a ring, if it is ready and not later than a time.
    fn next(&mut self, ring: usize, until_ns: u64) -> Option<Ready> {
        loop {
            let position = self.rings[ring].position;
            let commit = Commit::at(position, self.commit_word(ring, position))?;
            if commit.is_gap {
                self.consume(ring, commit.slots);
                continue;
            }
            let time =
                &self.record(ring, commit.slots)[std::mem::offset_of!(RecordHeader, time_ns)..];
            let time_ns = time.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            return (time_ns <= until_ns).then_some(Ready { time_ns, slots: commit.slots });
        }
    }

    fn consume(&mut self, ring: usize, slots: u64) {
        let capacity = self.shape.capacity();
        let own = &mut self.rings[ring];
        own.position += slots;
        if own.position - own.released > capacity / RELEASED_AT_ONCE {
            self.release(ring);
        }
    }

    /// Tells a ring's programs what has been consumed.
    fn release(&mut self, ring: usize) {
        let own = &mut self.rings[ring];
        if own.released == own.position {
            return;
        }
        own.released = own.position;
        // SAFETY: the element lives as long as the mapping, which lives as long as `self`.
        let tail = unsafe { &raw mut (*self.ends.element(ring)).tail };
        // SAFETY: as above, and aligned; all access is atomic.
        let tail = unsafe { AtomicU64::from_ptr(tail) };
        tail.store(own.released, Ordering::Release);
    }

    fn commit_word(&self, ring: usize, position: u64) -> u64 {
        let (segment, slot) = self.place(ring, position);
        // SAFETY: the element lives as long as the mapping, which lives as long as `self`.
        let word = unsafe { &raw mut (*segment).commits[slot] };
        // SAFETY: as above, and aligned; all access is atomic.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.load(Ordering::Acquire)
    }

    /// The memory of a ring's next record.
    fn record(&self, ring: usize, slots: u64) -> &[u8] {
        const { assert!(HEADER_BYTES <= SLOT_ROOM) };
        let (segment, slot) = self.place(ring, self.rings[ring].position);
        let bytes = slot * SLOT_ROOM..(slot + slots as usize) * SLOT_ROOM;
        // SAFETY: the element lives as long as the mapping, which lives as long as `self`. The record is
        // committed: no program writes to it before it is released, and that needs `&mut self`.
        unsafe { &(&*segment).records[bytes] }
    }

    fn place(&self, ring: usize, position: u64) -> (*mut Segment, usize) {
        let segments = self.shape.segments as usize;
        let within = (position / SEGMENT_SLOTS) as usize % segments;
        (self.segments.element(ring * segments + within), (position % SEGMENT_SLOTS) as usize)
    }
}

/// The ring whose next record is the earliest, and until when it is.
fn earliest(ready: &[Option<Ready>]) -> Option<(usize, u64)> {
    let mut first: Option<(usize, u64)> = None;
    let mut limit_ns = u64::MAX;
    for (ring, time_ns) in
        ready.iter().enumerate().filter_map(|(ring, ready)| Some((ring, ready.as_ref()?.time_ns)))
    {
        match first {
            Some((_, earliest_ns)) if time_ns >= earliest_ns => limit_ns = limit_ns.min(time_ns),
            _ => {
                limit_ns = first.map_or(u64::MAX, |(_, earliest_ns)| earliest_ns);
                first = Some((ring, time_ns));
            }
        }
    }
    first.map(|(ring, _)| (ring, limit_ns))
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("shape", &self.shape).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the earliest record comes first, and until when the same ring is read.
    #[test]
    fn earliest_ring() {
        let ready = |times: &[u64]| -> Vec<Option<Ready>> {
            let ready = |&time_ns: &u64| (time_ns != 0).then_some(Ready { time_ns, slots: 1 });
            times.iter().map(ready).collect()
        };
        assert_eq!(earliest(&ready(&[])), None);
        assert_eq!(earliest(&ready(&[0, 0])), None);
        assert_eq!(earliest(&ready(&[0, 7])), Some((1, u64::MAX)));
        assert_eq!(earliest(&ready(&[5, 7, 6])), Some((0, 6)));
        assert_eq!(earliest(&ready(&[9, 7, 6])), Some((2, 7)));
        assert_eq!(earliest(&ready(&[9, 9])), Some((0, 9)));
    }
}
