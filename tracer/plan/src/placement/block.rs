//! The straight code at a function's start: what each instruction there costs under a breakpoint,
//! and how far a breakpoint may move along it.
//!
//! An instruction may lie before the breakpoint only if everything that the probe looks at is as it
//! was at the entry: argument registers that it reads, the stack pointer (known exactly, or untouched
//! where the return is traced), memory. And it must not be able to fault: a call that crashes in its
//! first instruction is one that a user wants to see. So what touches memory ends the block.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use crate::Form;
use faultline_resolve::Arch;

/// Most bytes that a breakpoint moves. Real entry blocks are shorter.
pub(super) const MOST_BYTES: usize = 64;

/// What has to be at the breakpoint as it was at the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// A bit an argument register, in the order of the calling convention.
    pub(super) registers: u8,
    /// The return is traced: the kernel takes the return address from the top of the stack.
    pub(super) return_address: bool,
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
    let mut stack_bias = 0;
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let offset = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        let form = Form::of(Arch::X86_64, &code[offset..]);
        candidates.push(Candidate { offset, stack_bias, form });
        match lowered_stack(&instruction) {
            Some(bytes) if !needs.return_address => stack_bias += bytes,
            _ if leaves_all_alone(&instruction, &mut info, needs) => {}
            _ => break,
        }
    }
    candidates
}

/// Bytes that `sub $N, %rsp` takes from the stack pointer.
fn lowered_stack(instruction: &Instruction) -> Option<u64> {
    let is_sub = instruction.mnemonic() == Mnemonic::Sub
        && instruction.op0_register() == Register::RSP
        && matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
    // A large frame is probed page by page; this one is not large.
    (is_sub && instruction.immediate(1) < 4096).then(|| instruction.immediate(1))
}

/// Whether nothing that matters is different after the instruction, and it cannot fault.
fn leaves_all_alone(
    instruction: &Instruction,
    info: &mut InstructionInfoFactory,
    needs: Needs,
) -> bool {
    if instruction.flow_control() != FlowControl::Next || !is_plain(instruction) {
        return false;
    }
    let info = info.info(instruction);
    let nop = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64);
    if !nop && (!info.used_memory().is_empty() || has_memory_operand(instruction)) {
        return false;
    }
    info.used_registers().iter().all(|used| {
        let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        let register = used.register();
        reads || (register.full_register() != Register::RSP && !is_needed(register, needs))
    })
}

/// `lea` computes an address and touches nothing there.
fn has_memory_operand(instruction: &Instruction) -> bool {
    instruction.mnemonic() != Mnemonic::Lea
        && (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory)
}

/// The argument registers of the System V AMD64 ABI.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

fn is_needed(register: Register, needs: Needs) -> bool {
    let full = register.full_register();
    let position = ARGUMENTS.iter().position(|argument| *argument == full);
    position.is_some_and(|position| needs.registers & (1 << position) != 0)
}

/// Instructions that compute with registers and do nothing else. What is not here may trap, wait,
/// or depend on more than registers.
fn is_plain(instruction: &Instruction) -> bool {
    matches!(
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
    ) && !is_segment(instruction)
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

    const NOTHING: Needs = Needs { registers: 0, return_address: false };

    fn places(code: &[u8], needs: Needs) -> Vec<(usize, u64)> {
        candidates(code, needs).iter().map(|place| (place.offset, place.stack_bias)).collect()
    }

    /// Check that the block extends past instructions that do not affect the probe's values, and no
    /// further.
    #[test]
    fn blocks() {
        let first = |registers| Needs { registers, return_address: false };
        let ret = Needs { registers: 0, return_address: true };
        // endbr64; push rbp; mov rbp, rsp
        let push = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5];
        assert_eq!(places(&push, ret), [(0, 0), (4, 0)], "a push writes memory");
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
        // mov fs:[0], eax; mov ds, eax
        assert_eq!(places(&[0x8e, 0xd8, 0x90], NOTHING), [(0, 0)]);
    }
}
