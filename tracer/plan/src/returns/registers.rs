//! What instructions do with registers: who wrote one last, and how large it may be.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Longest table of a `switch` that is read.
const LONGEST_TABLE: u64 = 4096;

/// Whether nothing but padding follows a call, or a system call.
pub(super) fn ends_in_call(chain: &[Instruction]) -> bool {
    let last = chain.iter().rfind(|instruction| instruction.mnemonic() != Mnemonic::Nop);
    last.is_some_and(|last| {
        matches!(last.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
    })
}

/// Whether the stack pointer comes from anywhere but the frame.
pub(super) fn switches_stack(instruction: &Instruction) -> bool {
    let moves = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Xchg | Mnemonic::Pop)
        && instruction.op0_register() == Register::RSP;
    let swaps = instruction.mnemonic() == Mnemonic::Xchg
        && instruction.op1_kind() == OpKind::Register
        && instruction.op1_register() == Register::RSP;
    swaps
        || moves
            && !(instruction.mnemonic() == Mnemonic::Mov
                && instruction.op1_kind() == OpKind::Register
                && instruction.op1_register() == Register::RBP)
}

/// Whether the instruction writes a part of a register. A call may overwrite any.
pub(super) fn writes(instruction: &Instruction, register: Register) -> bool {
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        return true;
    }
    let mut factory = iced_x86::InstructionInfoFactory::new();
    let info = factory.info(instruction);
    info.used_registers().iter().any(|used| {
        used.register().full_register() == register
            && matches!(
                used.access(),
                iced_x86::OpAccess::Write
                    | iced_x86::OpAccess::CondWrite
                    | iced_x86::OpAccess::ReadWrite
                    | iced_x86::OpAccess::ReadCondWrite
            )
    })
}

/// The last instruction that writes a register.
pub(super) fn last_write(chain: &[Instruction], register: Register) -> Option<usize> {
    chain.iter().rposition(|instruction| writes(instruction, register))
}

/// How many values an index may have, from the comparison that keeps larger ones from getting here.
pub(super) fn bound(chain: &[Instruction], index: Register) -> Option<u64> {
    let mut index = index.full_register();
    let mut jump: Option<Mnemonic> = None;
    let mut is_extended = false;
    for instruction in chain.iter().rev() {
        match instruction.mnemonic() {
            Mnemonic::Ja | Mnemonic::Jae => jump = Some(instruction.mnemonic()),
            Mnemonic::Cmp
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register().full_register() == index
                    && is_immediate(instruction) =>
            {
                // A byte is compared without what else is in the register.
                if instruction.op0_register().size() < 4 && !is_extended {
                    return None;
                }
                let most = match jump? {
                    Mnemonic::Ja => instruction.immediate(1).checked_add(1)?,
                    _ => instruction.immediate(1),
                };
                return (most <= LONGEST_TABLE).then_some(most);
            }
            // The index is a copy of what is compared.
            Mnemonic::Mov | Mnemonic::Movzx
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register().full_register() == index
                    && instruction.op1_kind() == OpKind::Register =>
            {
                is_extended |= instruction.mnemonic() == Mnemonic::Movzx;
                index = instruction.op1_register().full_register();
            }
            _ if instruction.flow_control() == FlowControl::ConditionalBranch => {
                jump = None;
            }
            _ if writes(instruction, index) => return None,
            _ => {}
        }
    }
    None
}

fn is_immediate(instruction: &Instruction) -> bool {
    matches!(
        instruction.op1_kind(),
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}
