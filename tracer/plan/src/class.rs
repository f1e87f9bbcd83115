//! How the kernel runs the instruction under a breakpoint.
//!
//! An instruction's [`Form`] is how it looks to the kernel's uprobes, and is read off its bytes. How the
//! kernel runs a form, its [`Class`], differs between kernels, so it is measured
//! ([`Costs`](super::Costs)); without measurements, [`Classes::assumed`] has the usual ones.

use std::fmt;

use faultline_resolve::Arch;

/// Instructions that kernels treat alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// x86-64: the nop of five bytes that compilers emit for tracing.
    Nop5,
    /// A nop of one instruction's usual length: a byte on x86-64.
    Nop,
    /// x86-64: `push` of a register.
    Push,
    /// A relative jump or call; on aarch64 any branch, and what reads the program counter.
    Jump,
    /// A landing pad: `endbr64`, `bti`.
    LandingPad,
    /// Everything else.
    Other,
    /// x86-64: the longer nops that assemblers pad with, each as long as its name says. Kernels
    /// differ in which of them they emulate.
    Nop2,
    /// See [`Nop2`](Self::Nop2).
    Nop3,
    /// See [`Nop2`](Self::Nop2).
    Nop4,
    /// See [`Nop2`](Self::Nop2).
    Nop6,
    /// See [`Nop2`](Self::Nop2).
    Nop7,
    /// See [`Nop2`](Self::Nop2).
    Nop8,
    /// See [`Nop2`](Self::Nop2).
    Nop9,
    /// The same with a segment prefix, for which kernels before 7.2 refuse the breakpoint; that one
    /// replaces it by a call.
    Nop10,
    /// The return to the caller.
    Ret,
}

/// How the kernel runs an instruction; the first is the cheapest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The breakpoint is replaced by a call.
    Optimised,
    /// Emulated by the kernel.
    Emulated,
    /// The same, as aarch64 calls it.
    Simulated,
    /// Run elsewhere, with two more traps.
    SingleStepped,
    /// The kernel refuses a breakpoint on it.
    Refused,
}

impl Form {
    /// Every form, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Nop5,
        Self::Nop,
        Self::Push,
        Self::Jump,
        Self::LandingPad,
        Self::Other,
        Self::Nop2,
        Self::Nop3,
        Self::Nop4,
        Self::Nop6,
        Self::Nop7,
        Self::Nop8,
        Self::Nop9,
        Self::Nop10,
        Self::Ret,
    ];

    /// The form of the first instruction of `code`.
    ///
    /// Source: `branch_setup_ops`, `push_setup_ops` and `is_optimize` in
    /// `arch/x86/kernel/uprobes.c`, without prefixes, which some versions take and some do not;
    /// `arm_probe_decode_insn` in `arch/arm64/kernel/probes/decode-insn.c`.
    #[must_use]
    pub fn of(arch: Arch, code: &[u8]) -> Self {
        match arch {
            Arch::X86_64 => Self::of_x86(code),
            Arch::Aarch64 => match code.first_chunk() {
                Some(word) => Self::of_aarch64(u32::from_le_bytes(*word)),
                None => Self::Other,
            },
        }
    }

    fn of_x86(code: &[u8]) -> Self {
        match code {
            [0x0f, 0x1f, 0x44, 0x00, 0x00, ..] => Self::Nop5,
            [0x90, ..] => Self::Nop,
            [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..] => Self::Push,
            [0x70..=0x7f | 0xe8 | 0xe9 | 0xeb, ..] | [0x0f, 0x80..=0x8f, ..] => Self::Jump,
            [0xf3, 0x0f, 0x1e, 0xfa, ..] => Self::LandingPad,
            [0x66, 0x90, ..] => Self::Nop2,
            [0x0f, 0x1f, 0x00, ..] => Self::Nop3,
            [0x0f, 0x1f, 0x40, 0x00, ..] => Self::Nop4,
            [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00, ..] => Self::Nop6,
            [0x0f, 0x1f, 0x80, 0, 0, 0, 0, ..] => Self::Nop7,
            [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, ..] => Self::Nop8,
            [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, ..] => Self::Nop9,
            [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, ..] => Self::Nop10,
            [0xc2 | 0xc3, ..] | [0xf2 | 0xf3, 0xc2 | 0xc3, ..] => Self::Ret,
            _ => Self::Other,
        }
    }

    fn of_aarch64(word: u32) -> Self {
        /// Mask and value that identify an instruction, in the order of the manual.
        const SIMULATED: [(u32, u32); 7] = [
            (0xff00_0010, 0x5400_0000), // b.cond
            (0x7c00_0000, 0x1400_0000), // b, bl
            (0x7e00_0000, 0x3400_0000), // cbz, cbnz
            (0x7e00_0000, 0x3600_0000), // tbz, tbnz
            (0xff9f_fc1f, 0xd61f_0000), // br, blr, ret
            (0x1f00_0000, 0x1000_0000), // adr, adrp
            (0x3b00_0000, 0x1800_0000), // ldr, a literal
        ];
        match word {
            0xd503_201f => Self::Nop,
            0xd65f_03c0 => Self::Ret,
            0xd503_241f | 0xd503_245f | 0xd503_249f | 0xd503_24df => Self::LandingPad,
            _ if SIMULATED.iter().any(|(mask, value)| word & mask == *value) => Self::Jump,
            _ => Self::Other,
        }
    }
}

