//! The straight code at a function's start: what each instruction there costs under a breakpoint,
//! and how far a breakpoint may move along it.
//!
//! An instruction may lie before the breakpoint only if everything that the probe looks at is as it
//! was at the entry: argument registers that it reads, the stack pointer (known exactly, or untouched
//! where the kernel replaces the return address), the arguments on the stack. And it must not be able to
//! fault: a call that crashes in its first instructions is one that a user wants to see. So only memory is
//! touched that is there in every function that runs: its own part of the stack, constants and variables of
//! its own file, and what the thread pointer points to.

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use crate::Form;
use faultline_resolve::Arch;

/// Most bytes that a breakpoint moves. Nearly all entry blocks are shorter.
pub(super) const MOST_BYTES: usize = 128;
/// What a function may use below its stack pointer, by the System V ABI.
const RED_ZONE: i64 = 128;
/// So far above the stack pointer at the entry are arguments.
const ARGUMENT_BYTES: i64 = 512;

/// What has to be at the breakpoint as it was at the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// A bit an argument register, in the order of the calling convention.
    pub(super) registers: u8,
    /// The return is traced: the kernel takes the return address from the top of the stack.
    pub(super) return_address: bool,
    /// The register with the running goroutine.
    pub(super) goroutine: bool,
    /// Memory, which may be any.
    pub(super) memory: bool,
    /// A call counts that fails in a read through a pointer.
    pub(super) reads_fail: bool,
}

impl Needs {
    /// Those of a probe that only counts.
    pub(super) const NONE: Self = Self {
        registers: 0,
        return_address: false,
        goroutine: false,
        memory: false,
        reads_fail: true,
    };
}

/// A place to which a breakpoint may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Bytes from the entry.
    pub(super) offset: usize,
    /// Bytes by which the stack pointer is lower there than at the entry.
    pub(super) stack_bias: u64,
    pub(super) form: Form,
}

/// The places of the entry block, the entry first. `code` begins at the entry.
pub(super) fn candidates(code: &[u8], needs: Needs) -> Vec<Candidate> {
    let code = &code[..code.len().min(MOST_BYTES)];
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut candidates = Vec::new();
    let mut frame = Frame { stack: 0, base: None, thread_offsets: 0, uses_red_zone: false };
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let offset = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        let form = Form::of(Arch::X86_64, &code[offset..]);
        // The kernel replaces these by a call, and some versions of it let that call overwrite what is below
        // the stack pointer.
        let may_overwrite = matches!(form, Form::Nop5 | Form::Nop10) && frame.uses_red_zone;
        if !may_overwrite {
            candidates.push(Candidate { offset, stack_bias: frame.stack.unsigned_abs(), form });
        }
        match frame.after(&instruction, &mut info, needs) {
            Some(after) => frame = after,
            None => break,
        }
    }
    candidates
}

/// Where the function's own part of the stack is, in bytes from the stack pointer at its entry.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// The stack pointer: never above the entry's.
    stack: i64,
    /// The frame pointer, once it points to the frame.
    base: Option<i64>,
    /// The registers, a bit each, that hold what was read from a constant place of the file: with the thread
    /// pointer, that is the address of a variable of the thread.
    thread_offsets: u16,
    /// Something was written below the stack pointer.
    uses_red_zone: bool,
}

