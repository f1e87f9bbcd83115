//! Go's check at a function's start that its stack is large enough. If it is not, the function has it grown
//! and starts again: whoever watches the first instruction sees such a call twice.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::instruction::near_target;

/// So many bytes of code are looked at for each part of a check.
pub(crate) const MOST_CHECKED: usize = 512;
/// How long the check is at most, with two bounds and an offset of 32 bits each.
const MOST_CHECKING: usize = 8;
/// How long the way to a larger stack is: every argument register is saved and restored.
const MOST_GROWING: usize = 64;

/// A check, by distance from the function's first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StackCheck {
    /// Where the function goes on if its stack is large enough.
    pub(crate) body: u64,
    /// The jump by which it starts again.
    pub(crate) back: u64,
}

/// The check of the function at `entry`, if it begins with one. `code` gives some code at an address.
pub(crate) fn stack_check<'c>(
    entry: u64,
    code: impl Fn(u64) -> Option<&'c [u8]>,
) -> Option<StackCheck> {
    let mut decoder = Decoder::with_ip(64, code(entry)?, entry, DecoderOptions::NONE);
    let mut is_compared = false;
    for _ in 0..MOST_CHECKING {
        let instruction = decoder.decode();
        match instruction.mnemonic() {
            Mnemonic::Jbe | Mnemonic::Jb => {
                let target = near_target(&instruction)?;
                let back = grows(entry, code(target)?, target)?;
                if is_compared {
                    let (body, back) = (instruction.next_ip() - entry, back - entry);
                    return Some(StackCheck { body, back });
                }
            }
            Mnemonic::Cmp if compares_bound(&instruction) => is_compared = true,
            Mnemonic::Mov if loads_goroutine(&instruction) => {}
            Mnemonic::Lea | Mnemonic::Mov | Mnemonic::Sub if is_scratch(&instruction) => {}
            _ => return None,
        }
    }
    None
}

/// `cmp rsp, [g+16]`, or something computed from it. Every descriptor of a goroutine has the bound there, and
/// the one for code of the runtime behind it.
fn compares_bound(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Memory
        && matches!(instruction.memory_displacement64(), 16 | 24)
        && instruction.memory_index() == Register::None
}

/// Whether it loads what the thread pointer points to: hand-written code and the stubs of cgo look up the
/// running goroutine before they check.
fn loads_goroutine(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_segment() == Register::FS
}

/// Whether it writes nothing but a register that holds no argument.
fn is_scratch(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && matches!(instruction.op0_register(), Register::R12 | Register::R13)
}

/// Whether this code saves registers, calls one function, restores them and jumps to `entry`; where that
/// jump is.
fn grows(entry: u64, code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut has_called = false;
    for _ in 0..MOST_GROWING {
        let instruction = decoder.decode();
        match instruction.mnemonic() {
            Mnemonic::Jmp => {
                return (has_called && near_target(&instruction) == Some(entry))
                    .then(|| instruction.ip());
            }
            Mnemonic::Call if !has_called && instruction.code() == Code::Call_rel32_64 => {
                has_called = true;
            }
            Mnemonic::Nop
            | Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Movss
            | Mnemonic::Movsd
            | Mnemonic::Movups => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &[u8]) -> Option<StackCheck> {
        stack_check(0x1000, |address| code.get(usize::try_from(address - 0x1000).ok()?..))
    }

    /// Check that the forms of the check that Go's compiler writes are recognised.
    #[test]
    fn checks_are_recognised() {
        // cmp rsp, [r14+16]; jbe +4; push rbp; nop; pop rbp; ret; mov [rsp+8], rax; call; mov rax, [rsp+8];
        // jmp back
        let small = [
            0x49, 0x3b, 0x66, 0x10, 0x76, 0x04, 0x55, 0x90, 0x5d, 0xc3, 0x48, 0x89, 0x44, 0x24,
            0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x8b, 0x44, 0x24, 0x08, 0xeb, 0xe5,
        ];
        assert_eq!(check(&small), Some(StackCheck { body: 6, back: 25 }));
        // lea r12, [rsp-0x80]; cmp r12, [r14+16]; jbe +1; ret; call; jmp back
        let larger = [
            0x4c, 0x8d, 0x64, 0x24, 0x80, 0x4d, 0x3b, 0x66, 0x10, 0x76, 0x01, 0xc3, 0xe8, 0, 0, 0,
            0, 0xeb, 0xed,
        ];
        assert_eq!(check(&larger), Some(StackCheck { body: 11, back: 17 }));
    }

    /// Check that the check of a function is recognised that looks up its goroutine itself.
    #[test]
    fn stubs_are_recognised() {
        // mov r14, fs:[-8]; cmp rsp, [r14+16]; jbe +1; ret; call; jmp back
        let stub = [
            0x64, 0x4c, 0x8b, 0x34, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x49, 0x3b, 0x66, 0x10, 0x76,
            0x01, 0xc3, 0xe8, 0, 0, 0, 0, 0xeb, 0xe9,
        ];
        assert_eq!(check(&stub), Some(StackCheck { body: 15, back: 21 }));
    }

    /// Check that what only looks like it is not taken for it.
    #[test]
    fn other_branches_are_none() {
        // cmp rdi, [rsi+16]; jbe to `ret`
        assert_eq!(check(&[0x48, 0x3b, 0x7e, 0x10, 0x76, 0x01, 0x90, 0xc3]), None);
        // cmp rsp, [r14+16]; jbe to a call that is not followed by a jump back
        let other = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x00, 0xe8, 0, 0, 0, 0, 0xeb, 0x00, 0xc3];
        assert_eq!(check(&other), None);
        assert_eq!(check(&[]), None);
    }
}
