//! From the named arguments to the operations that the eBPF program runs.
//!
//! Integer and pointer arguments go by position: System V AMD64 passes six in registers, AAPCS64
//! eight; the rest stand on the stack, eight bytes each, on x86-64 above the return address.

use tracer_common::{
    program::{
        FLAG_REGISTERS_ONLY, FLAG_TRACK_RETURN, MAX_VALUES, ON_STACK, ProbeProgram, ReadKind,
        ReadOp,
    },
    record::{MAX_OFFSET, MAX_READ_BYTES, SLOT_BYTES},
};

use faultline_resolve::{Arch, SkipReason};
use faultline_spec::{
    ArgSpec, ProbeSpec,
    types::{BytesLen, IntShape, Read},
};

/// Most bytes of a `str` without its own limit: the longest path (`PATH_MAX`).
pub const DEFAULT_STR_BYTES: u32 = 4096;
/// Most bytes of a `bytes[ARG]`: the longest TLS record.
pub const DEFAULT_BYTES: u32 = 16 * 1024;
/// Defaults shrink if a probe reads several objects, but not below this.
const LEAST_DEFAULT_BYTES: u32 = 256;

/// The program of a probe on `arch`.
///
/// # Errors
///
/// [`SkipReason::ReadsTooMuch`]: what it reads does not fit into a record.
/// [`SkipReason::StackInside`]: an argument on the stack, with a breakpoint past the entry.
pub(super) fn program(spec: &ProbeSpec, arch: Arch) -> Result<ProbeProgram, SkipReason> {
    let mut program = ProbeProgram::default();
    let places = Places::of(arch);
    let slots = slots(&spec.args);
    let limits = limits(&spec.args)?;

    let mut values = Vec::new();
    let mut objects = Vec::new();
    for (position, arg) in spec.args.iter().enumerate() {
        let (ArgSpec::Read { ty, .. }, Some(slot)) = (arg, slots[position]) else { continue };
        let mut op = places.op(position);
        if op.register == ON_STACK && spec.offset != 0 {
            return Err(SkipReason::StackInside);
        }
        op.slot = slot;
        match ty.read() {
            Read::Str { .. } => {
                op.kind = ReadKind::Str as u8;
                op.max_bytes = limits[position];
                objects.push(op);
            }
            Read::Bytes(length) => {
                op.kind = ReadKind::Bytes as u8;
                op.max_bytes = limits[position];
                if let BytesLen::Arg(other) = length
                    && let Some(length_slot) = slots.get(other).copied().flatten()
                {
                    let IntShape { bits, signed } = length_shape(&spec.args[other]);
                    op.kind = ReadKind::BytesOf as u8;
                    op.length_slot = length_slot;
                    op.length_bits = bits;
                    op.length_signed = u8::from(signed);
                }
                objects.push(op);
            }
            Read::Register => {
                op.kind = ReadKind::Value as u8;
                values.push(op);
            }
        }
    }
    // Lengths are values, so they are read before the ranges that need them.
    let registers_only = objects.is_empty() && values.iter().all(|op| op.register != ON_STACK);
    values.append(&mut objects);
    for (place, op) in program.entry.iter_mut().zip(&values) {
        *place = *op;
    }
    program.entry_len = values.len().min(MAX_VALUES) as u8;
    program.entry_slots = program.entry_len;
    if registers_only {
        program.flags |= FLAG_REGISTERS_ONLY;
        // The kernel side copies registers slot by slot.
        program.entry[..values.len()].sort_by_key(|op| op.slot);
    }
    if let Some(ty) = &spec.ret {
        program.flags |= FLAG_TRACK_RETURN;
        program.return_len = 1;
        match ty.read() {
            Read::Str { max } => {
                program.on_return.kind = ReadKind::Str as u8;
                program.on_return.max_bytes = max.unwrap_or(DEFAULT_STR_BYTES);
            }
            Read::Bytes(BytesLen::Const(length)) => {
                program.on_return.kind = ReadKind::Bytes as u8;
                program.on_return.max_bytes = length;
            }
            Read::Bytes(BytesLen::Arg(_)) | Read::Register => {
                program.return_flags |= FLAG_REGISTERS_ONLY;
            }
        }
    }
    Ok(program)
}

/// The slot of each argument position; `None` for those that are skipped.
fn slots(args: &[ArgSpec]) -> Vec<Option<u8>> {
    let mut next = 0;
    args.iter()
        .map(|arg| match arg {
            ArgSpec::Skip => None,
            ArgSpec::Read { .. } => {
                next += 1;
                Some(next - 1)
            }
        })
        .collect()
}

/// Most bytes of each position's string or range; 0 for what is neither.
fn limits(args: &[ArgSpec]) -> Result<Vec<u32>, SkipReason> {
    let wanted = args.iter().map(|arg| match arg {
        ArgSpec::Skip => Wanted::Exactly(0),
        ArgSpec::Read { ty, .. } => match ty.read() {
            Read::Str { max: Some(max) } => Wanted::Exactly(max),
            Read::Str { max: None } => Wanted::UpTo(DEFAULT_STR_BYTES),
            Read::Bytes(BytesLen::Const(length)) => Wanted::Exactly(length),
            Read::Bytes(BytesLen::Arg(_)) => Wanted::UpTo(DEFAULT_BYTES),
            Read::Register => Wanted::Exactly(0),
        },
    });
    let wanted: Vec<_> = wanted.collect();
    let exact: u64 = wanted.iter().map(Wanted::exact).sum();
    let flexible = wanted.iter().filter(|wanted| matches!(wanted, Wanted::UpTo(_))).count() as u64;
    let room = (MAX_OFFSET - MAX_VALUES * SLOT_BYTES) as u64;
    // The last object has a place of its own beyond `MAX_OFFSET`, but it need not be the largest
    // one that stands there, so all together are held to the room before it unless there is one.
    let objects = wanted.iter().filter(|wanted| !matches!(wanted, Wanted::Exactly(0))).count();
    let too_much = SkipReason::ReadsTooMuch {
        bytes: exact,
        most: if objects == 1 { u64::from(MAX_READ_BYTES) } else { room },
    };
    if objects > 1 && exact > room {
        return Err(too_much);
    }
    let share = match flexible {
        0 => 0,
        _ if objects == 1 => DEFAULT_BYTES,
        _ => ((room - exact) / flexible).min(u64::from(DEFAULT_BYTES)) as u32,
    };
    if flexible != 0 && share < LEAST_DEFAULT_BYTES {
        return Err(too_much);
    }
    Ok(wanted
        .iter()
        .map(|wanted| match *wanted {
            Wanted::Exactly(bytes) => bytes,
            Wanted::UpTo(bytes) => bytes.min(share),
        })
        .collect())
}

