//! Runs argument programs that read memory: [`tracer_common::interpret::read`] in loops, with the ring
//! buffer and a program's helpers.
//!
//! No claim is held across a fault: it would keep every later record of this CPU from its reader until the
//! page comes.
//!
//! Each operation is run by a function that the kernel's verifier looks at by itself (a "global" one):
//! once, with arguments of which nothing is known, and not again for every state that an attempt can
//! be in. Such a function may be handed plain memory only: no pointers in it, no byte of it
//! uninitialised.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user, bpf_probe_read_user_str};
use tracer_common::{
    counter::Counter,
    interpret::{
        Bounds, Memory,
        read::{
            LAST_FAULTING_ATTEMPT, MAX_ATTEMPTS, MAX_PAGES, NOT_RESIDENT, Progress, RING_FULL,
            Record, Search, TOO_SMALL, WHOLE,
        },
    },
    program::{MAX_VALUES, REGISTERS, ReadOp},
    record::{CLASSES, HEADER_BYTES, ReadStatus, SLOT_BYTES, SLOT_ROOM},
};

use crate::{
    emit::{Header, write_header},
    fault,
    ring::Claim,
    stats::{self, Site},
    verifier,
};

/// All that the attempts of one hit share. It lives on the stack of the program, so it survives
/// a sleep and no other hit can touch it.
///
/// Every byte counts: kernels before 6.8 round each frame up to 32 bytes, and the four that are
/// nested here have to fit into 512.
#[repr(C)]
pub(crate) struct Hit {
    reading: tracer_common::interpret::read::Reading,
    header: Header,
    site: Site,
}

/// A hit, and what it reads.
#[repr(C)]
pub(crate) struct Reading {
    hit: Hit,
    ops: *const ReadOp,
    /// Where the attempt's record is in its ring.
    position: u64,
}

/// One attempt: the record that is being filled.
#[repr(C)]
struct Attempt {
    progress: Progress,
    reading: *mut Reading,
    /// What follows the header.
    data: *mut u8,
}

/// The operations of one hit.
pub(crate) struct Reads {
    pub(crate) ops: *const ReadOp,
    pub(crate) len: u8,
    /// The first size class to try. It comes from the map although the planner always writes the same
    /// value: what the verifier does not know it checks once for all values, otherwise once for each.
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
    let Some(zero) = verifier::unknown_zeros() else { return };
    // SAFETY: the pointer is to a live map element.
    let zero = || unsafe { zero.read_volatile() };
    let hit = Hit {
        reading: tracer_common::interpret::read::Reading {
            registers,
            stack_pointer,
            statuses: zero(),
            given_up: zero(),
            ops_len: u32::from(reads.len),
            class: u32::from(reads.class),
            faulted: zero() as u32,
            first_blob: (zero() as u32).wrapping_add(header.slots * SLOT_BYTES as u32),
        },
        header,
        site: Site { probe: site.probe, cpu: site.cpu, pid_tgid: site.pid_tgid },
    };
    let reading = place.write(Reading { hit, ops: reads.ops, position: 0 });
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
    let (class, end) = unsafe { ((*hit).reading.class, u64::from((*hit).reading.first_blob)) };
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
            // SAFETY: as above; a new reference, because the operations have written to it.
            unsafe { (*hit).reading.class += 1 };
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
    let Hit { reading, site, .. } = hit;
    reading.make_resident(progress, may_fault, &Faulting(site), |search| {
        // SAFETY: the callback has the signature that the helper documents, and `search` outlives it.
        unsafe { bpf_loop(MAX_PAGES, look_at_page as *mut _, (&raw mut *search).cast(), 0) };
    });
}

/// Looks whether a page is resident; 1 ends the loop.
unsafe extern "C" fn look_at_page(index: u64, search: *mut Search) -> i64 {
    // SAFETY: the loop's context is the `Search` of `make_resident`.
    let search = unsafe { &mut *search };
    i64::from(search.step(index, fault::is_resident))
}

/// The memory of the program that was hit, with nothing held.
struct Faulting<'a>(&'a Site);

impl Bounds for Faulting<'_> {}

impl Memory for Faulting<'_> {
    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        fault::resident_word(address)
    }

    #[inline(always)]
    fn is_resident(&self, address: u64) -> bool {
        fault::is_resident(address)
    }

    #[inline(always)]
    fn fault_in(&self, address: u64) -> Result<(), ReadStatus> {
        fault::fault_in(self.0, address)
    }
}

/// An attempt in the size class `C`.
///
/// It accesses the hit only through `attempt.reading`, as the operations do: the compiler assumes that
/// nothing else writes through a reference.
#[inline(always)]
fn in_class<const C: usize>(attempt: &mut Attempt) {
    if !claim_room::<C>(attempt) {
        attempt.progress.stop = RING_FULL;
        return;
    }
    // SAFETY: the `Reading` outlives the attempt.
    unsafe { (*attempt.reading).hit.reading.statuses = 0 };
    // SAFETY: the callback has the signature that the helper documents, and `attempt` outlives it.
    unsafe {
        bpf_loop(MAX_VALUES as u32, next_op::<C> as *mut _, (&raw mut *attempt).cast(), 0);
    }
    hand_on::<C>(attempt);
}

