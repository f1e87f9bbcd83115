//! For tests on the host: the memory of a traced program, and argument programs and conditions that run
//! over it as in the kernel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test cannot do is a failed test")]

use std::{
    cell::{Cell, RefCell},
    vec,
    vec::Vec,
};

use crate::{
    condition::{CHUNK_BYTES, TEXT_BYTES, Test, Text},
    interpret::{
        Bounds, Memory, PAGE_BYTES,
        judge::{CHUNK_WORDS, Chunk, Facts, Judged, Judging, MAX_STEPS},
        read::{
            LAST_FAULTING_ATTEMPT, MAX_ATTEMPTS, MAX_PAGES, NOT_RESIDENT, Progress, Reading,
            Record, TOO_SMALL, WHOLE,
        },
    },
    program::{REGISTERS, ReadOp},
    record::{CLASSES, ReadStatus, SLOT_BYTES, SizeClass},
};

/// Pages.
pub const PAGES: usize = 12;
/// Address of the first one.
pub const FIRST: u64 = 0x7000_0000;

/// How a page behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Resident,
    /// A fault brings it.
    Absent,
    /// A fault brings it, and it is gone before it can be read.
    Fleeting,
    /// There is nothing.
    Unmapped,
}

/// The memory: a few pages in a row, and nothing else.
#[derive(Debug, Clone)]
pub struct Pages {
    states: RefCell<[State; PAGES]>,
    bytes: Vec<u8>,
    /// Whether pages may be faulted in.
    pub may_fault: bool,
    /// Pages that have been.
    pub faults: Cell<u32>,
}

impl Pages {
    /// Pages of these states, which may be faulted in, with these bytes.
    pub fn new(state: impl Fn(usize) -> State, byte: impl Fn(usize) -> u8) -> Self {
        Self {
            states: RefCell::new(std::array::from_fn(state)),
            bytes: (0..PAGES * PAGE_BYTES as usize).map(byte).collect(),
            may_fault: true,
            faults: Cell::new(0),
        }
    }

    /// How the page of `address` behaves.
    pub fn state(&self, address: u64) -> State {
        let page = address.wrapping_sub(FIRST) / PAGE_BYTES;
        self.states.borrow().get(page as usize).copied().unwrap_or(State::Unmapped)
    }

    /// The byte at `address`, resident or not.
    pub fn byte(&self, address: u64) -> u8 {
        self.bytes[(address - FIRST) as usize]
    }

    /// Writes bytes, before the start.
    pub fn fill(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - FIRST) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// What becomes of a page whose fault is over.
    pub fn arrive(&self, address: u64) {
        let page = (address - FIRST) / PAGE_BYTES;
        self.states.borrow_mut()[page as usize] = State::Resident;
    }

    /// As `bpf_probe_read_user`: all, or nothing.
    pub fn copy(&self, place: &mut [u8], address: u64) -> bool {
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
    pub fn copy_str(&self, place: &mut [u8], address: u64, zero_if_empty: bool) -> i64 {
        let size = place.len();
        for (index, byte) in place.iter_mut().enumerate() {
            let at = address.wrapping_add(index as u64);
            if !self.is_resident(at) {
                return -14;
            }
            *byte = self.byte(at);
            if *byte == 0 {
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

/// What follows the header of a record of one size class. Nothing outside the class's bounds may be
/// touched.
struct Data<'a> {
    pages: &'a Pages,
    bytes: Vec<u8>,
    class: &'a SizeClass,
    zero_if_empty: bool,
}

impl Data<'_> {
    fn place(&mut self, offset: u64, size: u32) -> &mut [u8] {
        let (offset, size) = (offset as usize, size as usize);
        assert!(offset <= self.class.max_offset(), "an object at {offset}");
        assert!(size <= self.class.max_object, "an object of {size} bytes");
        assert!(size != 0, "a read of nothing");
        &mut self.bytes[offset..offset + size]
    }
}

impl Record for Data<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        self.pages.word(address)
    }

    fn slot(&self, slot: u64) -> u64 {
        let at = slot as usize * SLOT_BYTES;
        u64::from_le_bytes(self.bytes[at..at + SLOT_BYTES].try_into().unwrap())
    }

    fn set_slot(&mut self, slot: u64, value: u64) {
        let at = slot as usize * SLOT_BYTES;
        self.bytes[at..at + SLOT_BYTES].copy_from_slice(&value.to_le_bytes());
    }

    unsafe fn copy(&mut self, offset: u64, size: u32, address: u64) -> bool {
        let pages = self.pages;
        pages.copy(self.place(offset, size), address)
    }

    unsafe fn copy_str(&mut self, offset: u64, size: u32, address: u64) -> i64 {
        let (pages, zero_if_empty) = (self.pages, self.zero_if_empty);
        pages.copy_str(self.place(offset, size), address, zero_if_empty)
    }
}

/// Runs an argument program as `tracer-ebpf/src/read.rs` does, with `for` in the place of `bpf_loop`;
/// how its reads ended, and what follows the header of the record.
pub fn interpret(
    ops: &[ReadOp],
    registers: [u64; REGISTERS],
    stack_pointer: u64,
    pages: &Pages,
    zero_if_empty: bool,
) -> (Reading, Vec<u8>) {
    let mut reading = Reading {
        registers,
        stack_pointer,
        statuses: 0,
        given_up: 0,
        ops_len: ops.len() as u32,
        class: 0,
        faulted: 0,
        first_blob: (ops.len() * SLOT_BYTES) as u32,
    };
    for index in 0..u64::from(MAX_ATTEMPTS) {
        let class = &CLASSES[reading.class as usize];
        // What an attempt before has left is there no more.
        let mut record = Data { pages, bytes: vec![0xee; class.data_bytes], class, zero_if_empty };
        let end = u64::from(reading.first_blob);
        let mut progress = Progress { end, stop: WHOLE, slot: 0, address: 0, bytes: 0 };
        reading.statuses = 0;
        for op in ops {
            if reading.run(op, &mut record, &mut progress, class) {
                break;
            }
        }
        match progress.stop {
            WHOLE => return (reading, record.bytes),
            TOO_SMALL => reading.class += 1,
            NOT_RESIDENT => {
                let may_fault = index < LAST_FAULTING_ATTEMPT;
                reading.make_resident(&progress, may_fault, pages, |search| {
                    let over = (0..u64::from(MAX_PAGES))
                        .any(|index| search.step(index, |at| pages.is_resident(at)));
                    assert!(over, "a search that does not end");
                });
            }
            stop => panic!("an attempt stopped by {stop}"),
        }
    }
    panic!("{MAX_ATTEMPTS} attempts were not enough");
}

/// A hit that conditions are about.
#[derive(Debug)]
pub struct Hit<'a> {
    /// The memory.
    pub pages: &'a Pages,
    /// Process (upper half) and task (lower half).
    pub pid_tgid: u64,
    /// The task's name.
    pub comm: [u8; 16],
    texts: Vec<[u64; TEXT_BYTES / 8]>,
}

