//! The interpreter of argument programs that read memory.
//!
//! Reads are optimistic: room is reserved, everything is read with helpers that do not fault, and
//! the record is submitted. Only where memory is not resident, the reservation is given back, one
//! page is faulted in with nothing held, and the whole is tried again. Holding a reservation
//! across a fault would keep every later record of every CPU from its reader until the page comes.
//!
//! Each operation is run by a function that the kernel's verifier looks at by itself (a "global" one):
//! once, with arguments of which nothing is known, and not again for every state that an attempt can
//! be in. Such a function may be handed plain memory only: no pointers in it, no byte of it
//! uninitialised.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{
        bpf_loop, bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_discard,
        bpf_ringbuf_reserve, bpf_ringbuf_submit,
    },
};
use tracer_common::{
    counter::Counter,
    program::{MAX_VALUES, ON_STACK, REGISTERS, ReadKind, ReadOp},
    record::{BlobRef, CLASSES, HEADER_BYTES, ReadStatus, SLOT_BYTES, SizeClass},
};

use crate::{
    emit::{Header, write_header},
    fault,
    maps::{self, RECORDS},
    stats::{self, Site},
};

/// Attempts of one hit. What exceeds this is memory that goes as fast as it comes.
const MAX_ATTEMPTS: u32 = 256;
/// From this attempt on nothing is faulted in any more, so that the rest suffices to finish.
const LAST_FAULTING_ATTEMPT: u64 = 200;
/// The smallest pages that there are.
const PAGE_BYTES: u64 = 4096;
/// Most pages that one string or range spans, wherever it begins.
const MAX_PAGES: u32 = (CLASSES[3].max_object as u64).div_ceil(PAGE_BYTES) as u32 + 1;

/// All that the attempts of one hit share. It lives on the stack of the program, so it survives
/// a sleep and no other hit can touch it.
///
/// Every byte counts: kernels before 6.8 round each frame up to 32 bytes, and the four that are
/// nested here have to fit into 512.
#[repr(C)]
pub(crate) struct Hit {
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    header: Header,
    /// [`ReadStatus`] of each slot, four bits each.
    statuses: u64,
    /// [`ReadStatus`] of the slots that are not to be read again, four bits each.
    given_up: u64,
    ops_len: u32,
    /// Index of the size class that the next attempt reserves.
    class: u32,
    /// A bit a slot: a page was faulted in for it.
    faulted: u32,
    zero: u32,
    site: Site,
}

/// A hit, and what it reads.
#[repr(C)]
pub(crate) struct Reading {
    hit: Hit,
    ops: *const ReadOp,
}

/// How far an attempt has come.
#[repr(C)]
struct Progress {
    /// Where the next string or range begins, from the end of the header.
    end: u64,
    /// Why the attempt ended early.
    stop: u64,
    /// With [`NOT_RESIDENT`]: for which slot `bytes` at `address` are wanted.
    slot: u64,
    address: u64,
    bytes: u64,
}

/// One attempt: the record that is being filled.
#[repr(C)]
struct Attempt {
    progress: Progress,
    reading: *mut Reading,
    /// What follows the header.
    data: *mut u8,
}

/// All slots are final.
const WHOLE: u64 = 0;
/// The next larger class is needed.
const TOO_SMALL: u64 = 1;
/// Memory is not resident.
const NOT_RESIDENT: u64 = 2;
/// The ring buffer has no room.
const RING_FULL: u64 = 3;

/// The operations of one hit.
pub(crate) struct Reads {
    pub(crate) ops: *const ReadOp,
    pub(crate) len: u8,
    /// The first size class to try. It comes out of the map although the planner always says the
    /// same: what the verifier cannot know it checks once for all values, and else once for each.
    pub(crate) class: u8,
}

