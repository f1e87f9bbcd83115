//! Functions of our own to put breakpoints on. For each kind of first instruction there is a row of
//! identical functions, so that each measured case has its own; and there is a field of ten thousand tiny
//! functions.

use std::hint::black_box;

use super::super::own_code;
use faultline_plan::{AttachPlan, PlannedProbe};

/// Functions of each kind: this many cases can be attached at the same time.
const ROW: usize = 16;
/// Bytes from one function of a row to the next.
const ROW_STRIDE: usize = 16;
/// Functions that begin with the instruction the kernel handles fastest, for threads that call one each.
pub(super) const FAST: usize = 768;
/// Functions of the field.
pub(super) const FIELD: usize = 10_000;
/// Bytes from one function of the field to the next: it makes this program 40 KB larger (80 on
/// aarch64).
const FIELD_STRIDE: usize = if cfg!(target_arch = "x86_64") { 4 } else { 8 };

#[cfg(target_arch = "x86_64")]
own_code::functions! { of_each: 16, apart: 16;
    "faultline_bench_nop5": ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret";
    "faultline_bench_nop": "nop", "ret";
    "faultline_bench_push": "push rbx", "pop rbx", "ret";
    "faultline_bench_marker": "endbr64", "ret";
    "faultline_bench_other": "mov eax, edi", "ret";
}
#[cfg(target_arch = "x86_64")]
own_code::functions! { of_each: 768, apart: 16;
    "faultline_bench_fast": ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret";
}
#[cfg(target_arch = "x86_64")]
own_code::functions! { of_each: 10000, apart: 4;
    "faultline_bench_field": "push rbx", "pop rbx", "ret";
}
// `hint #34` is `bti c`, as an assembler without branch targets knows it.
#[cfg(target_arch = "aarch64")]
own_code::functions! { of_each: 16, apart: 16;
    "faultline_bench_nop": "nop", "ret";
    "faultline_bench_push": "stp x29, x30, [sp, #-16]!", "ldp x29, x30, [sp], #16", "ret";
    "faultline_bench_marker": "hint #34", "ret";
    "faultline_bench_other": "mov w0, w1", "ret";
}
#[cfg(target_arch = "aarch64")]
own_code::functions! { of_each: 768, apart: 16;
    "faultline_bench_fast": "nop", "ret";
}
#[cfg(target_arch = "aarch64")]
own_code::functions! { of_each: 10000, apart: 8;
    "faultline_bench_field": "nop", "ret";
}

unsafe extern "C" {
    #[cfg(target_arch = "x86_64")]
    fn faultline_bench_nop5();
    fn faultline_bench_nop();
    fn faultline_bench_push();
    fn faultline_bench_marker();
    fn faultline_bench_other();
    fn faultline_bench_fast();
    fn faultline_bench_field();
}

/// What a kind of instruction represents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The kernel may replace the breakpoint with a call (x86-64, 6.18).
    Optimisable,
    /// The kernel emulates it, which avoids single-stepping.
    Nop,
    /// How most functions begin.
    Prologue,
    /// How functions begin if they are built with branch protection.
    Marker,
    /// Anything else.
    Other,
}

/// A kind of instruction under the breakpoint.
#[derive(Debug, Clone, Copy)]
pub struct Instruction {
    /// Its name for programs.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// What it represents.
    pub role: Role,
    first: unsafe extern "C" fn(),
}

/// The kinds measured on this architecture.
#[cfg(target_arch = "x86_64")]
pub static INSTRUCTIONS: &[Instruction] = &[
    Instruction {
        id: "nop5",
        name: "5-byte nop",
        role: Role::Optimisable,
        first: faultline_bench_nop5,
    },
    Instruction { id: "nop", name: "nop", role: Role::Nop, first: faultline_bench_nop },
    Instruction { id: "push", name: "push", role: Role::Prologue, first: faultline_bench_push },
    Instruction {
        id: "endbr64",
        name: "endbr64",
        role: Role::Marker,
        first: faultline_bench_marker,
    },
    Instruction { id: "mov", name: "mov", role: Role::Other, first: faultline_bench_other },
];
/// The kinds measured on this architecture.
#[cfg(target_arch = "aarch64")]
pub static INSTRUCTIONS: &[Instruction] = &[
    Instruction { id: "nop", name: "nop", role: Role::Nop, first: faultline_bench_nop },
    Instruction { id: "stp", name: "stp", role: Role::Prologue, first: faultline_bench_push },
    Instruction { id: "bti", name: "bti c", role: Role::Marker, first: faultline_bench_marker },
    Instruction { id: "mov", name: "mov", role: Role::Other, first: faultline_bench_other },
];

