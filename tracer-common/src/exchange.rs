//! The exchange of links: how a hit that runs the programs of two links is counted once.
//!
//! A link holds many breakpoints and goes as a whole. To take some out of it, a new link with the
//! rest is attached before the old one is released, so that no hit is lost; a hit in between runs
//! the programs of both. The kernel runs the newer link's first (`consumer_add` puts it at the head
//! of the list), so that one counts and leaves a mark; the older one's finds the mark, and leaves
//! the hit alone. A hit that finds only one of the links has no mark, or one that nobody looks for.
//!
//! The attach cookie's lower half is the probe, its upper half the link's generation.

//!
//! A probe whose return is traced has two breakpoints, which come and go one after the other. In between
//! its calls would be seen to begin and not to end, or to end and not to have begun. So it has a
//! *gate*: the time since when its calls count. It is closed before the breakpoints go, and opened when
//! they have come. A call that was open meanwhile is lost: a later call of the same function looks
//! just like it.

/// Set in a probe's gate while it is closed: no call that begins is counted.
pub const GATE_CLOSED: u64 = 1 << 63;

/// Probes of one hit that can be marked at once: as many as one breakpoint has.
pub const MAX_MARKS: usize = 8;

/// The marks of a task, of the hit that it is in.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Generation of the links that left them.
    pub generation: u32,
    /// Marks in `probes`.
    pub count: u32,
    /// The hit: its instruction pointer, and [`AT_RETURN`].
    pub place: u64,
    /// The probes that are counted, and that older links leave alone; the newest is the last.
    pub probes: [u32; MAX_MARKS],
}

/// Set in [`Marks::place`] for a return: no program of a user lies there.
pub const AT_RETURN: u64 = 1 << 63;

const _: () = assert!(size_of::<Marks>() == 16 + 4 * MAX_MARKS);

/// The attach cookie of a probe in a link.
pub const fn cookie(probe: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | probe as u64
}
