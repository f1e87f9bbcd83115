//! The memory that the stages of a hit use one after another.
//!
//! The BPF stack has 512 bytes for a program and all that it calls, and older kernels round each
//! frame up to 32. Judging a condition and reading memory each need much of it, and never at once;
//! the compiler gives them places of their own unless they are given one.

use core::mem::{ManuallyDrop, MaybeUninit};

use tracer_common::program::REGISTERS;

use crate::{condition::Judging, read::Reading};

/// Room for whichever stage is at work.
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

    /// Filled with registers, for what picks one by its index.
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
