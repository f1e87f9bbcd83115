//! The ring of records of the CPU that a hit is on: [`tracer_common::ring`] in maps.

use tracer_common::{
    record::SLOT_ROOM,
    ring::{self, Commit, SEGMENT_SLOTS, Segment, Shared},
};

use crate::{maps, stats::Site, verifier};

/// A ring.
#[derive(Clone, Copy)]
struct Ring {
    number: u32,
    ends: *mut ring::Ends,
}

/// Slots that were claimed, and not yet committed.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    ring: Ring,
    /// The segment that they lie in.
    segment: *mut Segment,
    /// Of the first slot.
    pub(crate) position: u64,
}

impl Ring {
    #[inline(always)]
    fn of(site: &Site) -> Option<Self> {
        let number = maps::ring_of(site.cpu);
        maps::ring_ends(number).map(|ends| Self { number, ends })
    }

    #[inline(always)]
    fn segment(self, position: u64) -> Option<*mut Segment> {
        let segments = maps::ring_segments();
        let within = (position / SEGMENT_SLOTS) as u32 & segments.wrapping_sub(1);
        maps::segment(self.number.wrapping_mul(segments).wrapping_add(within))
    }
}

impl Shared for Ring {
    #[inline(always)]
    fn head(&self) -> u64 {
        // SAFETY: the pointer is to a live, aligned map element; others change it.
        unsafe { (&raw const (*self.ends).head).read_volatile() }
    }

    #[inline(always)]
    fn tail(&self) -> u64 {
        // SAFETY: as above; user space changes it.
        unsafe { (&raw const (*self.ends).tail).read_volatile() }
    }

    #[inline(always)]
    fn move_head(&self, old: u64, new: u64) -> bool {
        // SAFETY: the pointer is to a live map element.
        let head = unsafe { &raw mut (*self.ends).head };
        // SAFETY: as above, and aligned.
        unsafe { verifier::compare_and_swap(head, old, new) == old }
    }

    #[inline(always)]
    fn commit(&self, position: u64, word: u64) {
        if let Some(segment) = self.segment(position) {
            commit(segment, position, word);
        }
    }
}

#[inline(always)]
fn commit(segment: *mut Segment, position: u64, word: u64) {
    let slot = verifier::mask::<{ SEGMENT_SLOTS - 1 }>(position);
    // SAFETY: the pointer is to a live map element, and the slot below the array's length.
    let place = unsafe { (&raw mut (*segment).commits).cast::<u64>().add(slot as usize) };
    // SAFETY: as above, and aligned.
    unsafe { verifier::publish(place, word) };
}

impl Claim {
    /// Claims `SLOTS` slots in a row; `None` if the ring is full.
    #[inline(always)]
    pub(crate) fn new<const SLOTS: u64>(site: &Site) -> Option<Self> {
        let ring = Ring::of(site)?;
        let capacity = u64::from(maps::ring_segments()) * SEGMENT_SLOTS;
        let position = ring::claim(&ring, SLOTS, capacity)?;
        Some(Self { ring, segment: ring.segment(position)?, position })
    }

    /// The claim at this position that was made on this site's CPU.
    #[inline(always)]
    pub(crate) fn at(site: &Site, position: u64) -> Option<Self> {
        let ring = Ring::of(site)?;
        Some(Self { ring, segment: ring.segment(position)?, position })
    }

    /// The memory of `SLOTS` slots.
    #[inline(always)]
    pub(crate) fn record<const SLOTS: u64>(&self) -> *mut u8 {
        let slot = verifier::mask::<{ SEGMENT_SLOTS - 1 }>(self.position);
        // They are all in this segment.
        let slot = verifier::slot_with_room::<SLOTS>(slot) as usize;
        // SAFETY: the pointer is to a live map element, and the slots lie within it.
        unsafe { (&raw mut (*self.segment).records).cast::<u8>().add(slot * SLOT_ROOM) }
    }

    /// Hands all slots to user space.
    #[inline(always)]
    pub(crate) fn commit(&self, slots: u64) {
        let word = Commit { slots, is_gap: false }.word(self.position);
        commit(self.segment, self.position, word);
    }

    /// Hands the first `used` of them to user space, and gives up the rest.
    #[inline(always)]
    pub(crate) fn commit_some(&self, claimed: u64, used: u64) {
        self.commit(ring::trim(&self.ring, self.position, claimed, used));
    }

    /// Gives all slots back.
    #[inline(always)]
    pub(crate) fn give_back(&self, claimed: u64) {
        ring::give_back(&self.ring, self.position, claimed);
    }
}
