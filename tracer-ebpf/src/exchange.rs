//! While links are exchanged, a hit runs the programs of the old link and of the new one; one of
//! them takes it. See [`tracer_common::exchange`].

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::exchange::{MAX_MARKS, Marks};

use crate::maps;

/// Whether the hit is this link's: `place` is the same for all programs of a hit, and no other.
#[inline(always)]
pub(crate) fn takes(cookie: u64, pid_tgid: u64, place: u64) -> bool {
    if !maps::exchanges() {
        return true;
    }
    let exchange = maps::exchange();
    if exchange == 0 {
        return true;
    }
    let (probe, generation) = (cookie as u32, (cookie >> 32) as u32);
    if generation == exchange {
        if mark(pid_tgid, place, probe, generation).is_none() {
            maps::count_unmarked();
        }
        return true;
    }
    !unmark(pid_tgid, place, probe, exchange)
}

#[inline(always)]
fn mark(pid_tgid: u64, place: u64, probe: u32, generation: u32) -> Option<()> {
    let marks = match maps::MARKS.get_ptr_mut(&pid_tgid) {
        Some(marks) => marks,
        None => {
            let none = maps::NO_MARKS.get(0)?;
            maps::MARKS.insert(&pid_tgid, none, u64::from(BPF_NOEXIST)).ok()?;
            maps::MARKS.get_ptr_mut(&pid_tgid)?
        }
    };
    // SAFETY: only the task itself writes its marks, and it is this task that runs.
    let marks = unsafe { &mut *marks };
    if marks.generation != generation || marks.place != place {
        *marks = Marks { generation, place, ..Marks::default() };
    }
    // A mark that nobody has taken is of a hit after the old link had gone from here; that of this hit
    // takes its place, and becomes the newest, so that those of one hit stand together.
    if let Some(stale) = position(marks, probe) {
        remove(marks, stale);
    }
    if marks.count as usize >= MAX_MARKS {
        remove(marks, 0);
    }
    let free = marks.count as usize;
    marks.probes[free & (MAX_MARKS - 1)] = probe;
    marks.count = marks.count.wrapping_add(1);
    Some(())
}

#[inline(always)]
fn unmark(pid_tgid: u64, place: u64, probe: u32, exchange: u32) -> bool {
    let Some(marks) = maps::MARKS.get_ptr_mut(&pid_tgid) else { return false };
    // SAFETY: only the task itself writes its marks, and it is this task that runs.
    let marks = unsafe { &mut *marks };
    if marks.generation != exchange || marks.place != place {
        return false;
    }
    let Some(found) = position(marks, probe) else { return false };
    remove(marks, found);
    true
}

/// Takes a mark out; those after it move up.
#[inline(always)]
fn remove(marks: &mut Marks, found: usize) {
    for index in 0..MAX_MARKS - 1 {
        if index >= found {
            marks.probes[index] = marks.probes[index + 1];
        }
    }
    marks.count = marks.count.wrapping_sub(1);
}

const _: () = assert!(MAX_MARKS.is_power_of_two(), "the masks above");

#[inline(always)]
fn position(marks: &Marks, probe: u32) -> Option<usize> {
    let mut found = None;
    for index in 0..MAX_MARKS {
        if index < marks.count as usize && marks.probes[index] == probe {
            found = Some(index);
        }
    }
    found
}