impl Frame {
    /// The frame after an instruction, if nothing that matters is different then, and it cannot fault.
    fn after(
        self,
        instruction: &Instruction,
        info: &mut InstructionInfoFactory,
        needs: Needs,
    ) -> Option<Self> {
        let is_next = instruction.flow_control() == FlowControl::Next;
        if !is_next || instruction.has_lock_prefix() || !is_plain(instruction) {
            return None;
        }
        let mut after = self;
        let moves_stack = if instruction.mnemonic() == Mnemonic::Push {
            (instruction.stack_pointer_increment() == -8).then_some(8)
        } else {
            lowered_stack(instruction)
        };
        if let Some(bytes) = moves_stack {
            if needs.return_address {
                return None;
            }
            after.stack -= bytes;
        } else if let Some(base) = self.base_by(instruction) {
            after.base = Some(base);
        }
        let info = info.info(instruction);
        let touches_none = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64);
        for used in info.used_memory().iter().filter(|_| !touches_none) {
            if !after.may_touch(instruction, used, needs) {
                return None;
            }
            after.uses_red_zone |= moves_stack.is_none() && !is_read(used) && after.is_below(used);
        }
        let reads_offset = instruction.mnemonic() == Mnemonic::Mov
            && instruction.is_ip_rel_memory_operand()
            && instruction.op1_kind() == OpKind::Memory
            && instruction.op0_register().is_gpr64();
        for used in info.used_registers() {
            if matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
                continue;
            }
            let register = used.register().full_register();
            if register.is_gpr64() {
                let bit = 1 << register.number();
                after.thread_offsets &= !bit;
                after.thread_offsets |= if reads_offset { bit } else { 0 };
            }
            match register {
                Register::RSP if moves_stack.is_some() => {}
                Register::RSP => return None,
                Register::RBP if after.base == self.base => after.base = None,
                _ if is_needed(register, needs) => return None,
                _ => {}
            }
        }
        Some(after)
    }

    /// Where an instruction that sets the frame pointer makes it point to.
    fn base_by(self, instruction: &Instruction) -> Option<i64> {
        if instruction.op0_register() != Register::RBP {
            return None;
        }
        match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_register() == Register::RSP => Some(self.stack),
            Mnemonic::Lea
                if instruction.memory_base() == Register::RSP
                    && instruction.memory_index() == Register::None =>
            {
                self.stack.checked_add(instruction.memory_displacement64().cast_signed())
            }
            _ => None,
        }
    }

    /// Whether memory is below the stack pointer, as far as it is known.
    fn is_below(self, used: &UsedMemory) -> bool {
        match used.base() {
            Register::RSP => used.displacement().cast_signed() < 0,
            Register::RBP => {
                let at = self.base.map(|base| base + used.displacement().cast_signed());
                at.is_some_and(|at| at < self.stack)
            }
            _ => false,
        }
    }

    /// Whether memory is there in every function that runs, and no argument is written.
    fn may_touch(self, instruction: &Instruction, used: &UsedMemory, needs: Needs) -> bool {
        let reads = is_read(used);
        // Anything but the frame may be what the probe reads.
        let is_unseen = reads || !needs.memory;
        if used.access() == OpAccess::NoMemAccess || (reads && !needs.reads_fail) {
            return true;
        }
        if used.index() != Register::None {
            return false;
        }
        if used.segment() == Register::FS {
            let (base, offsets) = (used.base(), self.thread_offsets);
            let is_known = base.is_gpr64() && offsets & 1 << base.number() != 0;
            return is_unseen && (base == Register::None || is_known);
        }
        // A push stores where its stack pointer is afterwards.
        let is_push = instruction.mnemonic() == Mnemonic::Push && !reads;
        if !is_push && instruction.is_ip_rel_memory_operand() {
            return is_unseen;
        }
        let base = match used.base() {
            Register::RSP if is_push => return true,
            Register::RSP => Some(self.stack),
            Register::RBP => self.base,
            _ => None,
        };
        let displacement = used.displacement().cast_signed();
        let Some(at) = base.and_then(|base| base.checked_add(displacement)) else { return false };
        let end = at.saturating_add(used.memory_size().size() as i64);
        let top = if reads { ARGUMENT_BYTES } else { 0 };
        at >= self.stack - RED_ZONE && end <= top && at < end
    }
}

fn is_read(used: &UsedMemory) -> bool {
    matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
}

/// Bytes that `sub $N, %rsp` takes from the stack pointer.
fn lowered_stack(instruction: &Instruction) -> Option<i64> {
    let is_sub = instruction.mnemonic() == Mnemonic::Sub
        && instruction.op0_register() == Register::RSP
        && matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
    // A large frame is probed page by page; this one is not large.
    let bytes = || instruction.immediate(1);
    (is_sub && bytes() < 4096).then(|| bytes().cast_signed())
}

/// The argument registers of the System V AMD64 ABI.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

fn is_needed(register: Register, needs: Needs) -> bool {
    let full = register.full_register();
    if needs.goroutine && full == Register::R14 {
        return true;
    }
    let position = ARGUMENTS.iter().position(|argument| *argument == full);
    position.is_some_and(|position| needs.registers & (1 << position) != 0)
}

