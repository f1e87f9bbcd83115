//! The user's condition (`--where`), as data: a list of tests with jumps, in the map `CONDITIONS`.
//!
//! Evaluation starts with the first test. Each test compares one value with one constant and names what
//! comes next: a later test, or the verdict. So evaluation stops as soon as the condition is decided, and
//! the kernel's verifier sees one loop whatever the user wrote. Probes with the same condition share it.

/// The most tests that a condition can have.
pub const MAX_TESTS: usize = 64;

/// A jump: the hit matches.
pub const ACCEPT: u8 = 0xff;
/// A jump: the hit does not match.
pub const REJECT: u8 = 0xfe;

/// No condition: in [`ProbeProgram`](crate::program::ProbeProgram).
pub const NO_CONDITION: u32 = u32::MAX;

/// The longest text that a value can be compared with.
pub const MAX_TEXT_BYTES: usize = 256;
/// Bytes of a text that are compared in one step.
pub const CHUNK_BYTES: usize = 64;
/// Bytes of a text in the map `TEXTS`: room for the longest text and its terminator in whole chunks. A
/// power of two, so that an offset can be masked.
pub const TEXT_BYTES: usize = 512;

/// Where a test takes its value from.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The register with the index `register`: at the entry an argument, at the return one of
    /// [`RETURN_VALUE`], [`RETURN_DURATION`] and [`RETURN_SAVED`].
    Register = 0,
    /// The eight bytes at `stack_offset` from the stack pointer at the function's entry.
    Stack = 1,
    /// The process id.
    Pid = 2,
    /// The task's id.
    Tid = 3,
    /// The task's name; always compared as text.
    Comm = 4,
}

/// "Register" of the return value.
pub const RETURN_VALUE: u8 = 0;
/// "Register" of the call's duration in nanoseconds.
pub const RETURN_DURATION: u8 = 1;
/// "Register" of what was decided at the call's entry: one bit per saved test.
pub const RETURN_SAVED: u8 = 2;

/// What a test does with its value.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// As a number: equal to the constant.
    Equal = 0,
    /// As a number: less than the constant.
    Less = 1,
    /// As a number: greater than the constant.
    Greater = 2,
    /// A pointer to a string, or the task's name: equal to the text, or beginning with it.
    Str = 3,
    /// A pointer to bytes that begin with the text.
    Bytes = 4,
}

/// `save` of a test whose result is not saved.
pub const NOT_SAVED: u8 = 0xff;
/// Results that can be saved from the entry for the return.
pub const MAX_SAVED: usize = 15;
/// Saved along with them: the condition needed a value that could not be read.
pub const SAVED_UNDECIDED: u16 = 1 << MAX_SAVED;

/// One test.
///
/// A number is made from the 64 bits of a register: `shift` and `signed` cut it to the width of its type
/// and extend it, `mask` selects bits, and `bias` maps the order of signed numbers onto that of unsigned
/// ones. The constant is stored with all of that already applied.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Test {
    /// A [`Source`].
    pub source: u8,
    /// Index of the register.
    pub register: u8,
    /// A [`Comparison`].
    pub comparison: u8,
    /// 1: the result is inverted.
    pub negated: u8,
    /// What comes next if the result is true: a later test, [`ACCEPT`] or [`REJECT`].
    pub on_true: u8,
    /// What comes next if it is false, or the value cannot be read.
    pub on_false: u8,
    /// The bit that saves the result for the return; or [`NOT_SAVED`].
    pub save: u8,
    /// 64 minus the width of the number in bits.
    pub shift: u8,
    /// 1: the number is signed.
    pub signed: u8,
    /// Explicit padding.
    pub padding: u8,
    /// Bytes from the stack pointer at entry.
    pub stack_offset: u16,
    /// Index of the text in the map `TEXTS`.
    pub text: u32,
    /// Bytes of the text that are compared; with its terminator where a string is to be equal.
    pub text_bytes: u32,
    /// Explicit padding.
    pub padding2: u32,
    /// The bits of the number that are compared.
    pub mask: u64,
    /// XORed into the number before it is compared.
    pub bias: u64,
    /// What the number is compared with.
    pub constant: u64,
}

/// A condition.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// The tests. Unused ones reject.
    pub tests: [Test; MAX_TESTS],
}

/// A text to compare with, padded with zeros.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Its bytes.
    pub bytes: [u8; TEXT_BYTES],
}

/// The threshold of a sample that contains every call.
pub const SAMPLE_ALL: u64 = 1 << 32;

const _: () = assert!(size_of::<Test>() == 48);
const _: () = assert!(size_of::<Condition>() == 48 * MAX_TESTS);
const _: () = assert!(size_of::<Text>() == TEXT_BYTES);
const _: () = assert!(MAX_TESTS <= REJECT as usize && MAX_TESTS.is_power_of_two());
const _: () = assert!(TEXT_BYTES.is_power_of_two() && MAX_TEXT_BYTES + CHUNK_BYTES < TEXT_BYTES);

impl Default for Condition {
    fn default() -> Self {
        let unused = Test { on_true: REJECT, on_false: REJECT, save: NOT_SAVED, ..Test::default() };
        Self { tests: [unused; MAX_TESTS] }
    }
}
