//! Judges conditions: [`tracer_common::interpret::judge`] in a loop, with a program's helpers.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_loop, bpf_probe_read_user, bpf_probe_read_user_str,
};
use tracer_common::{
    condition::{MAX_TESTS, Test},
    interpret::{
        Bounds, Memory,
        judge::{CHUNK_WORDS, Chunk, Facts, Judged, MAX_STEPS},
    },
    program::REGISTERS,
    record::ReadStatus,
};

use crate::{
    fault, maps,
    stats::Site,
    task,
    verifier::{self, Verified},
};

/// All that the steps share. It lives on the stack of the program, so it survives a sleep and no
/// other hit can touch it.
#[repr(C)]
pub(crate) struct Judging {
    steps: tracer_common::interpret::judge::Judging,
    tests: *const Test,
    site: Site,
}

/// Judges a hit by the condition of this index.
#[inline(always)]
pub(crate) fn judge(
    site: &Site,
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    condition: u32,
    place: &mut MaybeUninit<Judging>,
) -> Judged {
    let Some(condition) = maps::CONDITIONS.get_ptr(condition) else { return Judged::UNDECIDED };
    let Some(zero) = verifier::unknown_zeros() else { return Judged::UNDECIDED };
    // SAFETY: the pointer is to a live map element.
    let zero = || unsafe { zero.read_volatile() };
    let judging = place.write(Judging {
        steps: tracer_common::interpret::judge::Judging {
            registers,
            stack_pointer,
            next: zero(),
            position: zero(),
            saved: zero(),
        },
        // SAFETY: the pointer is to a live map element.
        tests: unsafe { (&raw const (*condition).tests).cast() },
        site: Site { probe: site.probe, cpu: site.cpu, pid_tgid: site.pid_tgid },
    });
    let judging = &raw mut *judging;
    // SAFETY: the callback has the signature that the helper documents, and `judging` outlives it.
    unsafe { bpf_loop(MAX_STEPS, step as *mut _, judging.cast(), 0) };
    // SAFETY: it was written above, and the loop has ended.
    unsafe { (*judging).steps.judged() }
}

/// One step; 1 ends the loop.
unsafe extern "C" fn step(index: u64, judging: *mut Judging) -> i64 {
    // SAFETY: the loop's context is the `Judging` of `judge`.
    let Judging { steps, tests, site } = unsafe { &mut *judging };
    let next = verifier::mask::<{ MAX_TESTS as u64 - 1 }>(steps.next);
    // SAFETY: a condition has `MAX_TESTS` tests.
    let test = unsafe { &*tests.add(next as usize) };
    i64::from(steps.step(index, test, &Hit(site)))
}

/// What a condition asks about a hit.
struct Hit<'a>(&'a Site);

impl Bounds for Hit<'_> {
    #[inline(always)]
    fn mask<const MASK: u64>(value: u64) -> u64 {
        Verified::mask::<MASK>(value)
    }
}

impl Memory for Hit<'_> {
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

impl Facts for Hit<'_> {
    #[inline(always)]
    fn pid_tgid(&self) -> u64 {
        task::shown(self.0.pid_tgid)
    }

    #[inline(always)]
    fn comm(&self, chunk: &mut Chunk, bytes: u32) {
        // SAFETY: a chunk has room for 16 bytes; the helper can only fail without a current task.
        unsafe { bpf_get_current_comm((&raw mut *chunk).cast(), bytes) };
    }

    #[inline(always)]
    fn copy(&self, chunk: &mut Chunk, bytes: u32, address: u64) -> bool {
        // SAFETY: the chunk has room; the helper checks the address.
        unsafe { bpf_probe_read_user((&raw mut *chunk).cast(), bytes, address as *const _) >= 0 }
    }

    #[inline(always)]
    fn copy_str(&self, chunk: &mut Chunk, bytes: u32, address: u64) -> bool {
        // SAFETY: the chunk has room; the helper checks the address.
        unsafe {
            bpf_probe_read_user_str((&raw mut *chunk).cast(), bytes, address as *const _) >= 0
        }
    }

    #[inline(always)]
    fn text(&self, text: u32, position: u64) -> Option<&[u64; CHUNK_WORDS]> {
        let text = maps::TEXTS.get_ptr(text)?;
        // SAFETY: as the caller knows, a whole chunk lies within the text from here on; texts are
        // eight-byte aligned, and so are chunks. User space has written them before the start.
        Some(unsafe { &*text.cast::<u8>().add(position as usize).cast() })
    }
}
