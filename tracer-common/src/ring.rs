//! The ring buffer of records: one for each CPU, in memory that the eBPF programs and user space share.
//!
//! The kernel's own ring buffer has one lock, which every hit on every CPU takes. Here, a program claims slots
//! of its CPU's ring with a compare-and-swap, fills them, and commits them. This is exact however a ring is
//! shared: by programs that preempt each other on a CPU, or by several CPUs.
//!
//! A *position* counts slots from the start of the run. A ring has a *head*, the first position that is not
//! claimed, and a *tail*, the first that user space has not consumed. The head may move back, so a position can
//! be claimed twice, but it is committed only once. Each slot has a *commit word*, apart from the records, so
//! that nothing a traced program passes can look like one. It names its position, so what an earlier round has
//! left there is never taken for a commit of this one. User space consumes records in the order of their
//! positions and stops at the first that is not committed.
//!
//! A program may claim more than it needs. When it commits, it moves the head back to what it has used. If
//! another claim has followed meanwhile, it cannot, and the rest stays unused. In the same way, a claim can be
//! given back.
//!
//! Slots lie in segments, and no record crosses from one into the next, so that each is one range of memory of
//! a length that the kernel's verifier knows. A claim that does not fit into the rest of a segment claims that
//! rest too and commits it as a gap.

use crate::record::SLOT_ROOM;

/// Slots of a segment.
pub const SEGMENT_SLOTS: u64 = 2048;
/// Bytes of the records in a segment.
pub const SEGMENT_BYTES: usize = SEGMENT_SLOTS as usize * SLOT_ROOM;
/// The fewest segments of a ring. With one, a large record would not fit at every head.
pub const LEAST_SEGMENTS: u32 = 2;
/// The fewest bytes of a ring buffer.
pub const LEAST_BYTES: u64 = LEAST_SEGMENTS as u64 * SEGMENT_BYTES as u64;
/// How often a claim is tried while others claim, too. On one CPU, the second try succeeds unless the program is
/// preempted again; with many CPUs on one ring, a claim may lose every time.
const TRIES: usize = 16;

/// The two ends of a ring, each on cache lines of its own: the programs write one, user space the other.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The first position that is not claimed.
    pub head: u64,
    /// Unused.
    pub pad: [u64; 15],
    /// The first position that is not consumed.
    pub tail: u64,
    /// Unused.
    pub pad_after: [u64; 15],
}

/// Part of a ring.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// The commit word of each slot.
    pub commits: [u64; SEGMENT_SLOTS as usize],
    /// The slots.
    pub records: [u8; SEGMENT_BYTES],
}

/// Bits of a commit word below its position.
const LENGTH_BITS: u32 = 13;
/// Among them: it is a gap.
const GAP: u64 = 1 << (LENGTH_BITS - 1);

/// What was committed at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// How many slots, at most those of a segment.
    pub slots: u64,
    /// They hold no record.
    pub is_gap: bool,
}

impl Commit {
    /// As a commit word has it.
    #[inline(always)]
    pub const fn word(self, position: u64) -> u64 {
        let gap = if self.is_gap { GAP } else { 0 };
        // Not 0, which is what a new ring has.
        ((position + 1) << LENGTH_BITS) | gap | self.slots
    }

    /// What a slot's commit word says of this position; `None` if it is not committed.
    pub const fn at(position: u64, word: u64) -> Option<Self> {
        if word >> LENGTH_BITS != (position + 1) & (u64::MAX >> LENGTH_BITS) {
            return None;
        }
        let slots = word & (GAP - 1);
        // No program writes anything else.
        if slots == 0 || slots > SEGMENT_SLOTS - position % SEGMENT_SLOTS {
            return None;
        }
        Some(Self { slots, is_gap: word & GAP != 0 })
    }
}

/// What the sides share of a ring. All access is atomic. What was written before
/// [`commit`](Self::commit) is seen by who sees the commit; [`move_head`](Self::move_head) is ordered with
/// everything.
pub trait Shared {
    /// See [`Ends::head`].
    fn head(&self) -> u64;
    /// See [`Ends::tail`]. What user space did before it wrote the tail comes before what follows.
    fn tail(&self) -> u64;
    /// Makes the head `new` if it is `old`; whether it was.
    fn move_head(&self, old: u64, new: u64) -> bool;
    /// Writes the commit word of a position.
    fn commit(&self, position: u64, word: u64);
}

