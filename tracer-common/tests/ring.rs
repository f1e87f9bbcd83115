//! The ring under every interleaving of two programs and a reader, as far as their memory orders allow.

#![allow(clippy::unwrap_used, reason = "what goes wrong here fails the test")]

use std::cell::RefCell;

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use tracer_common::ring::{Commit, SEGMENT_SLOTS, Shared, claim, give_back, trim};

/// Slots of the ring.
const CAPACITY: u64 = 4;
/// The head at the start: a claim of two slots does not fit into what is left of the segment.
const START: u64 = SEGMENT_SLOTS - 1;

struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    commits: [AtomicU64; CAPACITY as usize],
    /// What a record has in each of its slots. Neither side orders anything by it.
    records: [AtomicU64; CAPACITY as usize],
}

impl Ring {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(START),
            tail: AtomicU64::new(START),
            commits: std::array::from_fn(|_| AtomicU64::new(0)),
            records: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    fn slot(array: &[AtomicU64], position: u64) -> &AtomicU64 {
        &array[(position % CAPACITY) as usize]
    }

    /// Writes a record that claims some slots and uses some; whether there was room.
    fn emit(&self, value: u64, claimed: u64, used: u64) -> bool {
        let Some(position) = claim(self, claimed, CAPACITY) else { return false };
        for slot in position..position + claimed {
            Self::slot(&self.records, slot).store(value, Ordering::Relaxed);
        }
        if used == 0 {
            give_back(self, position, claimed);
        } else {
            let slots = trim(self, position, claimed, used);
            self.commit(position, Commit { slots, is_gap: false }.word(position));
        }
        true
    }

    /// Takes the records that are ready.
    fn read(&self, position: &mut u64, taken: &mut Vec<u64>) {
        while let Some(commit) =
            Commit::at(*position, Self::slot(&self.commits, *position).load(Ordering::Acquire))
        {
            if !commit.is_gap {
                let value = Self::slot(&self.records, *position).load(Ordering::Relaxed);
                taken.push(value);
            }
            *position += commit.slots;
            self.tail.store(*position, Ordering::Release);
        }
    }
}

impl Shared for Ring {
    fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    fn tail(&self) -> u64 {
        // In the programs, the compare-and-swap that follows is a full barrier.
        self.tail.load(Ordering::Acquire)
    }

    fn move_head(&self, old: u64, new: u64) -> bool {
        self.head.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn commit(&self, position: u64, word: u64) {
        Self::slot(&self.commits, position).store(word, Ordering::Release);
    }
}

/// Checks that for two programs that write these records, as (claimed, used), each is read once and whole,
/// those of one program in their order, or has found no room.
fn check(programs: [&'static [(u64, u64)]; 2]) {
    EXPLORED.set(0);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let ring = Ring::new();
        let writers: Vec<_> = (0..2)
            .map(|program| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let records = programs[program].iter().zip(1..);
                    let written = records.filter_map(|(&(claimed, used), number)| {
                        let value = program as u64 * 100 + number;
                        (ring.emit(value, claimed, used) && used > 0).then_some(value)
                    });
                    written.collect::<Vec<_>>()
                })
            })
            .collect();
        let (mut position, mut taken) = (START, Vec::new());
        ring.read(&mut position, &mut taken);
        let written: Vec<Vec<u64>> =
            writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        ring.read(&mut position, &mut taken);
        assert_eq!(position, ring.head(), "everything claimed was committed");
        for (program, written) in written.iter().enumerate() {
            let own = |value: &&u64| **value / 100 == program as u64;
            assert!(taken.iter().filter(own).eq(written), "{taken:?} {written:?}");
        }
        assert_eq!(taken.len(), written.iter().map(Vec::len).sum::<usize>());
        EXPLORED.with_borrow_mut(|explored| *explored += 1);
    });
    EXPLORED.with_borrow(|explored| assert!(*explored > 100, "{explored} interleavings"));
}

thread_local! {
    static EXPLORED: RefCell<u64> = const { RefCell::new(0) };
}

/// Check records of one slot, which are most.
#[test]
fn registers() {
    check([&[(1, 1), (1, 1)], &[(1, 1)]]);
}

/// Check that what is claimed and not used is given back, or stays unused if another claim has followed.
#[test]
fn trimmed() {
    check([&[(2, 1), (1, 1)], &[(2, 2)]]);
}

/// Check that a claim that is given back leaves a hole at most.
#[test]
fn given_back() {
    check([&[(2, 0), (2, 1)], &[(1, 1)]]);
    check([&[(2, 0)], &[(2, 0), (1, 1)]]);
}
