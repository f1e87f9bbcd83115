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
    // Marks that nobody has taken are of an earlier hit, from after the old link had gone.
    let is_same_hit = marks.generation == generation && marks.place == place;
    if !is_same_hit || position(marks, probe).is_some() {
        marks.generation = generation;
        marks.place = place;
        marks.count = 0;
    }
    let free = marks.count as usize;
    if free >= MAX_MARKS {
        return None;
    }
    marks.probes[free & (MAX_MARKS - 1)] = probe;
    marks.count = free as u32 + 1;
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
    let last = marks.count.wrapping_sub(1);
    marks.probes[found & (MAX_MARKS - 1)] = marks.probes[last as usize & (MAX_MARKS - 1)];
    marks.count = last;
    true
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
