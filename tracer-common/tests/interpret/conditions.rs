//! Conditions: whatever tests user space writes, the verdict is what they say.

use proptest::{collection::vec, prelude::*};
use tracer_common::{
    condition::{
        ACCEPT, CHUNK_BYTES, Comparison, MAX_SAVED, MAX_TESTS, MAX_TEXT_BYTES, NOT_SAVED, REJECT,
        SAVED_UNDECIDED, Source, TEXT_BYTES, Test, Text,
    },
    interpret::{PAGE_BYTES, judge::Judged},
    program::REGISTERS,
    testbed::{self, FIRST, PAGES, Pages, State},
};

use super::simulated::{pages, pointer};

/// A test as the user means it.
#[derive(Debug, Clone)]
struct Meant {
    source: Source,
    register: u8,
    stack_offset: u16,
    what: What,
    negated: bool,
    on_true: u8,
    on_false: u8,
    save: u8,
}

#[derive(Debug, Clone)]
enum What {
    /// An integer of this width against another one.
    Number { bits: u8, signed: bool, mask: u64, comparison: Comparison, constant: i128 },
    /// The text, with its terminator where all of it is to be equal.
    Text { comparison: Comparison, text: Vec<u8> },
}

/// A condition and a hit.
#[derive(Debug, Clone)]
struct Hit {
    tests: Vec<Meant>,
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    pid_tgid: u64,
    comm: [u8; 16],
    pages: Pages,
}

impl Meant {
    /// As the planner writes it, with its text at this index.
    fn encode(&self, text: usize) -> Test {
        let mut test = Test {
            source: self.source as u8,
            register: self.register,
            negated: u8::from(self.negated),
            on_true: self.on_true,
            on_false: self.on_false,
            save: self.save,
            stack_offset: self.stack_offset,
            text: text as u32,
            ..Test::default()
        };
        match &self.what {
            What::Number { bits, signed, mask, comparison, constant } => {
                let bias = if *signed { 1 << 63 } else { 0 };
                test.comparison = *comparison as u8;
                test.shift = 64 - bits;
                test.signed = u8::from(*signed);
                test.mask = *mask;
                test.bias = bias;
                test.constant = (*constant as u64) ^ bias;
            }
            What::Text { comparison, text } => {
                test.comparison = *comparison as u8;
                test.text_bytes = text.len() as u32;
                test.mask = u64::MAX;
            }
        }
        test
    }
}

impl Hit {
    fn interpret(&self) -> Judged {
        let text = |meant: &Meant| {
            let mut bytes = [0; TEXT_BYTES];
            if let What::Text { text, .. } = &meant.what {
                bytes[..text.len()].copy_from_slice(text);
            }
            Text { bytes }
        };
        let texts: Vec<Text> = self.tests.iter().map(text).collect();
        let tests: Vec<Test> =
            self.tests.iter().enumerate().map(|(index, meant)| meant.encode(index)).collect();
        let hit = testbed::Hit::new(&self.pages, &texts, self.pid_tgid, self.comm);
        hit.judge(&tests, self.registers, self.stack_pointer)
    }

    /// What the condition says.
    fn expected(&self) -> Judged {
        let mut truth = Truth { pages: self.pages.clone(), out_of_time: false };
        let mut saved = 0;
        let mut next = 0;
        loop {
            let meant = &self.tests[usize::from(next)];
            let holds = match self.holds(meant, &mut truth) {
                Some(holds) => holds != meant.negated,
                None => {
                    saved |= SAVED_UNDECIDED;
                    false
                }
            };
            if meant.save != NOT_SAVED {
                saved |= u16::from(holds) << meant.save;
            }
            next = if holds { meant.on_true } else { meant.on_false };
            if next == ACCEPT || next == REJECT {
                return Judged { accepted: next == ACCEPT, saved };
            }
        }
    }

