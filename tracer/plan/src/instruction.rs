//! Checks the instruction under a breakpoint: whether one begins there at all, and whether the kernel's
//! uprobes handle it correctly.
//!
//! x86-64 kernels decide by the opcode byte alone. For an instruction with a VEX or EVEX prefix
//! they take that byte for one of the old one-byte opcodes: `vpbroadcastb` (0x7a) is then emulated
//! as `jp`, without doing what it should, and a `vcmpps` (0xc2) is taken for a `ret`, after which
//! the program goes on in the wrong place. Seen here on 6.18: with a breakpoint on glibc's
//! `__strchr_evex`, which begins with `vpbroadcastb`, `strchr` finds nothing any more. (Source:
//! `branch_setup_ops`, `push_setup_ops` and `arch_uprobe_analyze_insn` in
//! `arch/x86/kernel/uprobes.c`.)

use super::Form;
use faultline_resolve::Arch;

/// What to expect from a breakpoint on an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The kernel handles it.
    Fine,
    /// The kernel may refuse it.
    Doubtful,
    /// The kernel takes it for another instruction and would break the program.
    Misread,
}

/// Whether an instruction begins `offset` bytes into `code`, which begins with a function's first
/// instruction. A breakpoint inside an instruction would change what the target executes.
pub(super) fn begins_at(arch: Arch, code: &[u8], offset: u64) -> bool {
    match arch {
        Arch::Aarch64 => offset.is_multiple_of(4),
        Arch::X86_64 => {
            let mut decoder =
                iced_x86::Decoder::with_ip(64, code, 0, iced_x86::DecoderOptions::NONE);
            while decoder.can_decode() && decoder.ip() < offset {
                if decoder.decode().is_invalid() {
                    return false;
                }
            }
            decoder.ip() == offset
        }
    }
}

/// Most bytes of one instruction.
pub(crate) const LONGEST: usize = 15;

/// Where a direct branch or call goes.
pub(crate) fn near_target(instruction: &iced_x86::Instruction) -> Option<u64> {
    let is_branch = instruction.is_jcc_short_or_near()
        || instruction.is_jmp_short_or_near()
        || instruction.is_call_near()
        || instruction.is_jcx_short()
        || instruction.is_loop()
        || instruction.is_loopcc();
    is_branch.then(|| instruction.near_branch_target())
}

/// How long the first instruction of `code` is; 1 if it is none.
pub(super) fn bytes(arch: Arch, code: &[u8]) -> u64 {
    match arch {
        Arch::Aarch64 => 4,
        Arch::X86_64 => {
            let mut decoder = iced_x86::Decoder::new(64, code, iced_x86::DecoderOptions::NONE);
            decoder.decode().len().max(1) as u64
        }
    }
}

/// What to expect from a breakpoint on the first instruction of `code`.
pub(super) fn judge(arch: Arch, code: &[u8]) -> Verdict {
    match arch {
        // aarch64 kernels decode properly, and refuse what they cannot simulate or step.
        Arch::Aarch64 => Verdict::Fine,
        Arch::X86_64 => judge_x86(code),
    }
}

fn judge_x86(code: &[u8]) -> Verdict {
    // Whether the kernel accepts this one is measured: see `Class::Refused`.
    if Form::of(Arch::X86_64, code) == Form::Nop10 {
        return Verdict::Fine;
    }
    // Operand size, address size, repeat and REX prefixes are fine; segment overrides and `lock`
    // are refused by the kernel.
    let prefix = |byte: &u8| matches!(byte, 0x66 | 0x67 | 0xf2 | 0xf3 | 0x40..=0x4f);
    let doubtful = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0);
    let prefixes = code.iter().take_while(|byte| prefix(byte) || doubtful(byte)).count();
    if code[..prefixes].iter().any(doubtful) {
        return Verdict::Doubtful;
    }
    let code = &code[prefixes..];
    let vector_opcode = match code.first() {
        Some(0xc5) => code.get(2),
        Some(0xc4) => code.get(3),
        Some(0x62) => code.get(4),
        // In and out, interrupts, halt, interrupt flag: not used in programs.
        Some(0x6c..=0x6f | 0xcc..=0xcf | 0xe4..=0xe7 | 0xec..=0xef | 0xf1 | 0xf4 | 0xfa | 0xfb) => {
            return Verdict::Doubtful;
        }
        Some(0x0f) if matches!(code.get(1), Some(0x00 | 0x01 | 0x04..=0x0c)) => {
            return Verdict::Doubtful;
        }
        Some(_) => return Verdict::Fine,
        None => return Verdict::Doubtful,
    };
    match vector_opcode {
        // push; jcc; nop; call and jmp: emulated. popf, ret, call and jmp far, group 5: fixed up.
        Some(
            0x50..=0x57
            | 0x70..=0x7f
            | 0x90
            | 0x9a
            | 0x9d
            | 0xc2
            | 0xc3
            | 0xca
            | 0xcb
            | 0xe8..=0xeb
            | 0xff,
        ) => Verdict::Misread,
        _ => Verdict::Doubtful,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that only the start of an instruction is accepted.
    #[test]
    fn instruction_boundaries() {
        // endbr64; push rbp; mov rbp, rsp; sub rsp, 0x10
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10];
        let good: Vec<u64> = (0..=8).filter(|at| begins_at(Arch::X86_64, &code, *at)).collect();
        assert_eq!(good, [0, 4, 5, 8]);
        assert!(begins_at(Arch::Aarch64, &[], 8));
        assert!(!begins_at(Arch::Aarch64, &[], 6));
    }

    /// Check that vector instructions that the kernel misreads are found.
    #[test]
    fn misread_vector_instructions() {
        for (code, verdict) in [
            // vpbroadcastb ymm16, esi: taken for jp
            (&[0x62, 0xe2, 0x7d, 0x28, 0x7a, 0xc6][..], Verdict::Misread),
            // vcmpps: taken for ret
            (&[0xc5, 0xf8, 0xc2, 0xc1, 0x00], Verdict::Misread),
            // vmovd xmm0, esi: refused, taken for outs
            (&[0xc5, 0xf9, 0x6e, 0xc6], Verdict::Doubtful),
            // lock dec dword [rdi]
            (&[0xf0, 0xff, 0x0f], Verdict::Doubtful),
            // endbr64; push rbp; call; jp
            (&[0xf3, 0x0f, 0x1e, 0xfa], Verdict::Fine),
            (&[0x55], Verdict::Fine),
            (&[0xe8, 0, 0, 0, 0], Verdict::Fine),
            (&[0x7a, 0x02], Verdict::Fine),
            (&[], Verdict::Doubtful),
        ] {
            assert_eq!(judge(Arch::X86_64, code), verdict, "{code:x?}");
        }
    }
}
