//! Where each architecture keeps arguments, return value and stack pointer.
//!
//! Source: System V AMD64 ABI and AAPCS64; register order as in the kernel's `pt_regs`.

use aya_ebpf::bindings::pt_regs;
use tracer_common::program::REGISTERS;

/// The argument registers in calling-convention order. If the architecture has fewer, the last one is
/// repeated; no operation uses those.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn arguments(regs: *const pt_regs) -> [u64; REGISTERS] {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    let regs = unsafe { &*regs };
    [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9, regs.r9, regs.r9]
}

/// The register of the return value.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn return_value(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).rax }
}

/// The stack pointer at the breakpoint.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn stack_pointer(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).rsp }
}

/// Where Go keeps the address of the running goroutine.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn goroutine(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).r14 }
}

/// The instruction at the breakpoint.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn instruction_pointer(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).rip }
}

/// Where the kernel keeps it, to be read by a helper.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn instruction_pointer_at(regs: *const pt_regs) -> *const u64 {
    regs.wrapping_byte_add(core::mem::offset_of!(pt_regs, rip)).cast()
}

/// At a return: the stack pointer that the function was entered with. `ret` has popped the return
/// address by now.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn entry_stack_pointer(regs: *const pt_regs) -> u64 {
    stack_pointer(regs).wrapping_sub(8)
}

/// The link register, where there is one.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn link(_regs: *const pt_regs) -> u64 {
    0
}

/// The return address of the function just entered: in memory at the stack pointer …
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn return_address(_link: u64, stack_pointer: u64) -> Option<u64> {
    // SAFETY: the helper checks the user address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(stack_pointer as *const u64) }.ok()
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn arguments(regs: *const pt_regs) -> [u64; REGISTERS] {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    let r = unsafe { &(*regs).regs };
    [r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]]
}

/// Where Go keeps the address of the running goroutine.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn goroutine(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).regs[28] }
}

/// The register of the return value.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn return_value(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).regs[0] }
}

/// The stack pointer at the breakpoint.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn stack_pointer(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).sp }
}

/// The instruction at the breakpoint.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn instruction_pointer(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).pc }
}

/// Where the kernel keeps it, to be read by a helper.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn instruction_pointer_at(regs: *const pt_regs) -> *const u64 {
    regs.wrapping_byte_add(core::mem::offset_of!(pt_regs, pc)).cast()
}

/// At a return: the stack pointer that the function was entered with; the return address was
/// never on the stack.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn entry_stack_pointer(regs: *const pt_regs) -> u64 {
    stack_pointer(regs)
}

/// The link register, where there is one.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn link(regs: *const pt_regs) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs for the program's whole run.
    unsafe { (*regs).regs[30] }
}

/// … or in the link register.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn return_address(link: u64, _stack_pointer: u64) -> Option<u64> {
    Some(link)
}
