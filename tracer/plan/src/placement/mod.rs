//! Where a function's breakpoint is cheapest.
//!
//! The cost of a hit depends on the instruction under the breakpoint: on x86-64 the kernel emulates some
//! instructions and single-steps the others, which takes ten times as long in a virtual machine.
//! `endbr64`, with which every function of a library built for CET begins, is one of the expensive ones.
//! So the breakpoint moves along the straight code at the function's start to the first cheap
//! instruction, as long as that changes nothing that the user sees:
//!
//! - what the probe reads is there as it was at the entry, and nothing before the new place can fail
//!   ([`block`]);
//! - nothing jumps past the entry to the new place or before it ([`branches`]), so that whoever
//!   passes one passes the other.
//!
//! When in doubt, the breakpoint stays where it is.

mod apply;
mod block;
mod branches;
mod survey;

use self::block::Needs;
pub(crate) use self::branches::branch_at;
use self::branches::{Forbidden, Text, targets};
pub use self::{
    apply::{ReadPieces, place},
    survey::{Outlook, Surveyed, survey},
};
use super::{
    Class, Classes, Form,
    instruction::LONGEST,
    stack_check::{MOST_CHECKED, stack_check},
};
use faultline_resolve::{Arch, FileOffset, ObjectFile};

/// A function whose breakpoint may move.
#[derive(Debug, Clone, Copy)]
struct Movable {
    /// Its first instruction, as an offset in the file.
    entry: u64,
    /// Its size; what has none stays.
    size_bytes: u64,
    needs: Needs,
    /// Where its calls end, if that is watched, or past everything: the two breakpoints must not meet.
    first_exit: u64,
}

/// What a breakpoint may be moved past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Only Go's check of the stack, after which a function may start again.
    Nothing,
    /// What cannot fail.
    Safe,
    /// The same, and reads through any pointer.
    Reads,
}

/// Where a breakpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Bytes past the function's first instruction.
    pub moved_bytes: u64,
    /// Bytes by which the stack pointer is lower there than at the entry.
    pub stack_bias: u64,
    /// The instruction there.
    pub form: Form,
    /// How the kernel runs it.
    pub class: Class,
    /// How it would have run the first one.
    pub entry_class: Class,
}

impl Place {
    /// At the instruction that was asked for.
    #[must_use]
    pub fn unmoved(form: Form, classes: &Classes) -> Self {
        let class = classes.of(form);
        Self { moved_bytes: 0, stack_bias: 0, form, class, entry_class: class }
    }
}

/// How many bytes the check of its stack has with which a function of a Go program begins.
fn check_bytes(file: &ObjectFile, text: &Text, entry: u64) -> u64 {
    if file.go().is_none() {
        // Nearly all files.
        return 0;
    }
    let check = stack_check(entry, |offset| text.code(offset, MOST_CHECKED as u64));
    check.map_or(0, |check| check.body)
}

/// Whether the instruction at a function's new place is as the file has it: the loader does not change it.
fn is_fixed(file: &ObjectFile, function: &Movable, place: &Place) -> bool {
    !file.is_relocated(FileOffset(function.entry + place.moved_bytes), LONGEST as u64)
}

/// The cheapest safe place of each function, in their order; `None` for those that stay where they are,
/// because moving is not known to be safe or they are outside the text.
fn places(
    file: &ObjectFile,
    text: &Text,
    functions: &[Movable],
    classes: &Classes,
) -> Vec<Option<Place>> {
    let checks = functions.iter().map(|function| check_bytes(file, text, function.entry));
    let checks: Vec<u64> = checks.collect();
    let with_checks = functions.iter().zip(&checks);
    let cheapest =
        |(function, check_bytes): (_, &u64)| cheapest(text, function, *check_bytes, classes);
    let mut places: Vec<_> = with_checks.map(cheapest).collect();
    let mut forbidden = Forbidden::new(text);
    // Nothing jumps into Go's check, nor to where the frame is made behind it.
    let first_target = |function: &Movable, check_bytes: &u64| function.entry + check_bytes + 1;
    for ((function, check_bytes), place) in functions.iter().zip(&checks).zip(&places) {
        if let Some(place) = place.filter(|place| place.moved_bytes > *check_bytes) {
            forbidden.add(first_target(function, check_bytes), function.entry + place.moved_bytes);
        }
    }
    if forbidden.is_empty() {
        return places;
    }
    let targets = targets(text, &forbidden);
    for ((function, check_bytes), place) in functions.iter().zip(&checks).zip(&mut places) {
        let moved_bytes = place.map_or(0, |place| place.moved_bytes);
        if moved_bytes <= *check_bytes {
            continue;
        }
        let jumped_past =
            targets.any_in(first_target(function, check_bytes), function.entry + moved_bytes);
        if jumped_past || !branches::has_known_jumps(text, function.entry, function.size_bytes) {
            *place = behind_check(text, function, *check_bytes, classes);
        }
    }
    places
}

/// The place of each function behind Go's check, `None` for those without one.
fn behind_checks(
    file: &ObjectFile,
    text: &Text,
    functions: &[Movable],
    classes: &Classes,
) -> Vec<Option<Place>> {
    let behind = |function: &Movable| {
        behind_check(text, function, check_bytes(file, text, function.entry), classes)
    };
    functions.iter().map(behind).collect()
}

/// The place behind Go's check; `None` if there is no check.
fn behind_check(
    text: &Text,
    function: &Movable,
    check_bytes: u64,
    classes: &Classes,
) -> Option<Place> {
    let code = text.code(function.entry + check_bytes, LONGEST as u64)?;
    let place = Place::unmoved(Form::of(Arch::X86_64, code), classes);
    (check_bytes != 0).then_some(Place { moved_bytes: check_bytes, ..place })
}

/// The cheapest place, judged by the function's first instructions alone.
fn cheapest(text: &Text, function: &Movable, check_bytes: u64, classes: &Classes) -> Option<Place> {
    let Movable { entry, size_bytes, .. } = *function;
    let left_bytes = size_bytes.checked_sub(check_bytes)?;
    let code = text.code(entry + check_bytes, left_bytes.min(block::MOST_BYTES as u64))?;
    let mut candidates = block::candidates(code, function.needs);
    for candidate in &mut candidates {
        candidate.offset += check_bytes as usize;
    }
    candidates.retain(|place| entry + (place.offset as u64) < function.first_exit);
    // Of equally cheap ones the first.
    let best = candidates.iter().min_by_key(|place| classes.of(place.form))?;
    Some(Place {
        moved_bytes: best.offset as u64,
        stack_bias: best.stack_bias,
        form: best.form,
        class: classes.of(best.form),
        entry_class: classes.of(candidates.first()?.form),
    })
}