    /// Whether a test is true, before it is turned round; `None` if its value cannot be read.
    fn holds(&self, meant: &Meant, truth: &mut Truth) -> Option<bool> {
        let raw = match meant.source {
            Source::Register => self.registers[usize::from(meant.register)],
            Source::Pid => self.pid_tgid >> 32,
            Source::Tid => self.pid_tgid & 0xffff_ffff,
            Source::Comm => 0,
            Source::Stack => {
                let address = self.stack_pointer.wrapping_add(u64::from(meant.stack_offset));
                let word: Option<Vec<u8>> =
                    (0..8).map(|index| truth.byte(address.wrapping_add(index))).collect();
                u64::from_le_bytes(word?.try_into().unwrap())
            }
        };
        match &meant.what {
            What::Number { bits, signed, mask, comparison, constant } => {
                let mut number = i128::from(raw) & ((1 << bits) - 1);
                if *signed && number >> (bits - 1) != 0 {
                    number -= 1 << bits;
                }
                if *mask != u64::MAX {
                    number = i128::from(number as u64 & mask);
                }
                Some(match comparison {
                    Comparison::Equal => number == *constant,
                    Comparison::Less => number < *constant,
                    _ => number > *constant,
                })
            }
            What::Text { text, .. } if meant.source == Source::Comm => {
                let end = self.comm.iter().position(|byte| *byte == 0).unwrap();
                Some(is_text(&self.comm[..end], text))
            }
            What::Text { comparison: Comparison::Bytes, text } => {
                let at = |index: usize| raw.wrapping_add(index as u64);
                // A chunk is read as a whole.
                for (chunk, wanted) in text.chunks(CHUNK_BYTES).enumerate() {
                    let first = at(chunk * CHUNK_BYTES);
                    let bytes: Option<Vec<u8>> = (0..wanted.len() as u64)
                        .map(|index| truth.byte(first.wrapping_add(index)))
                        .collect();
                    if bytes? != wanted {
                        return Some(false);
                    }
                }
                Some(true)
            }
            What::Text { text, .. } => truth.string_is(raw, text),
        }
    }
}

/// Whether a string is the text, if that has a terminator, or begins with it.
fn is_text(string: &[u8], text: &[u8]) -> bool {
    match text.split_last() {
        Some((0, whole)) => string == whole,
        _ => string.starts_with(text),
    }
}

/// The memory as it is known to be.
struct Truth {
    pages: Pages,
    /// A page that does not stay has used up the steps: nothing is faulted in any more.
    out_of_time: bool,
}

impl Truth {
    fn byte(&mut self, address: u64) -> Option<u8> {
        match self.pages.state(address) {
            State::Resident => {}
            State::Absent if self.pages.may_fault && !self.out_of_time => {
                self.pages.arrive(address);
            }
            State::Fleeting if self.pages.may_fault => {
                self.out_of_time = true;
                return None;
            }
            _ => return None,
        }
        Some(self.pages.byte(address))
    }

    /// Whether the string at `address` is the text, or begins with it. A chunk of the string is read
    /// with one byte more, or up to its terminator.
    fn string_is(&mut self, address: u64, text: &[u8]) -> Option<bool> {
        for (chunk, wanted) in text.chunks(CHUNK_BYTES).enumerate() {
            let first = address.wrapping_add((chunk * CHUNK_BYTES) as u64);
            let mut read = Vec::new();
            for index in 0..=wanted.len() as u64 {
                read.push(self.byte(first.wrapping_add(index))?);
                if read.last() == Some(&0) {
                    break;
                }
            }
            if !read.starts_with(wanted) {
                return Some(false);
            }
        }
        Some(true)
    }
}

fn number() -> impl Strategy<Value = What> {
    let bits = prop_oneof![Just(8u8), Just(16), Just(32), Just(64)];
    let comparison =
        prop_oneof![Just(Comparison::Equal), Just(Comparison::Less), Just(Comparison::Greater)];
    let constant = prop_oneof![any::<u64>(), 0..300u64, Just(u64::MAX), pointer()];
    (bits, any::<bool>(), comparison, constant, proptest::option::weighted(0.2, any::<u64>()))
        .prop_map(|(bits, signed, comparison, constant, mask)| {
            let modulus = 1i128 << bits;
            let mut constant = i128::from(constant) % modulus;
            // Bits are taken of numbers without a sign.
            let signed = signed && mask.is_none();
            if signed && constant >= modulus / 2 {
                constant -= modulus;
            }
            let mask = mask.unwrap_or(u64::MAX);
            if mask != u64::MAX {
                constant &= i128::from(mask);
            }
            What::Number { bits, signed, mask, comparison, constant }
        })
}

fn text(comparison: Comparison) -> impl Strategy<Value = What> {
    // Long ones are made equal to what is in memory by `hit`.
    (prop_oneof![1..20usize, 50..80usize, 1..=MAX_TEXT_BYTES], any::<bool>()).prop_map(
        move |(length, whole)| {
            let mut text = vec![b'a'; length];
            if whole && comparison == Comparison::Str {
                text.push(0);
            }
            What::Text { comparison, text }
        },
    )
}

