//! The exchange of links: a hit that meets two links counts once for each of its probes.

use proptest::{collection::vec, prelude::*, sample::subsequence};
use tracer_common::exchange::{MAX_MARKS, Marks};

/// Places that one task hits.
const PLACES: usize = 3;

/// A place while links are exchanged: first only the older link is there, then both, then only the
/// newer one.
#[derive(Debug, Clone)]
struct Place {
    /// The older link's probes, in the order in which their programs run.
    old: Vec<u32>,
    /// Those of the newer link, which run before them.
    new: Vec<u32>,
    /// From which hit on the newer link is there.
    new_from: usize,
    /// Until which hit the older link is there.
    old_until: usize,
}

/// One exchange: the places, and which of them are hit.
#[derive(Debug, Clone)]
struct Exchange {
    places: Vec<Place>,
    hits: Vec<usize>,
}

fn place() -> impl Strategy<Value = Place> {
    let all: Vec<u32> = (0..MAX_MARKS as u32).collect();
    let probes = subsequence(all, 0..=MAX_MARKS).prop_shuffle();
    (probes.clone(), probes, 0..20usize, 0..20usize).prop_map(|(old, new, one, other)| Place {
        old,
        new,
        new_from: one.min(other),
        old_until: one.max(other),
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let places = vec(place(), PLACES);
    (places, vec(0..PLACES, 0..20)).prop_map(|(places, hits)| Exchange { places, hits })
}

proptest! {
    /// Check that in each of several exchanges an older link leaves just those probes alone that the
    /// newer one counts for the same hit, whatever was hit before.
    #[test]
    fn a_hit_counts_once(exchanges in vec(exchange(), 1..4)) {
        let mut marks = Marks::default();
        for (exchange, Exchange { places, hits }) in exchanges.into_iter().enumerate() {
            let exchange = exchange as u32 + 1;
            for (time, place) in hits.into_iter().enumerate() {
                let (address, place) = (0x1000 + place as u64, &places[place]);
                let has_new = time >= place.new_from;
                for probe in place.new.iter().filter(|_| has_new) {
                    marks.add(exchange, address, *probe);
                }
                for probe in place.old.iter().filter(|_| time < place.old_until) {
                    let counted = has_new && place.new.contains(probe);
                    prop_assert_eq!(marks.take(exchange, address, *probe), counted);
                }
                prop_assert!(marks.count as usize <= MAX_MARKS);
            }
        }
    }
}
