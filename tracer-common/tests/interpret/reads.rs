//! plan → interpret → decode: any argument program, any registers, any memory.
//!
//! What the interpreter has to find is said here a second time, value by value and without attempts,
//! size classes or pages that are searched.

use proptest::{collection::vec, prelude::*};
use tracer_common::{
    counter::Counter,
    interpret::read::{Reading, argument},
    program::{MAX_VALUES, ON_STACK, REGISTERS, ReadKind, ReadOp},
    record::{BlobRef, MAX_OFFSET, MAX_READ_BYTES, ReadStatus, SLOT_BYTES},
    testbed::{FIRST, Pages, State, interpret},
};

use super::simulated::{pages, pointer};

/// An argument program and the registers of one hit.
#[derive(Debug, Clone)]
struct Hit {
    ops: Vec<ReadOp>,
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    pages: Pages,
    zero_if_empty: bool,
}

/// What one value is in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    status: ReadStatus,
    value: Value,
    /// Where it is counted.
    counter: Option<Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Missing,
    Number(u64),
    Bytes(Vec<u8>),
}

impl Hit {
    fn interpret(&self) -> (Reading, Vec<u8>) {
        let Self { ops, registers, stack_pointer, pages, zero_if_empty } = self;
        interpret(ops, *registers, *stack_pointer, pages, *zero_if_empty)
    }

    /// What user space makes of a record, as `decode` does: slots, and bytes where they say.
    fn decode(&self, reading: &Reading, data: &[u8]) -> Vec<Found> {
        let decode = |op: &ReadOp| {
            let slot = usize::from(op.slot);
            let status = ReadStatus::of_slot(reading.statuses, slot).unwrap();
            let at = slot * SLOT_BYTES;
            let raw = u64::from_le_bytes(data[at..at + SLOT_BYTES].try_into().unwrap());
            let value = match status {
                ReadStatus::Whole | ReadStatus::Truncated if is(op, ReadKind::Value) => {
                    Value::Number(raw)
                }
                ReadStatus::Whole | ReadStatus::Truncated => {
                    let BlobRef { offset, length } = BlobRef::from_slot(raw);
                    let first = offset as usize;
                    assert!(first >= self.ops.len() * SLOT_BYTES, "bytes over the slots");
                    Value::Bytes(data[first..first + length as usize].to_vec())
                }
                _ => Value::Missing,
            };
            Found { status, value, counter: reading.outcome(op) }
        };
        self.ops.iter().map(decode).collect()
    }

    /// What is to be found.
    fn expected(&self) -> Vec<Found> {
        let mut truth = Truth { pages: self.pages.clone(), out_of_time: false };
        let mut found: Vec<Found> = Vec::new();
        for op in &self.ops {
            let of_op = self.expect(op, &mut truth, &found);
            found.push(of_op);
        }
        found
    }

    fn expect(&self, op: &ReadOp, truth: &mut Truth, before: &[Found]) -> Found {
        let mut faulted = false;
        let failed =
            |status| Found { status, value: Value::Missing, counter: Some(failure(status)) };
        let value = if op.register == ON_STACK {
            let address = self.stack_pointer.wrapping_add(u64::from(op.stack_offset));
            match truth.bytes(address, 8, &mut faulted) {
                Ok(word) => u64::from_le_bytes(word.try_into().unwrap()),
                Err(status) => return failed(status),
            }
        } else {
            self.registers[usize::from(op.register)]
        };
        if is(op, ReadKind::Value) {
            let of_stack = if faulted { Counter::ReadFaulted } else { Counter::ReadResident };
            let counter = (op.register == ON_STACK).then_some(of_stack);
            return Found { status: ReadStatus::Whole, value: Value::Number(value), counter };
        }
        let read = if is(op, ReadKind::Str) {
            truth.string(value, op.max_bytes as usize, &mut faulted)
        } else {
            let mut length = u64::from(op.max_bytes);
            if is(op, ReadKind::BytesOf) {
                let of_length = before
                    .iter()
                    .zip(&self.ops)
                    .find_map(|(found, other)| (other.slot == op.length_slot).then_some(found))
                    .unwrap();
                let Value::Number(number) = of_length.value else {
                    return failed(of_length.status);
                };
                match exactly(number, op.length_bits, op.length_signed != 0) {
                    Some(exact) => length = exact,
                    None => return failed(ReadStatus::Einval),
                }
            }
            let kept = length.min(u64::from(op.max_bytes)) as usize;
            truth.bytes(value, kept, &mut faulted).map(|bytes| (bytes, length > kept as u64))
        };
        match read {
            Err(status) => failed(status),
            Ok((bytes, true)) => Found {
                status: ReadStatus::Truncated,
                value: Value::Bytes(bytes),
                counter: Some(Counter::ReadTruncated),
            },
            Ok((bytes, false)) => Found {
                status: ReadStatus::Whole,
                value: Value::Bytes(bytes),
                counter: Some(if faulted { Counter::ReadFaulted } else { Counter::ReadResident }),
            },
        }
    }
}

