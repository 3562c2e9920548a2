//! Computing once, failing and waking, under every order of events that a few threads can have.
//!
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-cache --test loom_flight`
#![cfg(nebula_loom)]

use loom::thread;
use nebula_cache::flight::{Flights, Joined};
use nebula_memory_core::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

/// Flights around a cache of one entry.
struct Cell {
    flights: Flights<u8, u64>,
    cached: Mutex<Option<u64>>,
    computed: AtomicUsize,
}

impl Cell {
    fn new() -> Arc<Self> {
        let computed = AtomicUsize::new(0);
        Arc::new(Self { flights: Flights::new(1), cached: Mutex::new(None), computed })
    }

    /// As the cache does it; `compute` fails with `None`. The values found by others are counted
    /// as they are.
    fn get(&self, compute: impl Fn(usize) -> Option<u64>) -> Option<u64> {
        if let Some(value) = *self.cached.lock() {
            return Some(value);
        }
        loop {
            match self.flights.join(1, &7, || {}) {
                Joined::Lead(lead) => {
                    let found = *self.cached.lock();
                    if let Some(value) = found {
                        lead.land(|| value);
                        return Some(value);
                    }
                    let value = compute(self.computed.fetch_add(1, SeqCst))?;
                    assert_eq!(lead.take_key(), Some(7));
                    assert_eq!(lead.take_key(), None);
                    *self.cached.lock() = Some(value);
                    lead.land(|| value);
                    return Some(value);
                }
                Joined::Landed(value) => return Some(*value),
                Joined::Failed(_) | Joined::Again => {
                    if let Some(value) = *self.cached.lock() {
                        return Some(value);
                    }
                }
                Joined::Circle => panic!("there is no circle"),
            }
        }
    }
}

#[test]
fn computes_once() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let cell = Cell::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || assert_eq!(cell.get(|_| Some(5)), Some(5)))
            })
            .collect();
        assert_eq!(cell.get(|_| Some(5)), Some(5));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(cell.computed.load(SeqCst), 1);
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn a_failure_wakes_who_waits_and_is_tried_again() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let cell = Cell::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.get(|n| (n > 0).then_some(5)))
            })
            .collect();
        let mut found = vec![cell.get(|n| (n > 0).then_some(5))];
        found.extend(others.into_iter().map(|other| other.join().unwrap()));
        // The first computation fails, for its own caller alone.
        assert_eq!(found.iter().filter(|found| found.is_none()).count(), 1);
        assert!(found.iter().flatten().all(|&value| value == 5));
        assert_eq!(cell.computed.load(SeqCst), 2);
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn two_that_compute_each_other_do_not_wait_for_ever() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let flights = Arc::new(Flights::<u8, u64>::new(1));
        // Computes `key`, which needs `other`; whether it was told of a circle.
        fn compute(flights: &Flights<u8, u64>, key: u8, other: u8) -> bool {
            loop {
                match flights.join(u64::from(key), &key, || {}) {
                    Joined::Lead(lead) => {
                        let mut circle = false;
                        match flights.join(u64::from(other), &other, || {}) {
                            Joined::Lead(inner) => inner.land(|| 1),
                            Joined::Landed(_) | Joined::Failed(_) | Joined::Again => {}
                            Joined::Circle => circle = true,
                        }
                        lead.land(|| 2);
                        return circle;
                    }
                    Joined::Landed(_) => return false,
                    Joined::Failed(_) | Joined::Again => {}
                    Joined::Circle => panic!("who leads nothing closes no circle"),
                }
            }
        }
        let theirs = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || compute(&flights, 2, 1))
        };
        let ours = compute(&flights, 1, 2);
        let theirs = theirs.join().unwrap();
        assert!(!(ours && theirs), "one error is enough to break a circle");
        assert!(flights.is_idle());
    });
}
