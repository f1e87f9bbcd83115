//! From a hit to a record in the ring buffer.
//!
//! No record wakes the reader. A wakeup is the most expensive thing that a handler could do (6 µs), so user
//! space polls every few milliseconds.

use aya_ebpf::bindings::pt_regs;
use tracer_common::{
    counter::Counter,
    interpret::read::argument,
    program::{FLAG_REGISTERS_ONLY, MAX_VALUES, ProbeProgram, REGISTERS, ReadOp},
    record::{KIND_ENTRY, KIND_RETURN, ReadStatus, RecordHeader, SLOT_ROOM, STATUS_BITS},
};

use crate::{
    maps,
    read::{self, Reads},
    regs,
    returns::Ended,
    ring::Claim,
    scratch::Scratch,
    stats::{self, Site},
    task,
};

/// A record of registers alone.
#[repr(C)]
struct Values<const N: usize> {
    header: RecordHeader,
    slots: [u64; N],
}

/// What the header holds besides the site. No padding: see [`read::Hit`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) time_ns: u64,
    pub(crate) duration_ns: u64,
    pub(crate) kind: u32,
    pub(crate) slots: u32,
}

/// What is written for one hit.
pub(crate) struct Emission;

impl Emission {
    /// Writes the record of a function's entry.
    #[inline(always)]
    pub(crate) fn of_entry(
        site: &Site,
        regs: *const pt_regs,
        program: &ProbeProgram,
        stack_pointer: u64,
        now_ns: u64,
        scratch: &mut Scratch,
    ) {
        let header = Header {
            time_ns: now_ns,
            duration_ns: 0,
            kind: u32::from(KIND_ENTRY),
            slots: u32::from(program.entry_slots),
        };
        let registers = regs::arguments(regs);
        if maps::reads_memory() && program.flags & FLAG_REGISTERS_ONLY == 0 {
            let reads = Reads {
                ops: program.entry.as_ptr(),
                len: program.entry_len,
                class: program.entry_class,
            };
            read::emit_objects(site, header, registers, stack_pointer, reads, scratch.reading());
        } else if program.entry_slots <= 2 {
            emit_values::<2, 1>(site, header, scratch.registers(registers), &program.entry);
        } else {
            let registers = scratch.registers(registers);
            emit_values::<MAX_VALUES, 3>(site, header, registers, &program.entry);
        }
    }

    /// Writes the record of a function's return.
    #[inline(always)]
    pub(crate) fn of_return(
        site: &Site,
        ended: &Ended,
        program: &ProbeProgram,
        scratch: &mut Scratch,
    ) {
        let Ended { regs, now_ns, duration_ns, knows_value } = *ended;
        let header = Header {
            time_ns: now_ns,
            duration_ns,
            kind: u32::from(KIND_RETURN),
            slots: u32::from(program.return_len),
        };
        let value = regs::return_value(regs);
        if knows_value && maps::reads_memory() && program.return_flags & FLAG_REGISTERS_ONLY == 0 {
            let registers = [value; REGISTERS];
            let reads = Reads {
                ops: &raw const program.on_return,
                len: program.return_len,
                class: program.return_class,
            };
            read::emit_objects(site, header, registers, 0, reads, scratch.reading());
        } else {
            let Some(claim) = claim::<1>(site) else { return };
            let place: *mut Values<2> = claim.record::<1>().cast();
            let status = if knows_value { ReadStatus::Whole } else { ReadStatus::Enodata };
            // SAFETY: the claim is ours and large enough.
            unsafe { write_header(&raw mut (*place).header, site, &header, status as u64) };
            // SAFETY: as above; slots are plain integers.
            unsafe { (*place).slots[0] = value };
            claim.commit(1);
        }
    }
}

/// Claims slots of the ring, or counts the hit as lost.
#[inline(always)]
fn claim<const SLOTS: u64>(site: &Site) -> Option<Claim> {
    let claim = Claim::new::<SLOTS>(site);
    if claim.is_none() {
        stats::add(site, Counter::RingFull, 1);
    }
    claim
}

/// Writes the header, with the task's name, to `place`.
///
/// # Safety
///
/// `place` is valid for writes of a header.
#[inline(always)]
pub(crate) unsafe fn write_header(
    place: *mut RecordHeader,
    site: &Site,
    header: &Header,
    statuses: u64,
) {
    // SAFETY: as the caller promises; `comm` is filled below.
    let place = unsafe { &mut *place };
    place.time_ns = header.time_ns;
    place.statuses = statuses | (header.duration_ns << STATUS_BITS);
    place.probe = site.probe;
    place.cpu = site.cpu as u16;
    place.kind = header.kind as u8;
    place.slots = header.slots as u8;
    // SAFETY: records are eight-byte aligned, and the header has the name at a multiple of that.
    task::name(unsafe { &mut *place.comm.as_mut_ptr().cast() });
    // Last, because the call leaves no register for what would be needed after it.
    place.pid_tgid = task::shown(site.pid_tgid);
}

/// Writes up to `N` registers into a record of `SLOTS` slots of the ring.
#[inline(always)]
fn emit_values<const N: usize, const SLOTS: u64>(
    site: &Site,
    header: Header,
    registers: &[u64; REGISTERS],
    ops: &[ReadOp; MAX_VALUES],
) {
    const { assert!(size_of::<Values<N>>() <= SLOTS as usize * SLOT_ROOM) };
    let Some(claim) = claim::<SLOTS>(site) else { return };
    let slots = header.slots as usize;
    let record: *mut Values<N> = claim.record::<SLOTS>().cast();
    // SAFETY: the claim is ours and large enough.
    unsafe { write_header(&raw mut (*record).header, site, &header, 0) };
    // SAFETY: as above; slots are plain integers.
    let place = unsafe { &mut (*record).slots };
    for (slot, (place, op)) in place.iter_mut().zip(ops).enumerate() {
        if slot >= slots {
            break;
        }
        *place = argument(registers, op);
    }
    claim.commit(SLOTS);
}
