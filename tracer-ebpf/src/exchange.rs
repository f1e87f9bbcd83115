//! While links are exchanged, a hit runs the programs of the old link and of the new one, and one of them
//! counts it. See [`tracer_common::exchange`].

use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    maps::{self, Live},
    task,
};

/// Whether this link counts the hit. `place` is the same for all programs of a hit, and differs from that
/// of any other hit.
#[inline(always)]
pub(crate) fn takes(live: Live, cookie: u64, pid_tgid: u64, place: u64) -> bool {
    if !maps::exchanges() {
        return true;
    }
    let (probe, link) = (cookie as u32, (cookie >> 32) as u32);
    // In this order: user space retires old links before it ends their exchange.
    let exchange = live.exchange();
    if live.is_retired(link) {
        return false;
    }
    if exchange == 0 {
        return true;
    }
    if link >= exchange {
        if mark(pid_tgid, place, probe, exchange).is_none() {
            maps::count_unmarked();
        }
        return true;
    }
    let Some(marks) = maps::MARKS.get_ptr_mut(&pid_tgid) else { return true };
    // SAFETY: only the task itself writes its marks, and it is this task that runs.
    let marks = unsafe { &mut *marks };
    !marks.take(exchange, place, probe)
}

#[inline(always)]
fn mark(pid_tgid: u64, place: u64, probe: u32, exchange: u32) -> Option<()> {
    let marks = match maps::MARKS.get_ptr_mut(&pid_tgid) {
        Some(marks) => marks,
        None => {
            let none = maps::NO_MARKS.get(0)?;
            maps::MARKS.insert(&pid_tgid, none, u64::from(BPF_NOEXIST)).ok()?;
            let marks = maps::MARKS.get_ptr_mut(&pid_tgid)?;
            // SAFETY: only the task itself writes its marks, and it is this task that runs.
            unsafe { (*marks).pid_tgid = task::shown(pid_tgid) };
            marks
        }
    };
    // SAFETY: as above.
    let marks = unsafe { &mut *marks };
    marks.add(exchange, place, probe);
    Some(())
}
