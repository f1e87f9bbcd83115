//! From a condition about a probe to the tests that the eBPF program runs.
//!
//! The parts that `&&` joins at the top are split: what names `ret` or `duration` is judged at the
//! return, all else at the entry. A part that names arguments too has these judged at the entry
//! and their results kept with the open call, a bit each.

use std::collections::HashMap;

use tracer_common::{
    condition::{
        ACCEPT, Comparison, Condition, MAX_SAVED, MAX_TESTS, NO_CONDITION, NOT_SAVED, REJECT,
        RETURN_DURATION, RETURN_SAVED, RETURN_VALUE, Source, TEXT_BYTES, Test, Text,
    },
    program::ON_STACK,
};

use super::program::Places;
use faultline_resolve::{Arch, SkipReason};
use faultline_spec::{
    self as spec, Check, Formula, MAX_COMPARISONS, MAX_MIXED, MAX_TEXT_BYTES, Operand, Order,
};

const _: () = assert!(MAX_COMPARISONS == MAX_TESTS && MAX_MIXED == MAX_SAVED);
const _: () = assert!(MAX_TEXT_BYTES == tracer_common::condition::MAX_TEXT_BYTES);

/// The conditions of a plan, each once, and the texts that they compare with.
#[derive(Debug, Default)]
pub struct Conditions {
    /// By the indices that the programs of the probes have.
    pub conditions: Vec<Condition>,
    /// By the indices that tests have.
    pub texts: Vec<Text>,
    known: HashMap<Condition, u32>,
    known_texts: HashMap<Vec<u8>, u32>,
}

/// Where a probe's conditions are; [`NO_CONDITION`] where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Indices {
    pub(super) entry: u32,
    pub(super) at_return: u32,
}

impl Indices {
    pub(super) const NONE: Self = Self { entry: NO_CONDITION, at_return: NO_CONDITION };
}

impl Conditions {
    /// Adds what a formula says about a probe on `arch`; `inside` says that the breakpoint is past
    /// the function's entry.
    ///
    /// # Errors
    ///
    /// [`SkipReason::StackInside`]: it names an argument on the stack, with a breakpoint past the
    /// entry.
    pub(super) fn add(
        &mut self,
        formula: &Formula,
        arch: Arch,
        inside: bool,
    ) -> Result<Indices, SkipReason> {
        let places = Places::of(arch);
        let mut of_entry = Vec::new();
        let mut of_return = Vec::new();
        for part in formula.conjuncts() {
            if part.needs_return() { of_return.push(part) } else { of_entry.push(part) }
        }
        let mut compiler = Compiler {
            conditions: self,
            places: &places,
            saved: None,
            tests: Vec::new(),
            labels: Vec::new(),
        };
        let at_return = match of_return.as_slice() {
            [] => None,
            parts => {
                compiler.saved = Some(Vec::new());
                compiler.all(parts, Target::Verdict(ACCEPT), Target::Verdict(REJECT));
                Some(compiler.finish())
            }
        };
        let saved = compiler.saved.take().unwrap_or_default();
        let judged = compiler.new_label();
        if !of_entry.is_empty() {
            compiler.all(&of_entry, Target::Label(judged), Target::Verdict(REJECT));
        }
        compiler.place(judged);
        for (bit, test) in saved.iter().enumerate() {
            let next = compiler.new_label();
            compiler.test(test, bit as u8, Target::Label(next), Target::Label(next));
            compiler.place(next);
        }
        let entry = (!compiler.tests.is_empty()).then(|| compiler.finish());
        let all = entry.iter().chain(&at_return).flat_map(|condition| &condition.tests);
        if inside && all.clone().any(|test| test.source == Source::Stack as u8) {
            return Err(SkipReason::StackInside);
        }
        Ok(Indices {
            entry: entry.map_or(NO_CONDITION, |condition| self.intern(condition)),
            at_return: at_return.map_or(NO_CONDITION, |condition| self.intern(condition)),
        })
    }

    /// Adds those of another plan; where each of them is now.
    pub(super) fn append(&mut self, other: Self) -> Vec<u32> {
        let texts: HashMap<u32, u32> = other
            .known_texts
            .into_iter()
            .map(|(text, index)| (index, self.intern_text(&text)))
            .collect();
        let moved = |mut condition: Condition| {
            for test in &mut condition.tests {
                let has_text = test.comparison == Comparison::Str as u8
                    || test.comparison == Comparison::Bytes as u8;
                if has_text && let Some(index) = texts.get(&test.text) {
                    test.text = *index;
                }
            }
            condition
        };
        other.conditions.into_iter().map(|condition| self.intern(moved(condition))).collect()
    }

    fn intern(&mut self, condition: Condition) -> u32 {
        *self.known.entry(condition).or_insert_with(|| {
            self.conditions.push(condition);
            (self.conditions.len() - 1) as u32
        })
    }

