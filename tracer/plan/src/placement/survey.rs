//! What a plain probe on each function of a file would meet, for those who only want to know.

use super::{Movable, Needs, Place, ReadPieces, Text, places};
use crate::{
    Class, Classes, Form,
    instruction::{self, Verdict},
};
use faultline_resolve::{Arch, ObjectFile, SkipReason};

/// What a breakpoint on a function's entry would meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// It would go there.
    Placed(Place),
    /// The same, but some kernels refuse the instruction.
    Doubtful(Place),
    /// It is refused.
    Refused(SkipReason),
}

/// Looks at functions, each given by its offset in the file and its size, as far as a probe is
/// concerned that reads no arguments and no return.
pub fn survey(
    file: &ObjectFile,
    functions: &[(u64, Option<u64>)],
    read_pieces: ReadPieces<'_>,
    classes: &Classes,
) -> Vec<Outlook> {
    /// Longer than any instruction.
    const INSTRUCTION_BYTES: u64 = 15;
    let needs = Needs { registers: 0, return_address: false };
    let mut outlooks = vec![Outlook::Refused(SkipReason::CodeUnreadable); functions.len()];
    for (start, code, symbols) in read_pieces(file) {
        let text = Text::new(start, code, symbols);
        let mut movable = Vec::new();
        for (index, (entry, size_bytes)) in functions.iter().enumerate() {
            let Some(code) = text.code(*entry, INSTRUCTION_BYTES) else { continue };
            let place = Place::unmoved(Form::of(file.arch(), code), classes);
            outlooks[index] = match instruction::judge(file.arch(), code) {
                Verdict::Fine => Outlook::Placed(place),
                Verdict::Doubtful => Outlook::Doubtful(place),
                Verdict::Misread => Outlook::Refused(SkipReason::Misread),
            };
            if let (Outlook::Placed(_), Some(size_bytes)) = (&outlooks[index], *size_bytes) {
                let (entry, first_exit) = (*entry, u64::MAX);
                movable.push((index, Movable { entry, size_bytes, needs, first_exit }));
            }
        }
        if file.arch() != Arch::X86_64 {
            continue;
        }
        let (indices, functions): (Vec<_>, Vec<_>) = movable.into_iter().unzip();
        for (index, place) in indices.into_iter().zip(places(&text, &functions, classes)) {
            if let Some(place) = place {
                outlooks[index] = Outlook::Placed(place);
            }
        }
    }
    for outlook in &mut outlooks {
        if matches!(outlook, Outlook::Placed(place) if place.class == Class::Refused) {
            *outlook = Outlook::Refused(SkipReason::Unsupported);
        }
    }
    outlooks
}