/// Reads what `reads` says and writes the record.
#[inline(always)]
pub(crate) fn emit_objects(
    site: &Site,
    header: Header,
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    reads: Reads,
    place: &mut MaybeUninit<Reading>,
) {
    let Some(zero) = maps::zero() else { return };
    // SAFETY: the pointer is to a live map element.
    let zero = || unsafe { zero.read_volatile() };
    let hit = Hit {
        registers,
        stack_pointer,
        header,
        statuses: zero(),
        given_up: zero(),
        ops_len: u32::from(reads.len),
        class: u32::from(reads.class),
        faulted: zero() as u32,
        zero: zero() as u32,
        site: Site { probe: site.probe, cpu: site.cpu, pid_tgid: site.pid_tgid },
    };
    let reading = place.write(Reading { hit, ops: reads.ops });
    // SAFETY: the callback has the signature that the helper documents, and `reading` outlives it.
    unsafe {
        bpf_loop(MAX_ATTEMPTS, attempt as *mut _, (&raw mut *reading).cast(), 0);
    }
}

/// One attempt; 1 ends the loop.
unsafe extern "C" fn attempt(index: u64, reading: *mut Reading) -> i64 {
    // SAFETY: the loop's context is the `Reading` of `emit_objects`.
    let hit = unsafe { &raw mut (*reading).hit };
    // SAFETY: as above.
    let Hit { zero, header: Header { slots, .. }, class, .. } = unsafe { &*hit };
    let end = u64::from(*zero) + u64::from(*slots) * SLOT_BYTES as u64;
    let class = *class;
    let mut attempt = Attempt {
        progress: Progress { end, stop: WHOLE, slot: 0, address: 0, bytes: 0 },
        reading,
        data: core::ptr::null_mut(),
    };
    match class {
        0 => in_class::<0>(&mut attempt),
        1 => in_class::<1>(&mut attempt),
        2 => in_class::<2>(&mut attempt),
        3 => in_class::<3>(&mut attempt),
        _ => attempt.progress.stop = RING_FULL,
    }
    match attempt.progress.stop {
        WHOLE => {
            count_reads(reading);
            1
        }
        TOO_SMALL => {
            // SAFETY: as above; anew, because the operations have written to it.
            unsafe { (*hit).class += 1 };
            0
        }
        NOT_RESIDENT => {
            // SAFETY: as above.
            let hit = unsafe { &mut *hit };
            make_resident(hit, &attempt.progress, index < LAST_FAULTING_ATTEMPT);
            0
        }
        _ => {
            // SAFETY: as above.
            stats::add(unsafe { &(*hit).site }, Counter::RingFull, 1);
            1
        }
    }
}

/// Faults in the first page that is missing of what a slot reads, or gives the slot up.
///
/// Not a global function, which programs that cannot sleep must not call if it may sleep, be it in a
/// branch that is never taken.
#[inline(never)]
fn make_resident(hit: &mut Hit, progress: &Progress, may_fault: bool) {
    let slot = progress.slot & 0xf;
    let end = progress.address.saturating_add(progress.bytes);
    let mut search = Search { address: progress.address, end };
    // SAFETY: the callback has the signature that the helper documents, and `search` outlives it.
    unsafe { bpf_loop(MAX_PAGES, look_at_page as *mut _, (&raw mut search).cast(), 0) };
    let result = if !may_fault {
        Err(ReadStatus::Eagain)
    } else if search.end == FOUND {
        fault::fault_in(&hit.site, search.address)
    } else {
        // It has come by itself.
        return;
    };
    match result {
        Ok(()) => hit.faulted |= 1 << slot,
        Err(status) => hit.given_up |= (status as u64) << (slot * 4),
    }
}

/// The search for a page that is missing. Small: on 6.1 the stacks of all functions that call each
/// other just fit.
#[repr(C)]
struct Search {
    /// Where to look next, and in the end where it was found.
    address: u64,
    /// Where to end, or [`FOUND`].
    end: u64,
}

/// A page is missing. Nothing ends here that begins elsewhere.
const FOUND: u64 = 0;

