//! Memory that the stages of a hit use one after the other.
//!
//! The BPF stack has 512 bytes for a program and everything it calls, and older kernels round each frame up
//! to a multiple of 32. Judging a condition and reading memory both need much of it, but never at the same
//! time. Without this union, the compiler would give each its own place.

use core::mem::{ManuallyDrop, MaybeUninit};

use tracer_common::program::REGISTERS;

use crate::{condition::Judging, read::Reading};

/// Room for the stage that is running.
pub(crate) union Scratch {
    judging: ManuallyDrop<MaybeUninit<Judging>>,
    reading: ManuallyDrop<MaybeUninit<Reading>>,
    registers: [u64; REGISTERS],
}

impl Scratch {
    /// Not yet used.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { reading: ManuallyDrop::new(MaybeUninit::uninit()) }
    }

    /// As judging wants it.
    #[inline(always)]
    pub(crate) fn judging(&mut self) -> &mut MaybeUninit<Judging> {
        // SAFETY: uninitialised memory is all that is promised.
        unsafe { &mut self.judging }
    }

    /// Filled with registers, of which one is selected by its index.
    #[inline(always)]
    pub(crate) fn registers(&mut self, registers: [u64; REGISTERS]) -> &[u64; REGISTERS] {
        self.registers = registers;
        // SAFETY: just written.
        unsafe { &self.registers }
    }

    /// As reading wants it.
    #[inline(always)]
    pub(crate) fn reading(&mut self) -> &mut MaybeUninit<Reading> {
        // SAFETY: uninitialised memory is all that is promised.
        unsafe { &mut self.reading }
    }
}
