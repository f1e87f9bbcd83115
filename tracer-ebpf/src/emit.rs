//! From a hit to a record in the ring buffer.
//!
//! No record wakes the reader. A wakeup is the most expensive thing that a handler could do (6 µs; the
//! whole record takes 0.1 µs), so user space polls every few milliseconds.

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, pt_regs},
    helpers::generated::bpf_get_current_comm,
    maps::ring_buf::RingBufEntry,
};
use tracer_common::{
    counter::Counter,
    interpret::read::argument,
    program::{FLAG_REGISTERS_ONLY, MAX_VALUES, ProbeProgram, REGISTERS, ReadOp},
    record::{KIND_ENTRY, KIND_RETURN, ReadStatus, RecordHeader},
};

use crate::{
    maps::{self, RECORDS},
    read::{self, Reads},
    regs,
    returns::Ended,
    scratch::Scratch,
    stats::{self, Site},
    task,
};

const NO_WAKEUP: u64 = BPF_RB_NO_WAKEUP as u64;

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
            emit_values::<2>(site, header, scratch.registers(registers), &program.entry);
        } else {
            emit_values::<MAX_VALUES>(site, header, scratch.registers(registers), &program.entry);
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
            let Some(mut record) = reserve::<2>(site) else { return };
            let place = record.as_mut_ptr();
            let status = if knows_value { ReadStatus::Whole } else { ReadStatus::Enodata };
            // SAFETY: the reservation is ours and begins with the header.
            unsafe { write_header(&raw mut (*place).header, site, &header, status as u64) };
            // SAFETY: the reservation is ours and large enough; slots are plain integers.
            unsafe { (*place).slots[0] = value };
            record.submit(NO_WAKEUP);
        }
    }
}

#[inline(always)]
fn reserve<const N: usize>(site: &Site) -> Option<RingBufEntry<Values<N>>> {
    let record = RECORDS.reserve::<Values<N>>(0);
    if record.is_none() {
        stats::add(site, Counter::RingFull, 1);
    }
    record
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
    place.duration_ns = header.duration_ns;
    place.statuses = statuses;
    place.probe = site.probe;
    place.cpu = site.cpu as u16;
    place.kind = header.kind as u8;
    place.slots = header.slots as u8;
    // The helper pads the name with NULs and can only fail without a current task.
    // SAFETY: the helper writes the 16 bytes of `comm`.
    unsafe { bpf_get_current_comm(place.comm.as_mut_ptr().cast(), 16) };
    // Last, because the call leaves no register for what would be needed after it.
    place.pid_tgid = task::shown(site.pid_tgid);
}

#[inline(always)]
fn emit_values<const N: usize>(
    site: &Site,
    header: Header,
    registers: &[u64; REGISTERS],
    ops: &[ReadOp; MAX_VALUES],
) {
    let Some(mut record) = reserve::<N>(site) else { return };
    let slots = header.slots as usize;
    let record_place = record.as_mut_ptr();
    // SAFETY: the reservation is ours and begins with the header.
    unsafe { write_header(&raw mut (*record_place).header, site, &header, 0) };
    // SAFETY: the reservation is ours and large enough; slots are plain integers.
    let place = unsafe { &mut (*record_place).slots };
    for (slot, (place, op)) in place.iter_mut().zip(ops).enumerate() {
        if slot >= slots {
            break;
        }
        *place = argument(registers, op);
    }
    record.submit(NO_WAKEUP);
}
