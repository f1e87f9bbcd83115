//! plan → interpret → decode: what a user asks for, in the syntax of a probe, is what a program passed.

use proptest::{collection::vec, prelude::*};
use tracer_common::{
    program::REGISTERS,
    record::{HEADER_BYTES, KIND_ENTRY, RecordHeader, SLOT_BYTES},
    testbed::{FIRST, Pages, State, interpret},
};

use super::{
    testbed::{header, header_bytes},
    *,
};
use faultline_plan::testbed::programmed;
use faultline_spec::types::{Raw, Value};

/// An argument of the traced function, as the program passes it.
#[derive(Debug, Clone)]
enum Passed {
    /// `_`
    Skipped,
    /// An integer of this type, with other bits above it.
    Int { signed: bool, bytes: u8, register: u64 },
    /// `str[MAX]`, and whether it is too long for that.
    Str { text: Vec<u8>, max: u32 },
    /// `bytes[N]`
    Bytes { bytes: Vec<u8> },
    /// `bytes[OTHER]`, where that argument is a length.
    BytesOf { other: usize, bytes: Vec<u8> },
    /// `str` at an address that is not mapped.
    Wild,
}

fn passed() -> impl Strategy<Value = Passed> {
    let width = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    let text = prop_oneof![4 => vec(1..=255u8, 0..40), 1 => vec(1..=255u8, 200..600)];
    let bytes = prop_oneof![4 => vec(any::<u8>(), 1..40), 1 => vec(any::<u8>(), 200..600)];
    prop_oneof![
        1 => Just(Passed::Skipped),
        4 => (any::<bool>(), width, any::<u64>())
            .prop_map(|(signed, bytes, register)| Passed::Int { signed, bytes, register }),
        4 => (text, 1..400u32).prop_map(|(text, max)| Passed::Str { text, max }),
        2 => bytes.clone().prop_map(|bytes| Passed::Bytes { bytes }),
        2 => (0..12usize, bytes).prop_map(|(other, bytes)| Passed::BytesOf { other, bytes }),
        1 => Just(Passed::Wild),
    ]
}

/// Arguments whose ranges have their lengths: `BytesOf` names an integer of eight bytes, or becomes a
/// range of a fixed length.
fn arguments() -> impl Strategy<Value = Vec<Passed>> {
    vec(passed(), 0..12).prop_map(|mut args| {
        let mut lengths = vec![false; args.len()];
        for index in 0..args.len() {
            let Passed::BytesOf { other, bytes } = args[index].clone() else { continue };
            let other = other % args.len();
            if matches!(args[other], Passed::Int { .. }) && !lengths[other] {
                lengths[other] = true;
                args[other] = Passed::Int { signed: false, bytes: 8, register: bytes.len() as u64 };
                args[index] = Passed::BytesOf { other, bytes };
            } else {
                args[index] = Passed::Bytes { bytes };
            }
        }
        args
    })
}

impl Passed {
    /// As the user writes it, by the name `aN`.
    fn spec(&self, index: usize) -> String {
        match self {
            Self::Skipped => "_".to_owned(),
            Self::Int { signed, bytes, .. } => {
                format!("a{index}: {}{}", if *signed { 'i' } else { 'u' }, bytes * 8)
            }
            Self::Str { max, .. } => format!("a{index}: str[{max}]"),
            Self::Bytes { bytes } => format!("a{index}: bytes[{}]", bytes.len()),
            Self::BytesOf { other, .. } => format!("a{index}: bytes[a{other}]"),
            Self::Wild => format!("a{index}: str[16]"),
        }
    }

    /// What the user has to see.
    fn seen(&self) -> Option<Seen> {
        Some(match self {
            Self::Skipped => return None,
            Self::Int { signed, bytes, register } => {
                let modulus = 1i128 << (bytes * 8);
                let number = i128::from(*register) % modulus;
                Seen::Number(if *signed && number >= modulus / 2 {
                    number - modulus
                } else {
                    number
                })
            }
            Self::Str { text, max } => {
                let kept = text.len().min(*max as usize);
                Seen::Bytes { bytes: text[..kept].to_vec(), truncated: kept < text.len() }
            }
            Self::Bytes { bytes } | Self::BytesOf { bytes, .. } => {
                Seen::Bytes { bytes: bytes.clone(), truncated: false }
            }
            Self::Wild => Seen::Unread(Errno::Efault),
        })
    }
}

