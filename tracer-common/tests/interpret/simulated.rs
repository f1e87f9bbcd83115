//! The memory of a traced program: a few pages in a row, and nothing else.

use std::cell::{Cell, RefCell};

use proptest::{collection::vec, prelude::*};
use tracer_common::{
    interpret::{Bounds, Memory, PAGE_BYTES},
    record::ReadStatus,
};

/// Pages.
pub(crate) const PAGES: usize = 12;
/// Address of the first one.
pub(crate) const FIRST: u64 = 0x7000_0000;

/// How a page behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is there.
    Resident,
    /// A fault brings it.
    Absent,
    /// A fault brings it, and it is gone before it can be read.
    Fleeting,
    /// There is nothing.
    Unmapped,
}

/// The memory.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    states: RefCell<[State; PAGES]>,
    bytes: Vec<u8>,
    /// Whether pages may be faulted in.
    may_fault: bool,
    /// Pages that have been.
    pub(crate) faults: Cell<u32>,
}

impl Pages {
    /// What lies at `address`, resident or not.
    pub(crate) fn state(&self, address: u64) -> State {
        let page = address.wrapping_sub(FIRST) / PAGE_BYTES;
        self.states.borrow().get(page as usize).copied().unwrap_or(State::Unmapped)
    }

    /// The byte at `address`, of whatever state.
    pub(crate) fn byte(&self, address: u64) -> u8 {
        self.bytes[(address - FIRST) as usize]
    }

    /// Writes bytes, before the start.
    pub(crate) fn fill(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - FIRST) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Whether pages may be faulted in.
    pub(crate) fn may_fault(&self) -> bool {
        self.may_fault
    }

    /// What becomes of a page whose fault is over.
    pub(crate) fn arrive(&self, address: u64) {
        let page = (address - FIRST) / PAGE_BYTES;
        self.states.borrow_mut()[page as usize] = State::Resident;
    }

    /// As `bpf_probe_read_user`: all, or nothing.
    pub(crate) fn copy(&self, place: &mut [u8], address: u64) -> bool {
        let at = |index: usize| address.wrapping_add(index as u64);
        if (0..place.len()).any(|index| !self.is_resident(at(index))) {
            return false;
        }
        for (index, byte) in place.iter_mut().enumerate() {
            *byte = self.byte(at(index));
        }
        true
    }

    /// As `bpf_probe_read_user_str`: up to the terminator, which is always written. `zero_if_empty`: as
    /// kernels as of 6.12 do.
    pub(crate) fn copy_str(&self, place: &mut [u8], address: u64, zero_if_empty: bool) -> i64 {
        let size = place.len();
        for index in 0..size {
            let at = address.wrapping_add(index as u64);
            if !self.is_resident(at) {
                return -14;
            }
            place[index] = self.byte(at);
            if place[index] == 0 {
                return if index == 0 && zero_if_empty { 0 } else { index as i64 + 1 };
            }
        }
        place[size - 1] = 0;
        size as i64
    }
}

impl Bounds for Pages {}

impl Memory for Pages {
    fn word(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.copy(&mut word, address).then(|| u64::from_le_bytes(word))
    }

    fn is_resident(&self, address: u64) -> bool {
        self.state(address) == State::Resident
    }

    fn fault_in(&self, address: u64) -> Result<(), ReadStatus> {
        match self.state(address) {
            State::Unmapped => Err(ReadStatus::Efault),
            _ if !self.may_fault => Err(ReadStatus::Eagain),
            State::Fleeting => Ok(()),
            State::Resident => panic!("a fault at {address:#x}, which is resident"),
            State::Absent => {
                self.faults.set(self.faults.get() + 1);
                self.arrive(address);
                Ok(())
            }
        }
    }
}

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
    let terminators = vec(0..PAGES * PAGE_BYTES as usize, 0..40);
    (states, any::<u8>(), terminators, proptest::bool::weighted(0.9)).prop_map(
        |(states, seed, terminators, may_fault)| {
            let byte = |at: usize| (at as u8).wrapping_mul(31).wrapping_add(seed) | 1;
            let mut bytes: Vec<u8> = (0..PAGES * PAGE_BYTES as usize).map(byte).collect();
            for at in terminators {
                bytes[at] = 0;
            }
            Pages { states: RefCell::new(states), bytes, may_fault, faults: Cell::new(0) }
        },
    )
}

impl Pages {
    /// Pages of these states, which may be faulted in.
    pub(crate) fn of(state: impl Fn(usize) -> State) -> Self {
        let bytes = vec![b'.'; PAGES * PAGE_BYTES as usize];
        let states = RefCell::new(std::array::from_fn(state));
        Self { states, bytes, may_fault: true, faults: Cell::new(0) }
    }
}

/// Any pointer: mostly into the memory, often to the end of a page, and sometimes anywhere.
pub(crate) fn pointer() -> impl Strategy<Value = u64> {
    let end = FIRST + PAGES as u64 * PAGE_BYTES;
    let near_an_end =
        (1..=PAGES as u64, 0..140u64).prop_map(|(page, before)| FIRST + page * PAGE_BYTES - before);
    prop_oneof![8 => FIRST..end, 8 => near_an_end, 1 => any::<u64>(), 1 => Just(0)]
}