/// Claims `slots` consecutive slots, at most those of the largest record, in a ring of `capacity` slots; the
/// position of the first. `None` if the ring is full, or if other claims were faster at every try.
#[inline(always)]
pub fn claim(ring: &impl Shared, slots: u64, capacity: u64) -> Option<u64> {
    for _ in 0..TRIES {
        let head = ring.head();
        let left = SEGMENT_SLOTS - head % SEGMENT_SLOTS;
        let gap = if slots > left { left } else { 0 };
        let end = head + gap + slots;
        // Negative if the head has moved in the meantime, and user space has followed.
        if end.wrapping_sub(ring.tail()) as i64 > capacity as i64 {
            return None;
        }
        if ring.move_head(head, end) {
            if gap != 0 {
                ring.commit(head, Commit { slots: gap, is_gap: true }.word(head));
            }
            return Some(head + gap);
        }
    }
    None
}

/// Gives up the claimed slots after the first `used`; how many remain to be committed.
#[inline(always)]
pub fn trim(ring: &impl Shared, position: u64, claimed: u64, used: u64) -> u64 {
    if used < claimed && ring.move_head(position + claimed, position + used) {
        used
    } else {
        claimed
    }
}

/// Gives back all that was claimed.
#[inline(always)]
pub fn give_back(ring: &impl Shared, position: u64, claimed: u64) {
    if !ring.move_head(position + claimed, position) {
        ring.commit(position, Commit { slots: claimed, is_gap: true }.word(position));
    }
}

/// How many rings there are, and how many segments each has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// A power of two. A CPU uses the ring that its number, modulo this, gives.
    pub rings: u32,
    /// A power of two.
    pub segments: u32,
}

impl Shape {
    /// One ring per CPU if `bytes` allow, else fewer; `cpus` is one more than the highest number of a CPU. Of the
    /// bytes, a power of two is used, at least [`LEAST_BYTES`].
    pub const fn of(cpus: u32, bytes: u64) -> Self {
        let bytes = if bytes < LEAST_BYTES { LEAST_BYTES } else { bytes };
        let all = 1u32 << (bytes / SEGMENT_BYTES as u64).ilog2();
        let (most, wanted) = (all / LEAST_SEGMENTS, cpus.next_power_of_two());
        let rings = if wanted < most { wanted } else { most };
        Self { rings, segments: all / rings }
    }

    /// Slots of a ring.
    pub const fn capacity(self) -> u64 {
        self.segments as u64 * SEGMENT_SLOTS
    }
}

const _: () = assert!(size_of::<Ends>() == 256);
const _: () = assert!(SEGMENT_SLOTS < GAP);

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that memory is what was asked for, and that no ring has fewer than the fewest segments.
    #[test]
    fn shapes() {
        let shape = |cpus, bytes| {
            let Shape { rings, segments } = Shape::of(cpus, bytes);
            (rings, segments)
        };
        assert_eq!(shape(2, 16 << 20), (2, 64));
        assert_eq!(shape(1, 16 << 20), (1, 128));
        assert_eq!(shape(64, 16 << 20), (64, 2));
        assert_eq!(shape(256, 16 << 20), (64, 2));
        assert_eq!(shape(3, 256 << 10), (1, 2));
        assert_eq!(shape(6, 1 << 30), (8, 1024));
        assert_eq!(shape(2, 0), (1, 2));
    }

    /// Check that a commit word says what was committed, and nothing about the same slot in another round.
    #[test]
    fn commit_words() {
        for position in [0, 1, 2047, 2048, 5 << 40] {
            for commit in [Commit { slots: 1, is_gap: false }, Commit { slots: 1, is_gap: true }] {
                let word = commit.word(position);
                assert_eq!(Commit::at(position, word), Some(commit));
                assert_eq!(Commit::at(position + SEGMENT_SLOTS, word), None);
                assert_ne!(word, 0);
            }
        }
        assert_eq!(Commit::at(2047, Commit { slots: 2, is_gap: false }.word(2047)), None);
        assert_eq!(Commit::at(0, 0), None);
    }
}