/// Claims room for a record of the class `C`. In a frame of its own, which is gone when the operations run.
#[inline(never)]
fn claim_room<const C: usize>(attempt: &mut Attempt) -> bool {
    macro_rules! of {
        ($class:literal, $site:expr) => {{
            const SLOTS: u64 = CLASSES[$class].slots();
            Claim::new::<SLOTS>($site).map(|claim| (claim.position, claim.record::<SLOTS>()))
        }};
    }
    // SAFETY: the `Reading` outlives the attempt.
    let site = unsafe { &(*attempt.reading).hit.site };
    let claimed = match C {
        0 => of!(0, site),
        1 => of!(1, site),
        2 => of!(2, site),
        _ => of!(3, site),
    };
    let Some((position, record)) = claimed else { return false };
    // SAFETY: as above.
    unsafe { (*attempt.reading).position = position };
    // SAFETY: the claim begins with the header.
    attempt.data = unsafe { record.add(HEADER_BYTES) };
    true
}

/// Hands the record to user space if it is whole, or gives its room back.
#[inline(never)]
fn hand_on<const C: usize>(attempt: &mut Attempt) {
    let slots = const { CLASSES[C].slots() };
    // SAFETY: the `Reading` outlives the attempt; a new reference, because the operations have written to it.
    let Reading { hit, position, .. } = unsafe { &*attempt.reading };
    let Some(claim) = Claim::at(&hit.site, *position) else { return };
    if attempt.progress.stop == WHOLE {
        // SAFETY: the claim begins with the header, and is eight-byte aligned.
        unsafe {
            let header = attempt.data.sub(HEADER_BYTES).cast();
            write_header(header, &hit.site, &hit.header, hit.reading.statuses);
        }
        let used = HEADER_BYTES as u64 + attempt.progress.end;
        claim.commit_some(slots, used.div_ceil(SLOT_ROOM as u64));
    } else {
        claim.give_back(slots);
    }
}

/// Runs the next operation; 1 ends the loop.
unsafe extern "C" fn next_op<const C: usize>(index: u64, attempt: *mut Attempt) -> i64 {
    // SAFETY: the loop's context is the `Attempt` of `in_class`.
    let attempt = unsafe { &mut *attempt };
    // SAFETY: the `Reading` outlives the attempt.
    let reading = unsafe { &mut *attempt.reading };
    if index >= u64::from(reading.hit.reading.ops_len) || index >= MAX_VALUES as u64 {
        return 1;
    }
    // SAFETY: the operations are `MAX_VALUES` elements of a map value (a return has one, and
    // `ops_len` says so).
    let op = unsafe { reading.ops.add(index as usize) };
    let (hit, data) = (&raw mut reading.hit, attempt.data);
    let progress = &raw mut attempt.progress;
    // SAFETY: all of them are initialised, but for the record, of which only what has been written
    // is read; and a record of the class `C` has exactly that many bytes after its header.
    let ended = unsafe {
        match C {
            0 => run_op_0(hit, op, data.cast(), progress),
            1 => run_op_1(hit, op, data.cast(), progress),
            2 => run_op_2(hit, op, data.cast(), progress),
            _ => run_op_3(hit, op, data.cast(), progress),
        }
    };
    verifier::one_bit(ended)
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

        /// Runs one operation in the class; 1 ends the attempt.
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
            u64::from(hit.reading.run(op, &mut Data::<$class>(data), progress, &CLASSES[$class]))
        }
    };
}

run_op_in_class!(run_op_0, Data0, 0);
run_op_in_class!(run_op_1, Data1, 1);
run_op_in_class!(run_op_2, Data2, 2);
run_op_in_class!(run_op_3, Data3, 3);

/// What follows the header of a record.
struct Data<const C: usize>(*mut u8);

impl<const C: usize> Record for Data<C> {
    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        fault::resident_word(address)
    }

    #[inline(always)]
    fn slot(&self, slot: u64) -> u64 {
        // SAFETY: every class has room for all slots, and there are 16.
        unsafe { self.0.cast::<u64>().add(slot as usize).read() }
    }

    #[inline(always)]
    fn set_slot(&mut self, slot: u64, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.cast::<u64>().add(slot as usize).write(value) };
    }

    #[inline(always)]
    unsafe fn copy(&mut self, offset: u64, size: u32, address: u64) -> bool {
        // SAFETY: as the caller promises, that many bytes from there on lie within the record.
        let place = unsafe { self.0.add(verifier::in_class::<C>(offset) as usize) };
        // SAFETY: as above; the helper checks the address.
        unsafe { bpf_probe_read_user(place.cast(), size, address as *const _) == 0 }
    }

    #[inline(always)]
    unsafe fn copy_str(&mut self, offset: u64, size: u32, address: u64) -> i64 {
        // SAFETY: as the caller promises, that many bytes from there on lie within the record.
        let place = unsafe { self.0.add(verifier::in_class::<C>(offset) as usize) };
        // SAFETY: as above; the helper checks the address.
        unsafe { bpf_probe_read_user_str(place.cast(), size, address as *const _) }
    }
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
    let Reading { hit, ops, .. } = unsafe { &*reading };
    if index >= u64::from(hit.reading.ops_len) || index >= MAX_VALUES as u64 {
        return 1;
    }
    // SAFETY: as in `next_op`.
    let op = unsafe { &*ops.add(index as usize) };
    if let Some(counter) = hit.reading.outcome(op) {
        stats::add(&hit.site, counter, 1);
    }
    0
}
