use super::*;
use faultline_engine::collect::catalog::{BUCKETS, Kind};

fn catalog(probes: &[&str]) -> Catalog {
    let series = |probe: &&str| Series {
        name: "n".into(),
        probe: (*probe).into(),
        kind: Kind::Count,
        withholds: false,
        parts: Vec::new(),
        retired: None,
    };
    Catalog { series: probes.iter().map(series).collect(), ..Catalog::default() }
}

fn reading(hits: &[u64]) -> Reading {
    let figures = |hits: &u64| Figures {
        delivered: *hits,
        counters: faultline_engine::kernel::CounterSnapshot::of_hits(*hits),
        ..Figures::default()
    };
    Reading { series: hits.iter().map(figures).collect(), ..Reading::default() }
}

fn shown(shown: &Shown) -> (Vec<(usize, u64)>, u64) {
    let mut own: Vec<_> =
        shown.own.iter().map(|(index, figures)| (*index, figures.hits())).collect();
    own.sort_unstable();
    (own, shown.sum.as_ref().map_or(0, Figures::hits))
}

/// Check that all probes have their series as long as they fit.
#[test]
fn all_fit() {
    let mut budget = Budget::new(2);
    let decided = budget.decide(&catalog(&["a", "b"]), reading(&[5, 6]));
    assert_eq!(shown(&decided), (vec![(0, 5), (1, 6)], 0));
    assert!(decided.sum.is_none());
}

/// Check that the busiest keep theirs, and that the sum has what is left.
#[test]
fn the_rest_is_summed_up() {
    let mut budget = Budget::new(2);
    let decided = budget.decide(&catalog(&["a", "b", "c", "d"]), reading(&[5, 600, 1, 100]));
    assert_eq!(shown(&decided), (vec![(1, 600), (3, 100)], 6));
    assert_eq!((decided.folded, decided.series), (2, 2));
}

/// Check that no series falls and nothing is counted twice when probes change places, when one is
/// removed, and when all fit again.
#[test]
fn places_change_without_a_fall() {
    let mut budget = Budget::new(1);
    let both = catalog(&["a", "b"]);
    assert_eq!(shown(&budget.decide(&both, reading(&[100, 10]))), (vec![(0, 100)], 10));
    // Somewhat busier is not enough.
    assert_eq!(shown(&budget.decide(&both, reading(&[100, 150]))), (vec![(0, 100)], 150));
    // `b` takes over: what it counted in the sum stays there.
    assert_eq!(shown(&budget.decide(&both, reading(&[100, 400]))), (vec![(1, 250)], 150));
    assert_eq!(shown(&budget.decide(&both, reading(&[107, 410]))), (vec![(1, 260)], 157));
    // And back: `a` shows all but what it counted in the sum.
    assert_eq!(shown(&budget.decide(&both, reading(&[1007, 410]))), (vec![(0, 1000)], 157));
    // `b` is gone; what it left in the sum stays.
    let one = catalog(&["a"]);
    assert_eq!(shown(&budget.decide(&one, reading(&[1008]))), (vec![(0, 1001)], 157));
}

/// Check that a probe is taken to have the series that a scrape shows of it.
#[test]
fn series_of_a_probe() {
    let of = |kind, withholds| {
        let mut catalog = catalog(&["a"]);
        catalog.series[0].kind = kind;
        catalog.series[0].withholds = withholds;
        series_of(&catalog.series[0])
    };
    assert_eq!(of(Kind::Count, false), 1);
    assert_eq!(of(Kind::Count, true), 4);
    assert_eq!(of(Kind::Latency, false), 3 + BUCKETS + 2);
    assert_eq!(of(Kind::Events { reads: false }, false), 5);
    assert_eq!(of(Kind::Events { reads: true }, true), 12);
}
