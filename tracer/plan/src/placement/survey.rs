//! What a plain probe on each function of a file would meet, for those who only want to know.

use std::collections::{BTreeSet, HashMap};

use super::{Movable, Needs, Place, ReadPieces, Text, is_fixed, places};
use crate::{
    Class, Classes, Form,
    build::changed_code,
    instruction::{self, LONGEST, Verdict},
    labels,
};
use faultline_resolve::{Arch, FileOffset, ObjectFile, SkipReason};

/// A function to look at.
#[derive(Debug, Clone, Copy)]
pub struct Surveyed {
    /// Where it begins in the file.
    pub entry: FileOffset,
    /// Its size, if its symbol says.
    pub size_bytes: Option<u64>,
    /// Only the name of a label says that there is code.
    pub is_label: bool,
}

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

/// Looks at functions as far as a probe is concerned that reads no arguments and no return.
pub fn survey(
    file: &ObjectFile,
    functions: &[Surveyed],
    read_pieces: ReadPieces<'_>,
    classes: &Classes,
) -> Vec<Outlook> {
    let needs = Needs::NONE;
    let mut outlooks = vec![Outlook::Refused(SkipReason::CodeUnreadable); functions.len()];
    let labels: BTreeSet<_> =
        functions.iter().filter(|of| of.is_label).map(|of| of.entry.0).collect();
    let reached = match labels.is_empty() {
        true => HashMap::new(),
        false => labels::reached(file, &labels, read_pieces),
    };
    for (start, code, symbols) in read_pieces(file) {
        let text = Text::new(start, code, symbols);
        let mut movable = Vec::new();
        for (index, function) in functions.iter().enumerate() {
            let Surveyed { entry, size_bytes, is_label } = function;
            let Some(code) = text.code(entry.0, LONGEST as u64) else { continue };
            let unknown = is_label.then(|| labels::refusal(reached.get(&entry.0).copied(), false));
            let refused = unknown.flatten().or_else(|| changed_code(file, *entry, code, false));
            if let Some(reason) = refused {
                outlooks[index] = Outlook::Refused(reason);
                continue;
            }
            let place = Place::unmoved(Form::of(file.arch(), code), classes);
            outlooks[index] = match instruction::judge(file.arch(), code) {
                Verdict::Fine => Outlook::Placed(place),
                Verdict::Doubtful => Outlook::Doubtful(place),
                Verdict::Misread => Outlook::Refused(SkipReason::Misread),
            };
            if let (Outlook::Placed(_), Some(size_bytes)) = (&outlooks[index], *size_bytes) {
                let (entry, first_exit) = (entry.0, u64::MAX);
                movable.push((index, Movable { entry, size_bytes, needs, first_exit }));
            }
        }
        if file.arch() != Arch::X86_64 {
            continue;
        }
        let (indices, functions): (Vec<_>, Vec<_>) = movable.into_iter().unzip();
        let places = places(file, &text, &functions, classes).into_iter().zip(&functions);
        for (index, (place, function)) in indices.into_iter().zip(places) {
            if let Some(place) = place.filter(|place| is_fixed(file, function, place)) {
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