/// How a kernel runs each form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classes(pub [Class; Form::ALL.len()]);

impl Classes {
    /// The usual classes on x86-64 since Linux 6.18; earlier kernels emulate what this one optimises.
    #[must_use]
    pub fn assumed() -> Self {
        Self(Form::ALL.map(|form| match form {
            Form::Nop5 => Class::Optimised,
            Form::Nop | Form::Push | Form::Jump => Class::Emulated,
            Form::Nop2 | Form::Nop3 | Form::Nop4 | Form::Nop6 | Form::Nop7 | Form::Nop8 => {
                Class::Emulated
            }
            Form::LandingPad | Form::Other | Form::Nop9 | Form::Ret => Class::SingleStepped,
            Form::Nop10 => Class::Refused,
        }))
    }

    /// The class of a form.
    #[must_use]
    pub fn of(&self, form: Form) -> Class {
        self.0[form as usize]
    }
}

impl Default for Classes {
    fn default() -> Self {
        Self::assumed()
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nop5 => "5-byte nops",
            Self::Nop => "nops",
            Self::Push => "`push`",
            Self::Jump => "relative jumps and calls",
            Self::LandingPad => "landing pads",
            Self::Other => "other instructions",
            Self::Nop2 => "2-byte nops",
            Self::Nop3 => "3-byte nops",
            Self::Nop4 => "4-byte nops",
            Self::Nop6 => "6-byte nops",
            Self::Nop7 => "7-byte nops",
            Self::Nop8 => "8-byte nops",
            Self::Nop9 => "9-byte nops",
            Self::Nop10 => "10-byte nops",
            Self::Ret => "`ret`",
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimised => "optimised",
            Self::Emulated => "emulated",
            Self::Simulated => "simulated",
            Self::SingleStepped => "single-stepped",
            Self::Refused => "refused",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check which form each instruction has.
    #[test]
    fn forms() {
        for (code, form) in [
            (&[0x0f, 0x1f, 0x44, 0x00, 0x00][..], Form::Nop5),
            (&[0x90], Form::Nop),
            (&[0x66, 0x90], Form::Nop2),
            (&[0x0f, 0x1f, 0x00], Form::Nop3),
            (&[0x0f, 0x1f, 0x40, 0x00], Form::Nop4),
            (&[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00], Form::Nop6),
            (&[0x0f, 0x1f, 0x80, 0, 0, 0, 0], Form::Nop7),
            (&[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], Form::Nop8),
            (&[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], Form::Nop9),
            (&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], Form::Nop10),
            (&[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], Form::Other),
            (&[0xf3, 0x90], Form::Other),
            (&[0x41, 0x57], Form::Push),
            (&[0x0f, 0x84, 0, 0, 0, 0], Form::Jump),
            (&[0xf3, 0x0f, 0x1e, 0xfa], Form::LandingPad),
            (&[0xc3], Form::Ret),
            (&[0xf3, 0xc3], Form::Ret),
            (&[], Form::Other),
        ] {
            assert_eq!(Form::of(Arch::X86_64, code), form, "{code:x?}");
        }
        for (word, form) in [
            (0xd503_201f_u32, Form::Nop),
            (0xd503_245f, Form::LandingPad), // bti c
            (0x9400_0001, Form::Jump),       // bl
            (0xd65f_03c0, Form::Ret),        // ret
            (0xb400_0040, Form::Jump),       // cbz
            (0x9000_0000, Form::Jump),       // adrp
            (0xa9bf_7bfd, Form::Other),      // stp x29, x30, [sp, #-16]!
            (0xd503_233f, Form::Other),      // paciasp
        ] {
            assert_eq!(Form::of(Arch::Aarch64, &word.to_le_bytes()), form, "{word:x}");
        }
    }

    /// Check that a form's number is its place.
    #[test]
    fn numbers() {
        assert!(Form::ALL.iter().enumerate().all(|(index, form)| *form as usize == index));
    }
}