/// The memory as it is known to be, with what reading it costs.
struct Truth {
    pages: Pages,
    /// A page that does not stay has used up the attempts: nothing is faulted in any more.
    out_of_time: bool,
}

impl Truth {
    fn byte(&mut self, address: u64, faulted: &mut bool) -> Result<u8, ReadStatus> {
        match self.pages.state(address) {
            State::Resident => return Ok(self.pages.byte(address)),
            _ if self.out_of_time => return Err(ReadStatus::Eagain),
            State::Unmapped => return Err(ReadStatus::Efault),
            State::Absent | State::Fleeting if !self.pages.may_fault => {
                return Err(ReadStatus::Eagain);
            }
            State::Fleeting => {
                self.out_of_time = true;
                return Err(ReadStatus::Eagain);
            }
            State::Absent => {}
        }
        *faulted = true;
        self.pages.arrive(address);
        Ok(self.pages.byte(address))
    }

    fn bytes(
        &mut self,
        address: u64,
        len: usize,
        faulted: &mut bool,
    ) -> Result<Vec<u8>, ReadStatus> {
        (0..len as u64).map(|index| self.byte(address.wrapping_add(index), faulted)).collect()
    }

    /// A string, and whether it is longer than `max`. That is known only by what follows.
    fn string(
        &mut self,
        address: u64,
        max: usize,
        faulted: &mut bool,
    ) -> Result<(Vec<u8>, bool), ReadStatus> {
        let mut bytes = Vec::new();
        for index in 0..max as u64 + 2 {
            match self.byte(address.wrapping_add(index), faulted)? {
                0 => break,
                byte => bytes.push(byte),
            }
        }
        let truncated = bytes.len() > max;
        bytes.truncate(max);
        Ok((bytes, truncated))
    }
}

fn is(op: &ReadOp, kind: ReadKind) -> bool {
    op.kind == kind as u8
}

fn failure(status: ReadStatus) -> Counter {
    match status {
        ReadStatus::Efault => Counter::ReadEfault,
        ReadStatus::Einval => Counter::ReadEinval,
        ReadStatus::Eagain => Counter::ReadEagain,
        ReadStatus::Whole | ReadStatus::Truncated | ReadStatus::Enodata => {
            panic!("{status:?} is no failure of a read")
        }
    }
}

/// A register as an integer of this width; `None` if it is negative.
fn exactly(register: u64, bits: u8, signed: bool) -> Option<u64> {
    let modulus = 1i128 << bits;
    let mut number = i128::from(register) % modulus;
    if signed && number >= modulus / 2 {
        number -= modulus;
    }
    u64::try_from(number).ok()
}