/// Instructions that move values and compute, and do nothing else. What is not here may trap, wait,
/// or depend on more than registers and memory.
fn is_plain(instruction: &Instruction) -> bool {
    // `cmov`, `set`: jumps are none of these.
    let is_conditional = instruction.condition_code() != ConditionCode::None;
    (is_conditional
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Endbr64
                | Mnemonic::Nop
                | Mnemonic::Mov
                | Mnemonic::Movzx
                | Mnemonic::Movsx
                | Mnemonic::Movsxd
                | Mnemonic::Lea
                | Mnemonic::Xor
                | Mnemonic::And
                | Mnemonic::Or
                | Mnemonic::Not
                | Mnemonic::Neg
                | Mnemonic::Add
                | Mnemonic::Sub
                | Mnemonic::Inc
                | Mnemonic::Dec
                | Mnemonic::Imul
                | Mnemonic::Test
                | Mnemonic::Cmp
                | Mnemonic::Bt
                | Mnemonic::Shl
                | Mnemonic::Shr
                | Mnemonic::Sar
                | Mnemonic::Cdqe
                | Mnemonic::Cwde
                | Mnemonic::Cdq
                | Mnemonic::Cqo
                | Mnemonic::Pxor
                | Mnemonic::Xorps
                | Mnemonic::Xorpd
                | Mnemonic::Vpxor
                | Mnemonic::Movd
                | Mnemonic::Movq
                | Mnemonic::Movaps
                | Mnemonic::Movapd
                | Mnemonic::Movups
                | Mnemonic::Movupd
                | Mnemonic::Movdqa
                | Mnemonic::Movdqu
                | Mnemonic::Movss
                | Mnemonic::Movsd
                | Mnemonic::Push
                | Mnemonic::Bswap
                | Mnemonic::Mul
                | Mnemonic::Rol
                | Mnemonic::Ror
                | Mnemonic::Adc
                | Mnemonic::Sbb
                | Mnemonic::Pcmpeqd
                | Mnemonic::Punpcklbw
                | Mnemonic::Punpcklwd
                | Mnemonic::Punpcklqdq
                | Mnemonic::Pshufd
        ))
        && !is_segment(instruction)
}

