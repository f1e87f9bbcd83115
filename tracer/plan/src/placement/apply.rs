//! Moves the breakpoints of a plan.

use tracer_common::program::FLAG_GOROUTINES;

use super::{Movable, Needs, Pass, Text, behind_checks, is_fixed, places};
use crate::{AttachPlan, Classes, PlannedProbe, ProbeId};
use faultline_resolve::{Arch, FileOffset, ObjectFile};

/// Reads a file's code with its symbols, in as many pieces as it has: where a piece begins in the
/// file, its bytes, and where its symbols are.
pub type ReadPieces<'a> = &'a dyn Fn(&ObjectFile) -> Vec<(u64, Vec<u8>, Vec<u64>)>;

/// Moves each breakpoint along its function's first instructions to the cheapest place that changes
/// nothing that the user sees.
///
/// `read_pieces` gives a file's code, `classes` says what is cheap.
pub fn place(plan: &mut AttachPlan, read_pieces: ReadPieces<'_>, classes: &Classes, pass: Pass) {
    for file in &plan.files {
        let stays = pass == Pass::Nothing && file.file.go().is_none();
        if file.file.arch() != Arch::X86_64 || stays {
            continue;
        }
        let movable = |id: &ProbeId| {
            let probe = &plan.probes[id.0 as usize];
            let size_bytes = probe.function_bytes.filter(|_| !probe.doubtful)?;
            let (entry, needs) = (probe.offset.0, needs(probe, pass));
            let exits = probe.exits().iter().map(|exit| exit.offset.0);
            let first_exit = exits.filter(|exit| *exit > entry).min().unwrap_or(u64::MAX);
            Some((id.0 as usize, Movable { entry, size_bytes, needs, first_exit }))
        };
        let (ids, functions): (Vec<_>, Vec<_>) = file.probes.iter().filter_map(movable).unzip();
        if functions.is_empty() {
            continue;
        }
        for (start, code, symbols) in read_pieces(&file.file) {
            let text = Text::new(start, code, symbols);
            let places = match pass {
                Pass::Nothing => behind_checks(&file.file, &text, &functions, classes),
                Pass::Safe | Pass::Reads => places(&file.file, &text, &functions, classes),
            };
            let places = places.into_iter().zip(&functions);
            for (id, (place, function)) in ids.iter().zip(places) {
                let place = place.filter(|place| is_fixed(&file.file, function, place));
                let Some(place) = place else { continue };
                let probe = &mut plan.probes[*id];
                probe.offset = FileOffset(probe.offset.0 + place.moved_bytes);
                probe.program.stack_bias = place.stack_bias;
                probe.place = place;
            }
        }
    }
}

/// What a probe reads when it is hit.
fn needs(probe: &PlannedProbe, pass: Pass) -> Needs {
    let program = &probe.program;
    let ops = &program.entry[..usize::from(program.entry_len).min(program.entry.len())];
    let registers = ops.iter().filter(|op| op.register < 8);
    // A condition may read any of them.
    let all = if program.judges() { u8::MAX } else { 0 };
    Needs {
        registers: registers.fold(all, |bits, op| bits | 1 << op.register),
        return_address: probe.replaces_return(),
        goroutine: program.flags & FLAG_GOROUTINES != 0,
        reads_fail: pass != Pass::Reads,
        // A condition may follow any pointer.
        memory: program.judges() || program.entry_len != 0 && program.reads_memory(),
    }
}