/// The text that is passed to every function: 31 bytes, resident.
static TEXT: &std::ffi::CStr = c"/usr/share/doc/faultline/README";

/// A function of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    address: usize,
}

impl Function {
    /// A function in the row of an instruction.
    pub(super) fn of(instruction: &Instruction, slot: usize) -> Self {
        assert!(slot < ROW, "slot {slot} of {ROW}");
        Self { address: instruction.first as *const () as usize + slot * ROW_STRIDE }
    }

    /// A function that begins with the instruction the kernel handles fastest.
    pub(super) fn fast(index: usize) -> Self {
        assert!(index < FAST, "function {index} of {FAST}");
        Self { address: faultline_bench_fast as *const () as usize + index * ROW_STRIDE }
    }

    /// A function in the field.
    pub(super) fn of_field(index: usize) -> Self {
        assert!(index < FIELD, "function {index} of {FIELD}");
        Self { address: faultline_bench_field as *const () as usize + index * FIELD_STRIDE }
    }

    /// Calls it this many times, with a string and two numbers.
    pub(super) fn call(self, times: u32) {
        self.call_with(TEXT.as_ptr(), times);
    }

    /// Calls it this many times, with this as its first argument.
    pub(super) fn call_with(self, text: *const std::ffi::c_char, times: u32) {
        type Address = unsafe extern "C" fn(*const std::ffi::c_char, u64, u64) -> u64;
        // SAFETY: the address is that of one of our functions, which keep the calling convention
        // and take whatever they are given.
        let function: Address = unsafe { std::mem::transmute::<usize, Address>(self.address) };
        for number in 0..times {
            // SAFETY: the functions do nothing.
            unsafe { black_box(function)(text, u64::from(number), 2) };
        }
    }
}

/// A plan with a probe on each of the functions, as `shape` makes it.
pub(super) fn plan(
    functions: impl IntoIterator<Item = Function>,
    shape: impl Fn(&mut PlannedProbe),
) -> anyhow::Result<AttachPlan> {
    let mut functions = functions.into_iter().peekable();
    let Some(first) = functions.peek().copied() else { return Ok(AttachPlan::default()) };
    let model = own_code::probe("faultline:bench", first.address)?;
    let probes = functions.map(|function| {
        let mut probe = model.clone();
        // All of our code is one mapping.
        probe.offset.0 =
            probe.offset.0.wrapping_add(function.address as u64).wrapping_sub(first.address as u64);
        shape(&mut probe);
        probe
    });
    own_code::plan(probes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that each row, and the field, contains the functions it claims, where it claims.
    #[test]
    fn functions_begin_where_they_say() {
        let code = |function: Function| {
            // SAFETY: our own code, which is mapped readable.
            unsafe { *(function.address as *const [u8; 4]) }
        };
        for instruction in INSTRUCTIONS {
            let first = code(Function::of(instruction, 0));
            for slot in 1..ROW {
                assert_eq!(code(Function::of(instruction, slot)), first, "{}", instruction.id);
            }
        }
        let field = code(Function::of_field(0));
        for index in 0..FIELD - 1 {
            assert_eq!(code(Function::of_field(index))[..3], field[..3], "function {index}");
        }
        assert_eq!(code(Function::fast(0)), code(Function::fast(FAST - 1)));
        Function::of_field(FIELD - 1).call(3);
        Function::fast(FAST - 1).call(3);
    }
}
