//! The exchange of links: how a hit that runs the programs of two links is counted once.
//!
//! A link holds many breakpoints and can only be released as a whole. To remove some of them, a new link
//! with the rest is attached before the old one is released, so that no hit is lost. A hit in between runs
//! the programs of both. The kernel runs the newer link's program first (`consumer_add` puts it at the head
//! of the list): it counts the hit and leaves a mark. The older link's program finds the mark and ignores
//! the hit. If a hit reaches only one of the links, it has no mark, or one that nothing looks for.
//!
//! Once no hit is under way that began before the new link was there, the old one is *retired*: it ignores
//! all hits from then on, and no marks are needed any more. Only then is it released. How long the kernel
//! takes to remove it, and who else has its descriptor, does not matter.
//!
//! The attach cookie's lower half is the probe, its upper half the link's number. Numbers rise.
//!
//! A probe whose return is traced has two breakpoints, which are set and removed one after the other. In
//! between, its calls would be seen to begin and not to end, or to end and not to have begun. So it has
//! a *gate*: the time from which on its calls count. The gate is closed before the breakpoints are
//! removed, and opened once they are set. A call that was open in between is lost: a later call of the
//! same function looks just like it.

/// Set in a probe's gate while it is closed: no call that begins is counted.
pub const GATE_CLOSED: u64 = 1 << 63;

/// The most probes of one hit that can be marked: as many as one breakpoint can have.
pub const MAX_MARKS: usize = 8;

/// The marks of a task, for the hit that it is in.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The exchange whose new links left them: the number of the first of these.
    pub exchange: u32,
    /// Marks in `probes`.
    pub count: u32,
    /// The hit: its instruction pointer, and [`AT_RETURN`].
    pub place: u64,
    /// The task, as [`RecordHeader::pid_tgid`](crate::record::RecordHeader::pid_tgid).
    pub pid_tgid: u64,
    /// The probes that are counted, and that older links ignore; the newest is the last.
    pub probes: [u32; MAX_MARKS],
}

/// Set in [`Marks::place`] for a return. No user program has code there.
pub const AT_RETURN: u64 = 1 << 63;

/// Set in the probe of a link's cookie at an instruction by which calls leave for another function. No plan
/// has so many probes.
pub const LEAVES: u32 = 1 << 31;

const _: () = assert!(size_of::<Marks>() == 24 + 4 * MAX_MARKS);
const _: () = assert!(MAX_MARKS.is_power_of_two(), "the masks below");

impl Marks {
    /// Marks a probe, for the older links of this hit.
    ///
    /// Marks of another hit or another exchange are dropped. If the same probe still has a mark, it is from
    /// an earlier hit that only reached the new link. The new mark replaces it and becomes the newest, so
    /// that the marks of one hit are next to each other.
    #[inline(always)]
    pub fn add(&mut self, exchange: u32, place: u64, probe: u32) {
        if self.exchange != exchange || self.place != place {
            *self = Self { exchange, place, pid_tgid: self.pid_tgid, ..Self::default() };
        }
        if let Some(stale) = self.position(probe) {
            self.remove(stale);
        }
        if self.count as usize >= MAX_MARKS {
            self.remove(0);
        }
        let free = self.count as usize;
        self.probes[free & (MAX_MARKS - 1)] = probe;
        self.count = self.count.wrapping_add(1);
    }

    /// Takes the mark that a newer link has left for this hit of the probe; whether there was one.
    #[inline(always)]
    pub fn take(&mut self, exchange: u32, place: u64, probe: u32) -> bool {
        if self.exchange != exchange || self.place != place {
            return false;
        }
        let Some(found) = self.position(probe) else { return false };
        self.remove(found);
        true
    }

    /// Takes a mark out; those after it move up.
    #[inline(always)]
    fn remove(&mut self, found: usize) {
        for index in 0..MAX_MARKS - 1 {
            if index >= found {
                self.probes[index] = self.probes[index + 1];
            }
        }
        self.count = self.count.wrapping_sub(1);
    }

    #[inline(always)]
    fn position(&self, probe: u32) -> Option<usize> {
        let mut found = None;
        for index in 0..MAX_MARKS {
            if index < self.count as usize && self.probes[index] == probe {
                found = Some(index);
            }
        }
        found
    }
}

/// The attach cookie of a probe in a link.
pub const fn cookie(probe: u32, link: u32) -> u64 {
    (link as u64) << 32 | probe as u64
}
