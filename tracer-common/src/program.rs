//! What a probe reads: a small argument program per probe, in the map `PROGRAMS`.
//!
//! One verified eBPF program serves thousands of different probes because what they read is data.

use crate::condition::NO_CONDITION;

/// The most values that one probe can read.
pub const MAX_VALUES: usize = 16;

/// Registers that are copied before an operation selects one. x86-64 passes six arguments in registers,
/// aarch64 eight. A power of two, so that an index can be masked.
pub const REGISTERS: usize = 8;

/// What one operation does with its slot.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// Put the value itself into the slot.
    Value = 0,
    /// The value is a pointer: read the NUL-terminated string behind it.
    Str = 1,
    /// The value is a pointer: read the `max_bytes` behind it.
    Bytes = 2,
    /// The value is a pointer: read as many bytes as the slot `length_slot` says.
    BytesOf = 3,
}

/// `register` of an operation: the value was passed on the stack, at `stack_offset`.
pub const ON_STACK: u8 = 0xff;

/// One read.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOp {
    /// A [`ReadKind`].
    pub kind: u8,
    /// The slot of the record that this fills: the position among the probe's named arguments.
    pub slot: u8,
    /// Index of the register with the value, or [`ON_STACK`].
    pub register: u8,
    /// [`ReadKind::BytesOf`]: the slot that holds the length. Operations are ordered so that it is
    /// filled before.
    pub length_slot: u8,
    /// [`ReadKind::BytesOf`]: width of the length in bits, 8 to 64.
    pub length_bits: u8,
    /// [`ReadKind::BytesOf`]: 1 if the length is signed; a negative one fails with EINVAL.
    pub length_signed: u8,
    /// Bytes from the stack pointer at the function's entry, for what is passed on the stack.
    pub stack_offset: u16,
    /// The most bytes that are kept of a string or range. Longer ones are truncated and marked so.
    pub max_bytes: u32,
    /// Explicit padding.
    pub padding: u32,
}

/// Flag: the probe's return is traced too, so the entry program opens a call.
pub const FLAG_TRACK_RETURN: u8 = 1;
/// Flag: nothing but registers is read, so the record has a fixed small size and cannot fault.
pub const FLAG_REGISTERS_ONLY: u8 = 2;
/// Flag: the function's return is watched at its exits, and it may end by a jump to another function. That
/// one is then entered with the same stack pointer while the call is still open.
pub const FLAG_TAILS: u8 = 4;
/// Flag: the function is Go's, and its calls are told apart by goroutine instead of by task.
pub const FLAG_GOROUTINES: u8 = 8;

/// What one probe reads at entry and at return.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeProgram {
    /// Operations of the entry in `entry`.
    pub entry_len: u8,
    /// Slots of the entry's record: its named arguments.
    pub entry_slots: u8,
    /// `FLAG_…` bits for the entry.
    pub flags: u8,
    /// `FLAG_REGISTERS_ONLY` for the return.
    pub return_flags: u8,
    /// Operations of the return: 0 or 1.
    pub return_len: u8,
    /// Index of the first size class to try for a record with strings or ranges.
    pub entry_class: u8,
    /// As `entry_class`, for the return.
    pub return_class: u8,
    /// Explicit padding.
    pub padding: u8,
    /// Index of the condition that is judged at the entry, or [`NO_CONDITION`].
    pub entry_condition: u32,
    /// Index of the condition that is judged at the return, or [`NO_CONDITION`]. If there is one, entries
    /// are left out.
    pub return_condition: u32,
    /// Bytes to add to the stack pointer at the breakpoint to get the one at the function's entry.
    pub stack_bias: u64,
    /// The read of the return value, into slot 0.
    pub on_return: ReadOp,
    /// The reads of the entry.
    pub entry: [ReadOp; MAX_VALUES],
}

const _: () = assert!(size_of::<ReadOp>() == 16);
const _: () = assert!(size_of::<ProbeProgram>() == 24 + 16 + 16 * MAX_VALUES);

impl Default for ProbeProgram {
    fn default() -> Self {
        Self {
            entry_len: 0,
            entry_slots: 0,
            flags: 0,
            return_flags: 0,
            return_len: 0,
            entry_class: 0,
            return_class: 0,
            padding: 0,
            entry_condition: NO_CONDITION,
            return_condition: NO_CONDITION,
            stack_bias: 0,
            on_return: ReadOp::default(),
            entry: [ReadOp::default(); MAX_VALUES],
        }
    }
}

impl ProbeProgram {
    /// Whether the user's condition is judged at the entry or the return.
    pub const fn judges(&self) -> bool {
        self.entry_condition != NO_CONDITION || self.return_condition != NO_CONDITION
    }

    /// Whether anything but registers is read.
    pub const fn reads_memory(&self) -> bool {
        (self.entry_len != 0 && self.flags & FLAG_REGISTERS_ONLY == 0)
            || (self.return_len != 0 && self.return_flags & FLAG_REGISTERS_ONLY == 0)
    }
}