/// `mov` from and to segment, control and debug registers is another instruction.
fn is_segment(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| {
        let register = instruction.op_register(index);
        register.is_segment_register() || register.is_cr() || register.is_dr()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Needs = Needs::NONE;

    fn places(code: &[u8], needs: Needs) -> Vec<(usize, u64)> {
        candidates(code, needs).iter().map(|place| (place.offset, place.stack_bias)).collect()
    }

    /// Check that the block extends past instructions that do not affect the probe's values, and no
    /// further.
    #[test]
    fn blocks() {
        let first = |registers| Needs { registers, ..NOTHING };
        let ret = Needs { return_address: true, ..NOTHING };
        // endbr64; push rbp; mov rbp, rsp
        let push = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5];
        assert_eq!(
            places(&push, ret),
            [(0, 0), (4, 0)],
            "the kernel needs the return address on top"
        );
        assert_eq!(places(&push, NOTHING), [(0, 0), (4, 0), (5, 8)]);
        // endbr64; mov rax, rdi; test rsi, rsi; je
        let je = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xf8, 0x48, 0x85, 0xf6, 0x74, 0x05, 0x90];
        assert_eq!(places(&je, first(0b11)), [(0, 0), (4, 0), (7, 0), (10, 0)]);
        // xor edi, edi; call
        let zero = [0x31, 0xff, 0xe8, 0, 0, 0, 0];
        assert_eq!(places(&zero, first(0b01)), [(0, 0)], "rdi is read by the probe");
        assert_eq!(places(&zero, first(0b10)), [(0, 0), (2, 0)]);
        // sub rsp, 0x18; mov eax, [rdi]; ret
        let sub = [0x48, 0x83, 0xec, 0x18, 0x8b, 0x07, 0xc3];
        assert_eq!(places(&sub, NOTHING), [(0, 0), (4, 0x18)], "a load may fault");
        assert_eq!(places(&sub, ret), [(0, 0)]);
        // cpuid; nop / syscall; nop / ret; nop
        for code in [[0x0f, 0xa2, 0x90], [0x0f, 0x05, 0x90], [0xc3, 0x90, 0x90]] {
            assert_eq!(places(&code, NOTHING), [(0, 0)], "{code:x?}");
        }
        // mov dil, 1 changes a part of rdi
        assert_eq!(places(&[0x40, 0xb7, 0x01, 0x90], first(1)), [(0, 0)]);
        // mov ds, eax
        assert_eq!(places(&[0x8e, 0xd8, 0x90], NOTHING), [(0, 0)]);
    }

    /// How many instructions the breakpoint may move past.
    fn passed(code: &[u8], needs: Needs) -> usize {
        candidates(code, needs).len() - 1
    }

    /// Check that it moves past accesses to memory that is there in every function that runs, and that writes
    /// to none that the probe may read.
    #[test]
    fn memory_of_its_own() {
        let reads_memory = Needs { memory: true, ..NOTHING };
        // sub rsp, 0x18; mov rax, fs:[0x28]; mov [rsp+8], rax; xor eax, eax; call
        let canary = [
            0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48, 0x89, 0x44,
            0x24, 0x08, 0x31, 0xc0, 0xe8, 0, 0, 0, 0,
        ];
        assert_eq!(passed(&canary, reads_memory), 4);
        // mov [rsp-8], edi: the red zone; mov [rsp-0x90], edi: below it; mov [rsp+8], edi: an argument
        assert_eq!(passed(&[0x89, 0x7c, 0x24, 0xf8, 0x90], NOTHING), 1);
        assert_eq!(passed(&[0x89, 0xbc, 0x24, 0x70, 0xff, 0xff, 0xff, 0x90], NOTHING), 0);
        assert_eq!(passed(&[0x89, 0x7c, 0x24, 0x08, 0x90], NOTHING), 0);
        // mov eax, [rsp+8] reads one. mov [rsp-2], edi: its upper half is the return address.
        assert_eq!(passed(&[0x8b, 0x44, 0x24, 0x08, 0x90], NOTHING), 1);
        assert_eq!(passed(&[0x89, 0x7c, 0x24, 0xfe, 0x90], NOTHING), 0);
        // mov [rsp-8], edi; a nop of five bytes; push rbx
        let optimised = [0x89, 0x7c, 0x24, 0xf8, 0x0f, 0x1f, 0x44, 0, 0, 0x53];
        assert_eq!(places(&optimised, NOTHING), [(0, 0), (9, 0)]);
        assert_eq!(
            places(&[0x53, 0x0f, 0x1f, 0x44, 0, 0, 0x53], NOTHING),
            [(0, 0), (1, 8), (6, 8)]
        );
        // push rbp; mov rbp, rsp; mov [rbp-8], edi; mov rbp, rdi; mov [rbp-8], edi
        let framed =
            [0x55, 0x48, 0x89, 0xe5, 0x89, 0x7d, 0xf8, 0x48, 0x89, 0xfd, 0x89, 0x7d, 0xf8, 0x90];
        assert_eq!(passed(&framed, NOTHING), 4, "the caller's frame, or anything");
        assert_eq!(passed(&framed[4..], NOTHING), 0);
        // mov eax, [rip]; mov [rip], eax
        let variable = [0x8b, 0x05, 0, 0, 0, 0, 0x89, 0x05, 0, 0, 0, 0, 0x90];
        assert_eq!((passed(&variable, NOTHING), passed(&variable, reads_memory)), (2, 1));
        // mov rax, [rip]; mov edx, fs:[rax]; mov edx, fs:[rdx]
        let thread = [0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x64, 0x8b, 0x10, 0x64, 0x8b, 0x12, 0x90];
        assert_eq!(passed(&thread, reads_memory), 2);
        // mov eax, [rdi]: anything
        let foreign = [0x8b, 0x07, 0x90];
        assert_eq!(passed(&foreign, NOTHING), 0);
        assert_eq!(passed(&foreign, Needs { reads_fail: false, ..NOTHING }), 1);
        // mov [rdi], eax; lock add [rsp-8], eax; mov r14, rdi
        assert_eq!(passed(&[0x89, 0x07, 0x90], Needs { reads_fail: false, ..NOTHING }), 0);
        assert_eq!(passed(&[0xf0, 0x01, 0x44, 0x24, 0xf8, 0x90], NOTHING), 0);
        let moves = [0x49, 0x89, 0xfe, 0x90];
        assert_eq!(passed(&moves, Needs { goroutine: true, ..NOTHING }), 0);
        assert_eq!(passed(&moves, NOTHING), 1);
    }
}