    fn intern_text(&mut self, text: &[u8]) -> u32 {
        if let Some(index) = self.known_texts.get(text) {
            return *index;
        }
        let mut bytes = [0; TEXT_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        let index = self.texts.len() as u32;
        self.texts.push(Text { bytes });
        self.known_texts.insert(text.to_vec(), index);
        index
    }
}

/// Where evaluation continues.
#[derive(Clone, Copy)]
enum Target {
    Verdict(u8),
    /// An index into `labels`.
    Label(usize),
}

struct Compiler<'a> {
    conditions: &'a mut Conditions,
    places: &'a Places,
    /// At the return: the tests of arguments so far, whose results are saved at the entry.
    saved: Option<Vec<spec::Test>>,
    tests: Vec<(Test, Target, Target)>,
    /// The index of the test at which each label stands; one behind the last accepts.
    labels: Vec<usize>,
}

impl Compiler<'_> {
    fn new_label(&mut self) -> usize {
        self.labels.push(usize::MAX);
        self.labels.len() - 1
    }

    fn place(&mut self, label: usize) {
        self.labels[label] = self.tests.len();
    }

    /// All parts must hold. They are judged in their order, and no further than needed.
    fn all(&mut self, parts: &[&Formula], holds: Target, fails: Target) {
        let Some((last, others)) = parts.split_last() else { return };
        for part in others {
            let next = self.new_label();
            self.formula(part, Target::Label(next), fails);
            self.place(next);
        }
        self.formula(last, holds, fails);
    }

    fn formula(&mut self, formula: &Formula, holds: Target, fails: Target) {
        match formula {
            Formula::All(parts) => self.all(&parts.iter().collect::<Vec<_>>(), holds, fails),
            Formula::Any(parts) => {
                let Some((last, others)) = parts.split_last() else { return };
                for part in others {
                    let next = self.new_label();
                    self.formula(part, holds, Target::Label(next));
                    self.place(next);
                }
                self.formula(last, holds, fails);
            }
            Formula::Test(test) => match &mut self.saved {
                Some(saved) if test.operand.is_of_entry() => {
                    let bit = 1 << saved.len();
                    saved.push(test.clone());
                    self.tests.push((saved_bit(bit), holds, fails));
                }
                _ => self.test(test, NOT_SAVED, holds, fails),
            },
        }
    }

    fn test(&mut self, test: &spec::Test, save: u8, holds: Target, fails: Target) {
        let (source, register, stack_offset) = match test.operand {
            Operand::Arg(position) => {
                let op = self.places.op(position);
                if op.register == ON_STACK {
                    (Source::Stack, 0, op.stack_offset)
                } else {
                    (Source::Register, op.register, 0)
                }
            }
            Operand::Return => (Source::Register, RETURN_VALUE, 0),
            Operand::Duration => (Source::Register, RETURN_DURATION, 0),
            Operand::Pid => (Source::Pid, 0, 0),
            Operand::Tid => (Source::Tid, 0, 0),
            Operand::Comm => (Source::Comm, 0, 0),
        };
        let mut compiled = Test {
            source: source as u8,
            register,
            stack_offset,
            negated: u8::from(test.negated),
            save,
            ..Test::default()
        };
        match &test.check {
            Check::Number { bits, signed, mask, order, constant } => {
                compiled.comparison = match order {
                    Order::Equal => Comparison::Equal,
                    Order::Less => Comparison::Less,
                    Order::Greater => Comparison::Greater,
                } as u8;
                compiled.shift = 64 - bits;
                compiled.signed = u8::from(*signed);
                compiled.mask = *mask;
                compiled.bias = if *signed { 1 << 63 } else { 0 };
                // A constant is a value of the type: of 64 bits, signed or not.
                compiled.constant = (*constant as u64) ^ compiled.bias;
            }
            Check::Str { text, whole } => {
                compiled.comparison = Comparison::Str as u8;
                compiled.text = self.conditions.intern_text(text);
                // The terminator is compared too.
                compiled.text_bytes = (text.len() + usize::from(*whole)) as u32;
            }
            Check::Bytes { text } => {
                compiled.comparison = Comparison::Bytes as u8;
                compiled.text = self.conditions.intern_text(text);
                compiled.text_bytes = text.len() as u32;
            }
        }
        self.tests.push((compiled, holds, fails));
    }

    /// The condition of the tests so far; begins a new one.
    fn finish(&mut self) -> Condition {
        let tests = std::mem::take(&mut self.tests);
        let labels = std::mem::take(&mut self.labels);
        let jump = |target| match target {
            Target::Verdict(verdict) => verdict,
            Target::Label(label) => match labels.get(label) {
                Some(at) if *at < tests.len() => *at as u8,
                _ => ACCEPT,
            },
        };
        let mut condition = Condition::default();
        for (place, (test, holds, fails)) in condition.tests.iter_mut().zip(&tests) {
            *place = Test { on_true: jump(*holds), on_false: jump(*fails), ..*test };
        }
        condition
    }
}

/// The test at the return of what was saved at the entry.
fn saved_bit(bit: u64) -> Test {
    Test {
        source: Source::Register as u8,
        register: RETURN_SAVED,
        comparison: Comparison::Equal as u8,
        negated: 1,
        save: NOT_SAVED,
        mask: bit,
        ..Test::default()
    }
}

#[cfg(test)]
#[path = "condition/tests.rs"]
mod tests;