fn test() -> impl Strategy<Value = Meant> {
    let number_of = prop_oneof![
        4 => Just(Source::Register),
        2 => Just(Source::Stack),
        1 => Just(Source::Pid),
        1 => Just(Source::Tid),
    ];
    let pointer_of = prop_oneof![3 => Just(Source::Register), 1 => Just(Source::Stack)];
    let what = prop_oneof![
        (number_of, number()),
        (pointer_of.clone(), text(Comparison::Str)),
        (pointer_of, text(Comparison::Bytes)),
        (Just(Source::Comm), text(Comparison::Str)),
    ];
    let save = prop_oneof![Just(NOT_SAVED), 0..MAX_SAVED as u8];
    (what, 0..REGISTERS as u8, 0..64u16, any::<bool>(), any::<(u8, u8)>(), save).prop_map(
        |((source, what), register, stack_offset, negated, (on_true, on_false), save)| {
            let stack_offset = stack_offset * 8;
            Meant { source, register, stack_offset, what, negated, on_true, on_false, save }
        },
    )
}

/// A later test or a verdict.
fn forward(wanted: u8, index: usize, len: usize) -> u8 {
    let later = len - index - 1;
    match usize::from(wanted) % (later + 2) {
        0 => ACCEPT,
        1 => REJECT,
        other => (index + other - 1) as u8,
    }
}

fn hit() -> impl Strategy<Value = Hit> {
    let tests = prop_oneof![4 => vec(test(), 1..8), 1 => vec(test(), 1..=MAX_TESTS)];
    let registers = prop_oneof![6 => pointer(), 1 => 0..300u64, 1 => any::<u64>()];
    let comm = vec(prop_oneof![3 => Just(b'a'), 1 => any::<u8>()], 0..=15);
    let equal = vec(any::<Option<proptest::sample::Index>>(), MAX_TESTS);
    (tests, proptest::array::uniform8(registers), pointer(), any::<u64>(), (comm, equal), pages())
        .prop_map(
            |(mut tests, mut registers, stack_pointer, pid_tgid, (name, equal), mut pages)| {
                let len = tests.len();
                let end = FIRST + PAGES as u64 * PAGE_BYTES;
                for (index, meant) in tests.iter_mut().enumerate() {
                    meant.on_true = forward(meant.on_true, index, len);
                    meant.on_false = forward(meant.on_false, index, len);
                    // So that not nearly all texts differ in their first byte: all but a byte, or all.
                    let (Some(differs), What::Text { text, .. }) = (equal[index], &meant.what)
                    else {
                        continue;
                    };
                    let at = differs.index(text.len() * 2);
                    let register = &mut registers[usize::from(meant.register)];
                    if at % 3 == 0 {
                        // So that a chunk ends with its page.
                        let before = if at % 2 == 0 { text.len() } else { CHUNK_BYTES };
                        *register = (*register & !(PAGE_BYTES - 1)).wrapping_sub(before as u64);
                    }
                    let address = *register;
                    if meant.source != Source::Register
                        || address < FIRST
                        || address.saturating_add(text.len() as u64) >= end
                    {
                        continue;
                    }
                    let mut text = text.clone();
                    if let Some(byte) = text.get_mut(at) {
                        *byte = b'b';
                    }
                    pages.fill(address, &text);
                }
                let mut comm = [0; 16];
                comm[..name.len()].copy_from_slice(&name);
                Hit { tests, registers, stack_pointer, pid_tgid, comm, pages }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Check that any condition gives the verdict, and saves the results, that its tests say.
    #[test]
    fn the_verdict_is_what_the_tests_say(hit in hit()) {
        let expected = hit.expected();
        prop_assert_eq!(hit.interpret(), expected);
    }
}

/// Check that a string whose compared part ends with its page is compared although the rest of it lies
/// on a page that is not resident. It used to be left out as undecided: the page that was missing lay
/// just behind the bytes that were looked at.
#[test]
fn a_string_that_goes_on_on_a_page_that_is_not_resident() {
    let mut pages =
        Pages::new(|page| if page == 0 { State::Resident } else { State::Absent }, |_| b'.');
    let address = FIRST + PAGE_BYTES - 3;
    pages.fill(address, b"abcdef\0");
    let what = What::Text { comparison: Comparison::Str, text: b"abc".to_vec() };
    let test = Meant {
        source: Source::Register,
        register: 0,
        stack_offset: 0,
        what,
        negated: false,
        on_true: ACCEPT,
        on_false: REJECT,
        save: NOT_SAVED,
    };
    let registers = [address; REGISTERS];
    let hit =
        Hit { tests: vec![test], registers, stack_pointer: 0, pid_tgid: 0, comm: [0; 16], pages };
    assert_eq!(hit.interpret(), Judged { accepted: true, saved: 0 });
    assert_eq!(hit.pages.faults.get(), 1);
}
