//! Exits of small functions, assembled by hand.

use super::{
    code::Code,
    exits::{Entered, ExitKind, Exits, ExitsUnknown, exits},
};

/// Where this test's code is.
const START: u64 = 0x1000;

fn found(code: &[u8], size_bytes: u64) -> Result<Exits, ExitsUnknown> {
    exits(&Code::in_memory(START, code.to_vec(), &[START]), START, size_bytes, Entered::First)
}

/// Offset, kind and whether it is outside the function, of each exit.
fn all(code: &[u8], size_bytes: u64) -> Vec<(u64, ExitKind, bool)> {
    let found = found(code, size_bytes).unwrap();
    found.exits.iter().map(|exit| (exit.address - START, exit.kind, exit.is_shared)).collect()
}

/// Check that every `ret` is found that a path leads to, and none that is not.
#[test]
fn every_path_is_followed() {
    // test edi, edi; je +4; push rbx; pop rbx; ret; nop; mov eax, edi; ret
    let code = [0x85, 0xff, 0x74, 0x04, 0x53, 0x5b, 0xc3, 0x90, 0x89, 0xf8, 0xc3];
    let size = code.len() as u64;
    assert_eq!(all(&code, size), [(6, ExitKind::Return, false), (10, ExitKind::Return, false)]);
    // jmp +1; a `ret` that nothing reaches; nop; ret
    assert_eq!(all(&[0xeb, 0x01, 0xc3, 0x90, 0xc3], 5), [(4, ExitKind::Return, false)]);
    // nop; rep ret
    assert_eq!(all(&[0x90, 0xf3, 0xc3], 3), [(1, ExitKind::Return, false)]);
    // nop; ret 8
    assert_eq!(all(&[0x90, 0xc2, 0x08, 0x00], 4), [(1, ExitKind::Return, false)]);
    // A call returns; what follows `ud2` is not reached.
    assert_eq!(all(&[0xe8, 0, 0, 0, 0, 0xc3, 0x0f, 0x0b, 0xc3], 9), [(5, ExitKind::Return, false)]);
    // nop; ud2: it never returns.
    assert_eq!(all(&[0x90, 0x0f, 0x0b], 3), []);
}

/// Check that a tail call is followed to the other function's `ret`, which others share.
#[test]
fn tail_calls_are_followed() {
    // push rbx; pop rbx; jmp +2 (past the function); int3; int3; nop; ret
    let code = [0x53, 0x5b, 0xeb, 0x02, 0xcc, 0xcc, 0x90, 0xc3];
    assert_eq!(all(&code, 4), [(7, ExitKind::Return, true)]);
    assert!(found(&code, 4).unwrap().has_tails);
    // To another file, through a stub of the linker: `endbr64; bnd jmp [rip+0]`.
    let stub = [0x53, 0x5b, 0xeb, 0x00, 0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0, 0, 0, 0];
    assert_eq!(all(&stub, 4), [(2, ExitKind::Leaves, false)]);
    // Through a pointer in an object: `mov rax, [rdi]; jmp [rax+8]`.
    let method = [0x48, 0x8b, 0x07, 0xff, 0x60, 0x08];
    assert_eq!(all(&method, 6), [(3, ExitKind::Leaves, false)]);
}

/// Check that a function that goes on in the next one returns where that one does, and that one that ends in a
/// call does not return.
#[test]
fn the_end_of_a_function_may_be_passed() {
    // nop; nop; and the next function: nop; ret
    assert_eq!(all(&[0x90, 0x90, 0x90, 0xc3], 2), [(3, ExitKind::Return, true)]);
    assert!(found(&[0x90, 0x90, 0x90, 0xc3], 2).unwrap().has_tails);
    // call; nop; and the next function
    assert_eq!(all(&[0xe8, 0, 0, 0, 0, 0x90, 0xc3], 6), []);
}

/// Check that what is not certain is refused.
#[test]
fn uncertain_functions_are_refused() {
    // mov rdx, [rdi]; jmp rdx; then code that only such a pointer leads to: an interpreter whose instructions
    // are addresses. Each of its steps was once taken for a return.
    assert_eq!(found(&[0x48, 0x8b, 0x17, 0xff, 0xe2, 0xc3], 6), Err(ExitsUnknown::JumpsAnywhere));
    // The same with nothing but padding behind it: a call through a pointer.
    assert!(found(&[0x48, 0x8b, 0x17, 0xff, 0xe2, 0x66, 0x90, 0xcc], 8).is_ok());
    // jmp rsi: an argument, or anything else
    assert_eq!(found(&[0x90, 0xff, 0xe6], 3), Err(ExitsUnknown::JumpsAnywhere));
    // jmp [rdi+rax*8]: a table of functions, or a `switch`
    assert_eq!(found(&[0x90, 0xff, 0x24, 0xc7], 4), Err(ExitsUnknown::JumpsAnywhere));
    // nop; jmp to the entry
    assert_eq!(found(&[0x90, 0xeb, 0xfd], 3), Err(ExitsUnknown::JumpsToEntry));
    // nop; je into the middle of the instruction that follows it
    let apart = [0x90, 0x74, 0x01, 0xb8, 0xc3, 0x90, 0x90, 0x90, 0xc3];
    assert_eq!(found(&apart, 9), Err(ExitsUnknown::Undecodable));
    assert_eq!(found(&[0xc3], 1), Err(ExitsUnknown::OnlyReturns));
    // jmp [rip+0]
    assert_eq!(found(&[0xff, 0x25, 0, 0, 0, 0], 6), Err(ExitsUnknown::Empty));
    assert_eq!(found(&[0x90, 0x06], 2), Err(ExitsUnknown::Undecodable));
    assert_eq!(found(&[0x90, 0xc3], 0), Err(ExitsUnknown::NoCode));
    // It runs out of the code.
    assert_eq!(found(&[0x90, 0x90], 3), Err(ExitsUnknown::Undecodable));
}

/// Check that a `switch` is followed through its table, as far as its bound says, and no further.
#[test]
fn tables_are_read() {
    // cmp edi, 1; ja +0x16 → ret; mov eax, edi; lea rdx, [rip+table]; movsxd rax, [rdx+rax*4]; add rax, rdx;
    // jmp rax; then three blocks that return.
    let mut code = vec![0x83, 0xff, 0x01, 0x77, 0x15, 0x89, 0xf8];
    let lea = code.len();
    code.extend([0x48, 0x8d, 0x15, 0, 0, 0, 0]);
    code.extend([0x48, 0x63, 0x04, 0x82, 0x48, 0x01, 0xd0, 0xff, 0xe0]);
    code.extend([0x90; 3]);
    let blocks = code.len();
    code.extend([0x90, 0xc3, 0x90, 0xc3, 0x90, 0xc3]);
    let size = code.len() as u64;
    let table = code.len();
    let distance = (table - (lea + 7)) as i32;
    code[lea + 3..lea + 7].copy_from_slice(&distance.to_le_bytes());
    // The third entry is beyond the bound, and leads nowhere.
    for target in [blocks, blocks + 2, 0x4000_0000] {
        code.extend((target as i32 - table as i32).to_le_bytes());
    }
    let blocks = blocks as u64;
    let rets = [blocks + 1, blocks + 3];
    // The jump past the bound goes to the first block.
    code[4] = (blocks - 5) as u8;
    assert_eq!(all(&code, size), rets.map(|at| (at, ExitKind::Return, false)));
    // Without a bound, nobody knows where the table ends.
    code[3] = 0x90;
    code[4] = 0x90;
    assert_eq!(found(&code, size), Err(ExitsUnknown::JumpsAnywhere));
}
