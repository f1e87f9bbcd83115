//! The reading end of the ring buffer: [`tracer_common::ring`].

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    hint,
    mem::offset_of,
    slice,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tracer_common::{
    record::{HEADER_BYTES, RecordHeader, SLOT_ROOM},
    ring::{Commit, Ends, SEGMENT_SLOTS, Segment, Shape},
};

use super::{clock::monotonic_ns, counters::online_cpus, mapped::MappedArray};

/// How often a ring's programs are told per round what has been consumed. They read that number at every hit, so
/// it is not written for every record.
const RELEASES_A_ROUND: u64 = 16;
/// How long a program that does nothing but write records takes for one, at least.
const FASTEST_HIT: Duration = Duration::from_nanos(100);
/// How often to look for a commit that is due any moment.
const LOOKS: u32 = 100;
/// How long records of other CPUs wait for one whose program was preempted between claim and commit.
const ORDER_PATIENCE_NS: u64 = 20_000_000;

/// Bytes of the ring buffer if the user does not say: enough for some milliseconds of a CPU that does nothing
/// but write records, on hosts of up to 128 CPUs.
#[must_use]
pub fn default_buffer_bytes() -> u32 {
    (online_cpus() as u32).clamp(16, 128).next_power_of_two() << 20
}

/// Records in the order of their times, as far as they are there: one whose hit has waited for a page comes
/// later. Those of one thread are in the order of its hits, unless a program was preempted for 20 ms between
/// claim and commit on a CPU that the thread has left.
pub struct Records {
    ends: MappedArray<Ends>,
    segments: MappedArray<Segment>,
    shape: Shape,
    rings: Vec<Ring>,
    /// The rings whose next record is ready, by its time. Empty between two drains.
    ready: BinaryHeap<Reverse<Ready>>,
}

/// How far a ring is read.
#[derive(Debug, Clone, Copy, Default)]
struct Ring {
    /// The position of the next record.
    position: u64,
    /// The tail that its programs know.
    released: u64,
    /// When it was last seen without a claim that is not committed.
    clear_ns: u64,
}

/// A ring's next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ready {
    time_ns: u64,
    ring: usize,
    slots: u64,
}

impl Records {
    pub(super) fn new(
        ends: MappedArray<Ends>,
        segments: MappedArray<Segment>,
        shape: Shape,
    ) -> Self {
        let now_ns = monotonic_ns();
        let rings = vec![Ring { clear_ns: now_ns, ..Ring::default() }; shape.rings as usize];
        Self { ends, segments, shape, rings, ready: BinaryHeap::new() }
    }

    /// How long it takes at least until half of an empty ring is full of records of registers.
    #[must_use]
    pub fn half_full_after(&self) -> Duration {
        let cpus_a_ring = (online_cpus() as u64).div_ceil(u64::from(self.shape.rings));
        FASTEST_HIT * u32::try_from(self.shape.capacity() / 2 / cpus_a_ring).unwrap_or(u32::MAX)
    }

    /// Hands each record that is ready to `take`, up to `most` of them; returns how many there were.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let until_ns = self.until_ns();
        for ring in 0..self.rings.len() {
            let ready = self.next(ring, until_ns);
            self.ready.extend(ready.map(Reverse));
        }
        let mut taken = 0;
        while taken < most
            && let Some(&Reverse(Ready { ring, slots, .. })) = self.ready.peek()
        {
            take(self.record(ring, slots));
            taken += 1;
            self.consume(ring, slots);
            let next = self.next(ring, until_ns);
            if let Some(mut first) = self.ready.peek_mut() {
                match next {
                    Some(next) => *first = Reverse(next),
                    None => drop(PeekMut::pop(first)),
                }
            }
        }
        self.ready.clear();
        (0..self.rings.len()).for_each(|ring| self.release(ring));
        taken
    }

    /// The time up to which hits are handed on now. What is committed meanwhile on a CPU is left for the next
    /// drain, so that it does not come before what another CPU has just missed to hand on. So is what may be
    /// later than a record behind a claim that is not committed.
    fn until_ns(&mut self) -> u64 {
        let now_ns = monotonic_ns();
        let mut until_ns = now_ns;
        for ring in 0..self.rings.len() {
            if self.is_clear(ring) {
                self.rings[ring].clear_ns = now_ns;
            } else if now_ns.saturating_sub(self.rings[ring].clear_ns) < ORDER_PATIENCE_NS {
                until_ns = until_ns.min(self.rings[ring].clear_ns);
            }
        }
        until_ns
    }

    /// Whether the next record of a ring is committed, or nothing is claimed.
    fn is_clear(&self, ring: usize) -> bool {
        let position = self.rings[ring].position;
        (0..LOOKS).any(|look| {
            if look > 0 {
                hint::spin_loop();
            }
            Commit::at(position, self.commit_word(ring, position)).is_some()
                || self.head(ring) == position
        })
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
            let time = &self.record(ring, commit.slots)[offset_of!(RecordHeader, time_ns)..];
            let time_ns = time.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            return (time_ns <= until_ns).then_some(Ready { time_ns, ring, slots: commit.slots });
        }
    }

    fn consume(&mut self, ring: usize, slots: u64) {
        let capacity = self.shape.capacity();
        let own = &mut self.rings[ring];
        own.position += slots;
        if own.position - own.released > capacity / RELEASES_A_ROUND {
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

    fn head(&self, ring: usize) -> u64 {
        // SAFETY: the element lives as long as the mapping, which lives as long as `self`.
        let head = unsafe { &raw mut (*self.ends.element(ring)).head };
        // SAFETY: as above, and aligned; all access is atomic.
        let head = unsafe { AtomicU64::from_ptr(head) };
        head.load(Ordering::Acquire)
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
        // SAFETY: the element lives as long as the mapping, which lives as long as `self`.
        let records = unsafe { &raw const (*segment).records };
        // SAFETY: as above, and `place` gives a slot of the segment.
        let first = unsafe { records.cast::<u8>().add(slot * SLOT_ROOM) };
        // SAFETY: `Commit::at` has checked that the slots lie within the segment. They are committed: no program
        // writes to them before they are released, and that needs `&mut self`.
        unsafe { slice::from_raw_parts(first, slots as usize * SLOT_ROOM) }
    }

    fn place(&self, ring: usize, position: u64) -> (*mut Segment, usize) {
        let segments = self.shape.segments as usize;
        let within = (position / SEGMENT_SLOTS) as usize % segments;
        (self.segments.element(ring * segments + within), (position % SEGMENT_SLOTS) as usize)
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("shape", &self.shape).finish_non_exhaustive()
    }
}