/// Looks whether a page is resident; 1 ends the loop.
unsafe extern "C" fn look_at_page(index: u64, search: *mut Search) -> i64 {
    // SAFETY: the loop's context is the `Search` of `make_resident`.
    let search = unsafe { &mut *search };
    if index != 0 && search.address >= search.end {
        return 1;
    }
    let mut byte = 0u8;
    // SAFETY: the destination is one byte of our stack; the helper checks the address.
    let result =
        unsafe { bpf_probe_read_user((&raw mut byte).cast(), 1, search.address as *const _) };
    if result != 0 {
        search.end = FOUND;
        return 1;
    }
    search.address = (search.address & !(PAGE_BYTES - 1)).saturating_add(PAGE_BYTES);
    0
}

/// An attempt in the size class `C`.
///
/// It reaches the hit only through `attempt.reading`, as the operations do: the compiler takes for
/// granted that nobody else writes behind a reference.
#[inline(always)]
fn in_class<const C: usize>(attempt: &mut Attempt) {
    let size = const { (HEADER_BYTES + CLASSES[C].data_bytes) as u64 };
    let ring = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: `RECORDS` is a ring buffer; the reservation is submitted or discarded below.
    let record = unsafe { bpf_ringbuf_reserve(ring, size, 0) }.cast::<u8>();
    if record.is_null() {
        attempt.progress.stop = RING_FULL;
        return;
    }
    // SAFETY: the reservation begins with the header.
    attempt.data = unsafe { record.add(HEADER_BYTES) };
    // SAFETY: the `Reading` outlives the attempt.
    unsafe { (*attempt.reading).hit.statuses = 0 };
    // SAFETY: the callback has the signature that the helper documents, and `attempt` outlives it.
    unsafe {
        bpf_loop(MAX_VALUES as u32, next_op::<C> as *mut _, (&raw mut *attempt).cast(), 0);
    }
    if attempt.progress.stop == WHOLE {
        // SAFETY: the `Reading` outlives the attempt.
        let hit = unsafe { &(*attempt.reading).hit };
        // SAFETY: the reservation begins with the header and is eight-byte aligned.
        unsafe { write_header(record.cast(), &hit.site, &hit.header, hit.statuses) };
        // SAFETY: `record` is the live reservation.
        unsafe { bpf_ringbuf_submit(record.cast(), u64::from(BPF_RB_NO_WAKEUP)) };
    } else {
        // SAFETY: `record` is the live reservation.
        unsafe { bpf_ringbuf_discard(record.cast(), u64::from(BPF_RB_NO_WAKEUP)) };
    }
}

/// Runs the next operation; 1 ends the loop.
unsafe extern "C" fn next_op<const C: usize>(index: u64, attempt: *mut Attempt) -> i64 {
    // SAFETY: the loop's context is the `Attempt` of `in_class`.
    let attempt = unsafe { &mut *attempt };
    // SAFETY: the `Reading` outlives the attempt.
    let reading = unsafe { &mut *attempt.reading };
    if index >= u64::from(reading.hit.ops_len) || index >= MAX_VALUES as u64 {
        return 1;
    }
    // SAFETY: the operations are `MAX_VALUES` elements of a map value (a return has one, and
    // `ops_len` says so).
    let op = unsafe { reading.ops.add(index as usize) };
    let (hit, data) = (&raw mut reading.hit, attempt.data);
    let progress = &raw mut attempt.progress;
    // SAFETY: all of them are initialised, but for the record, of which only what has been written
    // is read; and a record of the class `C` has just so many bytes after its header.
    let ended = unsafe {
        match C {
            0 => run_op_0(hit, op, data.cast(), progress),
            1 => run_op_1(hit, op, data.cast(), progress),
            2 => run_op_2(hit, op, data.cast(), progress),
            _ => run_op_3(hit, op, data.cast(), progress),
        }
    };
    one_bit(ended)
}

/// Its lowest bit, as a number of which the compiler knows nothing: it would otherwise leave out the
/// mask that the kernel's verifier wants to see.
#[inline(always)]
fn one_bit(value: u64) -> i64 {
    let mut bit = value;
    // SAFETY: the instruction only changes its own operand.
    unsafe { asm!("{0} &= 1", inout(reg) bit, options(pure, nomem, nostack)) };
    bit as i64
}