/// Any value that a probe reads. The lengths of ranges are fixed up by [`program`].
fn op() -> impl Strategy<Value = ReadOp> {
    let kind = prop_oneof![
        2 => Just(ReadKind::Value),
        3 => Just(ReadKind::Str),
        2 => Just(ReadKind::Bytes),
        3 => Just(ReadKind::BytesOf),
    ];
    let register = prop_oneof![4 => 0..REGISTERS as u8, 1 => Just(ON_STACK)];
    let max_bytes = prop_oneof![3 => 0..300u32, 2 => 0..5000u32, 1 => 0..=MAX_READ_BYTES, 1 => Just(MAX_READ_BYTES)];
    let bits = prop_oneof![Just(8u8), Just(16), Just(32), Just(64)];
    (kind, register, 0..512u16, max_bytes, bits, any::<bool>(), any::<u8>()).prop_map(
        |(kind, register, stack_offset, max_bytes, length_bits, signed, length_slot)| ReadOp {
            kind: kind as u8,
            register,
            stack_offset: stack_offset * 8,
            max_bytes,
            length_slot,
            length_bits,
            length_signed: u8::from(signed),
            ..ReadOp::default()
        },
    )
}

/// Any program that the planner may write: values first, in any slots, each length before its range,
/// and all but the last object within [`MAX_OFFSET`].
fn program() -> impl Strategy<Value = Vec<ReadOp>> {
    (vec(op(), 1..=MAX_VALUES), any::<u64>()).prop_map(|(mut ops, seed)| {
        ops.sort_by_key(|op| !is(op, ReadKind::Value));
        let len = ops.len();
        let values = ops.iter().filter(|op| is(op, ReadKind::Value)).count();
        let first = seed as usize % len;
        for (index, op) in ops.iter_mut().enumerate() {
            op.slot = ((index + first) % len) as u8;
        }
        let slots: Vec<u8> = ops.iter().map(|op| op.slot).collect();
        let mut room = MAX_OFFSET - len * SLOT_BYTES;
        for op in &mut ops[values..] {
            if is(op, ReadKind::BytesOf) && values == 0 {
                op.kind = ReadKind::Bytes as u8;
            } else if is(op, ReadKind::BytesOf) {
                op.length_slot = slots[usize::from(op.length_slot) % values];
            }
            op.max_bytes = op.max_bytes.min(room as u32);
            room -= op.max_bytes as usize;
        }
        ops
    })
}

/// Registers: pointers and lengths.
fn registers() -> impl Strategy<Value = [u64; REGISTERS]> {
    let register = prop_oneof![4 => pointer(), 2 => 0..6000u64, 1 => any::<u64>()];
    proptest::array::uniform8(register)
}

fn hit() -> impl Strategy<Value = Hit> {
    (program(), registers(), pointer(), pages(), any::<bool>()).prop_map(
        |(ops, registers, stack_pointer, pages, zero_if_empty)| Hit {
            ops,
            registers,
            stack_pointer,
            pages,
            zero_if_empty,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Check that any argument program, interpreted and decoded, gives what registers and memory hold,
    /// and that each read is counted as what it was.
    #[test]
    fn what_is_decoded_is_what_was_there(hit in hit()) {
        let expected = hit.expected();
        let (reading, data) = hit.interpret();
        prop_assert_eq!(hit.decode(&reading, &data), expected);
    }

    /// Check that a program of registers alone is copied as it is by the shorter way, too.
    #[test]
    fn registers_are_copied(registers in registers(), register in 0..REGISTERS as u8) {
        let op = ReadOp { register, ..ReadOp::default() };
        prop_assert_eq!(argument(&registers, &op), registers[usize::from(register)]);
    }
}

/// Check that a string of exactly its limit is whole, and one of a byte more is cut.
#[test]
fn an_exact_fit_is_not_a_cut() {
    for (length, status) in
        [(9, ReadStatus::Whole), (10, ReadStatus::Whole), (11, ReadStatus::Truncated)]
    {
        let mut pages = Pages::new(|_| State::Resident, |_| b'.');
        let mut text = vec![b'x'; length];
        text.push(0);
        pages.fill(FIRST, &text);
        let op = ReadOp { kind: ReadKind::Str as u8, max_bytes: 10, ..ReadOp::default() };
        let registers = [FIRST; REGISTERS];
        let hit = Hit { ops: vec![op], registers, stack_pointer: 0, pages, zero_if_empty: false };
        let (reading, data) = hit.interpret();
        let value = Value::Bytes(vec![b'x'; length.min(10)]);
        let found = hit.decode(&reading, &data);
        assert_eq!((found[0].status, &found[0].value), (status, &value), "{length} bytes");
    }
}
