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
        let rings = vec![Ring::default(); shape.rings as usize];
        Self { ends, segments, shape, rings, ready: BinaryHeap::new() }
    }

    /// How long it takes at least until half of an empty ring is full of records of registers.
    #[must_use]
    pub fn half_full_after(&self) -> Duration {
        let cpus_a_ring = (online_cpus() as u64).div_ceil(u64::from(self.shape.rings));
        FASTEST_HIT * u32::try_from(self.shape.capacity() / 2 / cpus_a_ring).unwrap_or(u32::MAX)
    }

    /// Hands each record that is ready to `take`, up to `most` of them; returns how many there were.
    pub fn drain(&mut self, most: usize, take: impl FnMut(&[u8])) -> usize {
        self.drain_at(monotonic_ns(), most, take)
    }

    fn drain_at(&mut self, now_ns: u64, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let until_ns = self.until_ns(now_ns);
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
    fn until_ns(&mut self, now_ns: u64) -> u64 {
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

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        os::fd::{FromRawFd as _, OwnedFd},
        sync::Arc,
        thread,
    };

    use tracer_common::ring::{Shared, claim, give_back, trim};

    use super::*;

    const SHAPE: Shape = Shape { rings: 2, segments: 2 };

    /// The memory that both sides share.
    struct Memory {
        ends: OwnedFd,
        segments: OwnedFd,
    }

    /// The side of the programs.
    struct Programs {
        ends: MappedArray<Ends>,
        segments: MappedArray<Segment>,
    }

    /// One of their rings.
    struct Ring<'a> {
        programs: &'a Programs,
        number: usize,
    }

    impl Memory {
        fn new() -> Self {
            let memory = |bytes: usize| {
                // SAFETY: the name is a C string.
                let number = unsafe { libc::memfd_create(c"ring".as_ptr(), libc::MFD_CLOEXEC) };
                assert!(number >= 0);
                // SAFETY: it was just made, and nothing else owns it.
                let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(number) });
                file.set_len(bytes as u64).unwrap();
                OwnedFd::from(file)
            };
            let segments = (SHAPE.rings * SHAPE.segments) as usize;
            Self {
                ends: memory(SHAPE.rings as usize * size_of::<Ends>()),
                segments: memory(segments * size_of::<Segment>()),
            }
        }

        fn map(&self) -> (MappedArray<Ends>, MappedArray<Segment>) {
            let segments = (SHAPE.rings * SHAPE.segments) as usize;
            (
                MappedArray::new(&self.ends, SHAPE.rings as usize).unwrap(),
                MappedArray::new(&self.segments, segments).unwrap(),
            )
        }

        fn programs(&self) -> Programs {
            let (ends, segments) = self.map();
            Programs { ends, segments }
        }

        fn records(&self) -> Records {
            let (ends, segments) = self.map();
            Records::new(ends, segments, SHAPE)
        }
    }

    impl Programs {
        fn ring(&self, number: usize) -> Ring<'_> {
            Ring { programs: self, number }
        }
    }

    impl Ring<'_> {
        fn segment(&self, position: u64) -> *mut Segment {
            let segments = SHAPE.segments as usize;
            let within = (position / SEGMENT_SLOTS) as usize % segments;
            self.programs.segments.element(self.number * segments + within)
        }

        fn ends(&self) -> (&AtomicU64, &AtomicU64) {
            let ends = self.programs.ends.element(self.number);
            // SAFETY: the element lives as long as the mapping.
            let head = unsafe { &raw mut (*ends).head };
            // SAFETY: as above.
            let tail = unsafe { &raw mut (*ends).tail };
            // SAFETY: as above, and aligned.
            let head = unsafe { AtomicU64::from_ptr(head) };
            // SAFETY: as above, and aligned.
            (head, unsafe { AtomicU64::from_ptr(tail) })
        }

        /// Claims room for a record; `None` if the ring is full.
        fn claim(&self, slots: u64) -> Option<u64> {
            claim(self, slots, SHAPE.capacity())
        }

        /// Writes a record of two numbers, of which the first is its time, and commits it.
        fn write(&self, position: u64, claimed: u64, used: u64, numbers: [u64; 2]) {
            let slot = (position % SEGMENT_SLOTS) as usize * SLOT_ROOM;
            // SAFETY: the element lives as long as the mapping.
            let records = unsafe { &raw mut (*self.segment(position)).records };
            // SAFETY: the slots lie within the segment.
            let record = unsafe { records.cast::<u8>().add(slot) };
            // SAFETY: they are claimed.
            unsafe { record.cast::<[u64; 2]>().write_unaligned(numbers) };
            let slots = trim(self, position, claimed, used);
            self.commit(position, Commit { slots, is_gap: false }.word(position));
        }

        fn emit(&self, numbers: [u64; 2]) {
            let position = self.claim(1).unwrap();
            self.write(position, 1, 1, numbers);
        }
    }

    impl Shared for Ring<'_> {
        fn head(&self) -> u64 {
            self.ends().0.load(Ordering::Acquire)
        }

        fn tail(&self) -> u64 {
            self.ends().1.load(Ordering::Acquire)
        }

        fn move_head(&self, old: u64, new: u64) -> bool {
            self.ends().0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        }

        fn commit(&self, position: u64, word: u64) {
            let slot = (position % SEGMENT_SLOTS) as usize;
            // SAFETY: the element lives as long as the mapping.
            let place = unsafe { &raw mut (*self.segment(position)).commits[slot] };
            // SAFETY: as above, and aligned.
            unsafe { AtomicU64::from_ptr(place) }.store(word, Ordering::Release);
        }
    }

    /// The two numbers of a record.
    fn numbers(record: &[u8]) -> [u64; 2] {
        let number = |at: usize| u64::from_ne_bytes(*record[at..].first_chunk().unwrap());
        [number(0), number(8)]
    }

    /// What arrives at this time: the first number of each record.
    fn arrived(records: &mut Records, now_ns: u64) -> Vec<u64> {
        let mut times = Vec::new();
        records.drain_at(now_ns, usize::MAX, |record| times.push(numbers(record)[0]));
        times
    }

    /// Check that rings are merged by time, that what is later than the drain is left, and that a drain stops
    /// where it is told to.
    #[test]
    fn rings_are_merged_by_time() {
        let memory = Memory::new();
        let (programs, mut records) = (memory.programs(), memory.records());
        for (ring, time) in [(0, 10), (1, 20), (0, 30), (0, 40), (1, 50), (1, 60)] {
            programs.ring(ring).emit([time, 0]);
        }
        let mut first = Vec::new();
        assert_eq!(records.drain_at(100, 2, |record| first.push(numbers(record)[0])), 2);
        assert_eq!(first, [10, 20]);
        assert_eq!(arrived(&mut records, 50), [30, 40, 50]);
        assert_eq!(arrived(&mut records, 100), [60]);
        assert!(arrived(&mut records, 100).is_empty());
    }

    /// Check that records wait for a claim that is not committed, as they may be later than what is behind it;
    /// but not for ever.
    #[test]
    fn records_wait_for_a_preempted_program() {
        let memory = Memory::new();
        let (programs, mut records) = (memory.programs(), memory.records());
        let ms = 1_000_000;
        assert!(arrived(&mut records, ms).is_empty());
        let preempted = programs.ring(0).claim(2).unwrap();
        programs.ring(0).emit([2 * ms, 0]);
        programs.ring(1).emit([3 * ms, 0]);
        assert!(arrived(&mut records, 4 * ms).is_empty());
        programs.ring(0).write(preempted, 2, 1, [ms, 0]);
        assert_eq!(arrived(&mut records, 5 * ms), [ms, 2 * ms, 3 * ms]);

        let preempted = programs.ring(0).claim(1).unwrap();
        programs.ring(1).emit([6 * ms, 0]);
        assert!(arrived(&mut records, 7 * ms).is_empty());
        assert_eq!(arrived(&mut records, 40 * ms), [6 * ms]);
        give_back(&programs.ring(0), preempted, 1);
        assert!(arrived(&mut records, 41 * ms).is_empty());
    }

    /// Check that every record of threads that share rings arrives once, whole and in its order, while claims
    /// of many sizes are used in part or given back, and the rings are full now and then.
    #[test]
    fn threads_that_share_rings() {
        const EACH: u64 = 30_000;
        let memory = Arc::new(Memory::new());
        let writers: Vec<_> = (0..4_u64)
            .map(|thread| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    let programs = memory.programs();
                    let mut written = 0;
                    for number in 0..EACH {
                        let ring = programs.ring((thread % 2) as usize);
                        let claimed = 1 + (number * 7 + thread) % 90;
                        let used = number % (claimed + 1);
                        let position = loop {
                            match ring.claim(claimed) {
                                Some(position) => break position,
                                // Full.
                                None => thread::yield_now(),
                            }
                        };
                        if used == 0 {
                            give_back(&ring, position, claimed);
                        } else {
                            ring.write(position, claimed, used, [thread, number]);
                            written += 1;
                        }
                    }
                    written
                })
            })
            .collect();
        let mut records = memory.records();
        let mut seen: HashMap<u64, (u64, Option<u64>)> = HashMap::new();
        let mut drain = || {
            records.drain_at(u64::MAX, 1000, |record| {
                let [thread, number] = numbers(record);
                let (count, last) = seen.entry(thread).or_default();
                assert!(last.is_none_or(|last| last < number), "{thread}: {number} after {last:?}");
                (*count, *last) = (*count + 1, Some(number));
            })
        };
        while !writers.iter().all(thread::JoinHandle::is_finished) {
            drain();
        }
        while drain() != 0 {}
        let written: Vec<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let seen: Vec<u64> =
            (0..4).map(|thread| seen.get(&thread).map_or(0, |seen| seen.0)).collect();
        assert_eq!(seen, written);
        assert!(written.iter().all(|written| *written > EACH / 2));
    }
}