/// The function that runs an operation in a size class. The verifier takes the size of the record
/// from the type of the argument.
macro_rules! run_op_in_class {
    ($name:ident, $data:ident, $class:literal) => {
        /// What follows the header in a record of the class.
        #[repr(C)]
        struct $data {
            bytes: [u8; CLASSES[$class].data_bytes],
        }

        /// [`run_op`] in the class.
        ///
        /// # Safety
        ///
        /// The pointers are valid for reads and writes.
        #[unsafe(no_mangle)]
        #[inline(never)]
        unsafe extern "C" fn $name(
            hit: *mut Hit,
            op: *const ReadOp,
            data: *mut $data,
            progress: *mut Progress,
        ) -> u64 {
            if hit.is_null() || op.is_null() || data.is_null() || progress.is_null() {
                return 1;
            }
            // SAFETY: as the caller promises.
            let (hit, op, progress) = unsafe { (&mut *hit, &*op, &mut *progress) };
            // SAFETY: as the caller promises.
            let data = unsafe { (&raw mut (*data).bytes).cast() };
            run_op(hit, op, data, progress, &CLASSES[$class])
        }
    };
}

run_op_in_class!(run_op_0, Data0, 0);
run_op_in_class!(run_op_1, Data1, 1);
run_op_in_class!(run_op_2, Data2, 2);
run_op_in_class!(run_op_3, Data3, 3);

/// Runs one operation; 1 ends the attempt.
#[inline(always)]
fn run_op(
    hit: &mut Hit,
    op: &ReadOp,
    data: *mut u8,
    progress: &mut Progress,
    class: &SizeClass,
) -> u64 {
    let slot = u64::from(op.slot & 0xf);
    let given_up = (hit.given_up >> (slot * 4)) & 0xf;
    let end = progress.end;
    let read =
        if given_up != 0 { Read::Failed(given_up) } else { read_one(hit, op, data, end, class) };
    let (value, status) = match read {
        Read::Value(value) => (value, ReadStatus::Whole as u64),
        Read::Blob { length, truncated } => {
            progress.end = end + u64::from(length);
            (BlobRef { offset: end as u32, length }.to_slot(), u64::from(truncated))
        }
        Read::Failed(status) => (0, status),
        Read::TooSmall => {
            progress.stop = TOO_SMALL;
            return 1;
        }
        Read::NotResident { address, bytes } => {
            progress.stop = NOT_RESIDENT;
            progress.slot = slot;
            progress.address = address;
            progress.bytes = bytes;
            return 1;
        }
    };
    hit.statuses |= status << (slot * 4);
    // SAFETY: every class has room for all slots, and `slot` is below 16.
    unsafe { data.cast::<u64>().add(slot as usize).write(value) };
    0
}

/// What came of one operation.
enum Read {
    Value(u64),
    Blob { length: u32, truncated: bool },
    Failed(u64),
    TooSmall,
    NotResident { address: u64, bytes: u64 },
}

/// One operation; strings and ranges go to `data + end`.
#[inline(always)]
fn read_one(hit: &Hit, op: &ReadOp, data: *mut u8, end: u64, class: &SizeClass) -> Read {
    let mut value = hit.registers[op.register as usize & (REGISTERS - 1)];
    if op.register == ON_STACK {
        let address = hit.stack_pointer.wrapping_add(u64::from(op.stack_offset));
        // SAFETY: the destination is eight bytes of our stack; the helper checks the address.
        let result =
            unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const _) };
        if result != 0 {
            return Read::NotResident { address, bytes: 8 };
        }
    }
    if op.kind == ReadKind::Value as u8 {
        return Read::Value(value);
    }
    if end > class.max_offset() as u64 {
        return Read::TooSmall;
    }
    // SAFETY: `end` is at most the largest offset of an object, so the object fits.
    let place = unsafe { data.add(end as usize) };
    if op.kind == ReadKind::Str as u8 {
        return read_str(value, op.max_bytes, place, class);
    }
    let mut length = u64::from(op.max_bytes);
    if op.kind == ReadKind::BytesOf as u8 {
        let status = (hit.statuses >> (u64::from(op.length_slot & 0xf) * 4)) & 0xf;
        if status != ReadStatus::Whole as u64 {
            return Read::Failed(status);
        }
        // SAFETY: every class has room for all slots; this one was filled before.
        let raw = unsafe { data.cast::<u64>().add((op.length_slot & 0xf) as usize).read() };
        let unused_bits = 64u32.wrapping_sub(u32::from(op.length_bits)) & 63;
        length = (raw << unused_bits) >> unused_bits;
        if op.length_signed != 0 && ((raw << unused_bits) as i64) < 0 {
            return Read::Failed(ReadStatus::Einval as u64);
        }
    }
    read_bytes(value, length, op.max_bytes, place, class)
}