impl<'a> Hit<'a> {
    /// A hit, and the texts that conditions compare with.
    pub fn new(pages: &'a Pages, texts: &[Text], pid_tgid: u64, comm: [u8; 16]) -> Self {
        let words = |text: &Text| {
            let (words, _) = text.bytes.as_chunks::<8>();
            std::array::from_fn(|index| u64::from_le_bytes(words[index]))
        };
        Self { pages, pid_tgid, comm, texts: texts.iter().map(words).collect() }
    }

    /// Judges it as `tracer-ebpf/src/condition.rs` does, with `for` in the place of `bpf_loop`.
    pub fn judge(&self, tests: &[Test], registers: [u64; REGISTERS], stack_pointer: u64) -> Judged {
        let mut judging = Judging { registers, stack_pointer, next: 0, position: 0, saved: 0 };
        let over = (0..u64::from(MAX_STEPS))
            .any(|index| judging.step(index, &tests[judging.next as usize], self));
        assert!(over, "{MAX_STEPS} steps were not enough");
        judging.judged()
    }
}

impl Bounds for Hit<'_> {}

impl Memory for Hit<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        self.pages.word(address)
    }

    fn is_resident(&self, address: u64) -> bool {
        self.pages.is_resident(address)
    }

    fn fault_in(&self, address: u64) -> Result<(), ReadStatus> {
        self.pages.fault_in(address)
    }
}

/// Writes the first bytes of a chunk.
fn with_bytes<T>(chunk: &mut Chunk, size: usize, write: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut bytes: Vec<u8> = chunk.iter().flat_map(|word| word.to_le_bytes()).collect();
    let result = write(&mut bytes[..size]);
    for (word, bytes) in chunk.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    result
}

impl Facts for Hit<'_> {
    fn pid_tgid(&self) -> u64 {
        self.pid_tgid
    }

    fn comm(&self, chunk: &mut Chunk, bytes: u32) {
        assert!(bytes <= 16);
        with_bytes(chunk, bytes as usize, |place| {
            let last = place.len() - 1;
            place[..last].copy_from_slice(&self.comm[..last]);
            place[last] = 0;
        });
    }

    fn copy(&self, chunk: &mut Chunk, bytes: u32, address: u64) -> bool {
        assert!(bytes as usize <= CHUNK_BYTES);
        with_bytes(chunk, bytes as usize, |place| self.pages.copy(place, address))
    }

    fn copy_str(&self, chunk: &mut Chunk, bytes: u32, address: u64) -> bool {
        assert!(bytes as usize <= CHUNK_BYTES + 1);
        with_bytes(chunk, bytes as usize, |place| self.pages.copy_str(place, address, false) >= 0)
    }

    fn text(&self, text: u32, position: u64) -> Option<&[u64; CHUNK_WORDS]> {
        let words = self.texts.get(text as usize)?;
        let first = position as usize / 8;
        words[first..first + CHUNK_WORDS].try_into().ok()
    }
}