enum Wanted {
    /// The user's own number.
    Exactly(u32),
    /// A default, that may shrink.
    UpTo(u32),
}

impl Wanted {
    fn exact(&self) -> u64 {
        match self {
            Self::Exactly(bytes) => u64::from(*bytes),
            Self::UpTo(_) => 0,
        }
    }
}

/// The shape of an argument that is a length.
fn length_shape(arg: &ArgSpec) -> IntShape {
    let shape = match arg {
        ArgSpec::Read { ty, .. } => ty.as_length(),
        ArgSpec::Skip => None,
    };
    shape.unwrap_or(IntShape { bits: 64, signed: false })
}

/// Where a calling convention puts its arguments.
pub(super) struct Places {
    registers: usize,
    /// Offset of the first stack argument from the stack pointer at entry.
    first_on_stack: usize,
}

impl Places {
    pub(super) fn of(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self { registers: 6, first_on_stack: 8 },
            Arch::Aarch64 => Self { registers: 8, first_on_stack: 0 },
        }
    }

    pub(super) fn op(&self, position: usize) -> ReadOp {
        if position < self.registers {
            ReadOp { register: position as u8, ..ReadOp::default() }
        } else {
            let stack_offset = self.first_on_stack + (position - self.registers) * 8;
            ReadOp { register: ON_STACK, stack_offset: stack_offset as u16, ..ReadOp::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program_of(probe: &str, arch: Arch) -> ProbeProgram {
        program(&probe.parse().unwrap(), arch).unwrap()
    }

    /// Check that arguments past the registers are read from the stack, where each ABI has them.
    #[test]
    fn stack_arguments() {
        let probe = "t:f(a: i32, b: i32, c: i32, d: i32, e: i32, f: i32, g: i64, h: u8, i: u16)";
        let x86 = program_of(probe, Arch::X86_64);
        assert_eq!((x86.entry[5].register, x86.entry[5].stack_offset), (5, 0));
        assert_eq!((x86.entry[6].register, x86.entry[6].stack_offset), (ON_STACK, 8));
        assert_eq!((x86.entry[8].register, x86.entry[8].stack_offset), (ON_STACK, 24));
        let arm = program_of(probe, Arch::Aarch64);
        assert_eq!((arm.entry[7].register, arm.entry[7].stack_offset), (7, 0));
        assert_eq!((arm.entry[8].register, arm.entry[8].stack_offset), (ON_STACK, 0));
        assert_eq!(x86.flags & FLAG_REGISTERS_ONLY, 0);
    }

    /// Check that a length is read before the range it measures, and that slots keep the order in
    /// which the user named them.
    #[test]
    fn lengths_come_first() {
        let program = program_of("t:f(buf: bytes[n], _, n: i32)", Arch::X86_64);
        assert_eq!(program.entry_len, 2);
        assert_eq!((program.entry[0].slot, program.entry[0].register), (1, 2));
        let range = program.entry[1];
        assert_eq!((range.slot, range.register, range.length_slot), (0, 0, 1));
        assert_eq!((range.length_bits, range.length_signed), (32, 1));
        assert_eq!(range.max_bytes, DEFAULT_BYTES);
    }

    /// Check that several objects share a record, and that what can never fit is refused.
    #[test]
    fn objects_share_the_room() {
        let one = program_of("t:f(a: str[32768])", Arch::X86_64);
        assert_eq!(one.entry[0].max_bytes, 32768);
        let program = program_of(
            "t:f(n: u64, a: bytes[n], b: bytes[n], c: bytes[n], d: str, e: str)",
            Arch::X86_64,
        );
        let total: u32 = program.entry.iter().map(|op| op.max_bytes).sum();
        assert!(total as usize <= MAX_OFFSET, "{total}");
        let spec: ProbeSpec = "t:f(a: str[32768], b: str[32768])".parse().unwrap();
        assert!(matches!(program_err(&spec), SkipReason::ReadsTooMuch { .. }));
    }

    fn program_err(spec: &ProbeSpec) -> SkipReason {
        program(spec, Arch::X86_64).unwrap_err()
    }

    /// Check that registers alone make the fast form, sorted by slot.
    #[test]
    fn registers_only() {
        let program = program_of("t:f(a: u64, _, p: ptr) -> i32", Arch::X86_64);
        assert_eq!(program.flags, FLAG_REGISTERS_ONLY | FLAG_TRACK_RETURN);
        assert_eq!(program.return_flags, FLAG_REGISTERS_ONLY);
        assert_eq!(program.entry_slots, 2);
        assert_eq!((program.entry[1].slot, program.entry[1].register), (1, 2));
        let text = program_of("t:f() -> str", Arch::X86_64);
        assert_eq!(text.return_flags, 0);
        assert_eq!(text.entry_len, 0);
    }
}