#[inline(always)]
fn read_str(address: u64, max_bytes: u32, place: *mut u8, class: &SizeClass) -> Read {
    // The terminator, and one byte more: only then an exact fit differs from a cut string.
    let wanted = max_bytes.saturating_add(2);
    let limit = class.max_object as u32;
    let size = if wanted < limit { wanted } else { limit };
    // SAFETY: `place` has room for the class's largest object; the helper checks the address.
    let result = unsafe { bpf_probe_read_user_str(place.cast(), size, address as *const _) };
    if result < 0 {
        return Read::NotResident { address, bytes: u64::from(size) };
    }
    // The terminator included; but kernels as of 6.12 say 0 of a string that is empty.
    let length = result as u32;
    if length < size {
        Read::Blob { length: length.saturating_sub(1), truncated: false }
    } else if size < wanted {
        Read::TooSmall
    } else {
        Read::Blob { length: max_bytes, truncated: true }
    }
}

#[inline(always)]
fn read_bytes(
    address: u64,
    length: u64,
    max_bytes: u32,
    place: *mut u8,
    class: &SizeClass,
) -> Read {
    let truncated = length > u64::from(max_bytes);
    let size = if truncated { u64::from(max_bytes) } else { length };
    if size > class.max_object as u64 {
        return Read::TooSmall;
    }
    if size != 0 {
        // SAFETY: `place` has room for the class's largest object; the helper checks the address.
        let result = unsafe { bpf_probe_read_user(place.cast(), size as u32, address as *const _) };
        if result != 0 {
            return Read::NotResident { address, bytes: size };
        }
    }
    Read::Blob { length: size as u32, truncated }
}

/// Counts how each read of memory ended.
#[inline(always)]
fn count_reads(reading: *mut Reading) {
    // SAFETY: the callback has the signature that the helper documents, and `reading` outlives it.
    unsafe { bpf_loop(MAX_VALUES as u32, count_read as *mut _, reading.cast(), 0) };
}

/// Counts one read; 1 ends the loop.
unsafe extern "C" fn count_read(index: u64, reading: *mut Reading) -> i64 {
    // SAFETY: the loop's context is the `Reading`.
    let Reading { hit, ops } = unsafe { &*reading };
    if index >= u64::from(hit.ops_len) || index >= MAX_VALUES as u64 {
        return 1;
    }
    // SAFETY: as in `next_op`.
    let op = unsafe { &*ops.add(index as usize) };
    if op.kind == ReadKind::Value as u8 && op.register != ON_STACK {
        return 0;
    }
    let slot = u64::from(op.slot & 0xf);
    let status = (hit.statuses >> (slot * 4)) & 0xf;
    let counter = if status == ReadStatus::Whole as u64 {
        if hit.faulted & (1 << slot) != 0 { Counter::ReadFaulted } else { Counter::ReadResident }
    } else if status == ReadStatus::Truncated as u64 {
        Counter::ReadTruncated
    } else if status == ReadStatus::Efault as u64 {
        Counter::ReadEfault
    } else if status == ReadStatus::Einval as u64 {
        Counter::ReadEinval
    } else {
        Counter::ReadEagain
    };
    stats::add(&hit.site, counter, 1);
    0
}