/// What becomes of an argument.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Number(i128),
    Bytes { bytes: Vec<u8>, truncated: bool },
    Unread(Errno),
}

impl From<Result<Value<'_>, Errno>> for Seen {
    fn from(value: Result<Value<'_>, Errno>) -> Self {
        match value.map(|value| (value.raw(), value.number())) {
            Ok((Raw::Memory { bytes, truncated }, _)) => {
                Self::Bytes { bytes: bytes.to_vec(), truncated }
            }
            Ok((Raw::Register(_), number)) => Self::Number(number.unwrap()),
            Err(errno) => Self::Unread(errno),
        }
    }
}

/// What a program has in its registers and on its stack at the function's entry.
struct Call {
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    pages: Pages,
}

/// Passes arguments as the System V ABI says: six in registers, the rest above the return address.
fn call(args: &[Passed], resident: bool) -> Call {
    let state = if resident { State::Resident } else { State::Absent };
    let mut pages = Pages::new(|_| state, |_| b'#');
    let stack_pointer = FIRST + 64;
    let mut registers = [0x5555_5555_5555_5555; REGISTERS];
    // Objects lie one after another, from the second page on.
    let mut next = FIRST + 4096;
    for (index, arg) in args.iter().enumerate() {
        let mut place = |bytes: &[u8]| {
            let address = next;
            pages.fill(address, bytes);
            next += bytes.len() as u64;
            address
        };
        let value = match arg {
            Passed::Skipped => 0xdead_beef_dead_beef,
            Passed::Int { register, .. } => *register,
            Passed::Str { text, .. } => place(&[text.as_slice(), &[0]].concat()),
            Passed::Bytes { bytes } | Passed::BytesOf { bytes, .. } => place(bytes),
            Passed::Wild => 0x10,
        };
        match index.checked_sub(6) {
            None => registers[index] = value,
            Some(above) => {
                pages.fill(stack_pointer + 8 + 8 * above as u64, &value.to_le_bytes());
            }
        }
    }
    Call { registers, stack_pointer, pages }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Check that for any arguments, decode gives what was passed, whether it was in memory or had to be
    /// faulted in.
    #[test]
    fn what_is_shown_is_what_was_passed(args in arguments(), resident in any::<bool>()) {
        let spec: Vec<_> = args.iter().enumerate().map(|(index, arg)| arg.spec(index)).collect();
        let text = format!("libx:f({})", spec.join(", "));
        let probes = [programmed(&text)];
        let program = &probes[0].program;
        let Call { registers, stack_pointer, pages } = call(&args, resident);
        let ops = &program.entry[..usize::from(program.entry_len)];
        let (reading, data) =
            interpret(ops, registers, stack_pointer.wrapping_add(program.stack_bias), &pages, false);
        let slots = program.entry_slots;
        let header = RecordHeader { kind: KIND_ENTRY, statuses: reading.statuses, slots, ..header() };
        let bytes = [header_bytes(&header).as_slice(), &data].concat();
        prop_assert!(bytes.len() >= HEADER_BYTES + usize::from(slots) * SLOT_BYTES);

        let event = decode(&bytes, &probes, &Clock::with_offset_ns(0)).unwrap();
        let shown: Vec<Seen> = event.values().map(|(_, value)| value.into()).collect();
        let expected: Vec<_> = args.iter().filter_map(Passed::seen).collect();
        prop_assert_eq!(shown, expected, "{}", text);
        let names: Vec<_> = event.values().map(|(name, _)| name.to_owned()).collect();
        let named = args.iter().enumerate().filter(|(_, arg)| !matches!(arg, Passed::Skipped));
        prop_assert_eq!(names, named.map(|(index, _)| format!("a{index}")).collect::<Vec<_>>());
    }
}
