//! Any memory of a traced program, and any pointer.

use proptest::{collection::vec, prelude::*};
use tracer_common::{
    interpret::PAGE_BYTES,
    testbed::{FIRST, PAGES, Pages, State},
};

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        6 => Just(State::Resident),
        6 => Just(State::Absent),
        1 => Just(State::Fleeting),
        2 => Just(State::Unmapped),
    ]
}

/// Any memory. Terminators are rare, so that strings of all lengths occur.
pub(crate) fn pages() -> impl Strategy<Value = Pages> {
    let states = proptest::array::uniform12(state());
    let terminators = vec(0..PAGES as u64 * PAGE_BYTES, 0..40);
    (states, any::<u8>(), terminators, proptest::bool::weighted(0.9)).prop_map(
        |(states, seed, terminators, may_fault)| {
            let byte = |at: usize| (at as u8).wrapping_mul(31).wrapping_add(seed) | 1;
            let mut pages = Pages::new(|page| states[page], byte);
            pages.may_fault = may_fault;
            for at in terminators {
                pages.fill(FIRST + at, &[0]);
            }
            pages
        },
    )
}

/// Any pointer: mostly into the memory, often to the end of a page, and sometimes anywhere.
pub(crate) fn pointer() -> impl Strategy<Value = u64> {
    let end = FIRST + PAGES as u64 * PAGE_BYTES;
    let near_an_end =
        (1..=PAGES as u64, 0..140u64).prop_map(|(page, before)| FIRST + page * PAGE_BYTES - before);
    prop_oneof![8 => FIRST..end, 8 => near_an_end, 1 => any::<u64>(), 1 => Just(0)]
}
