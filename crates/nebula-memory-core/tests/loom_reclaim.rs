//! The registry of reclaimers under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-memory-core --test loom_reclaim`
#![cfg(nebula_loom)]

use std::sync::{Arc, Weak};

use loom::{cell::UnsafeCell, model::Builder, thread};
use nebula_memory_core::{PressureLevel, Reclaim, ReclaimRegistry};

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Counts its calls without any synchronisation of its own: the registry must provide it.
struct Counter(UnsafeCell<usize>);

// SAFETY: `reclaim` is the only access while the counter is registered, and what is tested is that
// the registry never runs it twice at once; loom reports it if it does.
unsafe impl Sync for Counter {}

impl Reclaim for Counter {
    fn reclaimable(&self) -> usize {
        1
    }
    fn reclaim(&self, _wanted: usize, _urgency: PressureLevel) -> usize {
        self.0.with_mut(|count| {
            // SAFETY: see above.
            unsafe { *count += 1 }
        });
        1
    }
}

fn counter() -> (Arc<Counter>, Weak<dyn Reclaim>) {
    let counter = Arc::new(Counter(UnsafeCell::new(0)));
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&counter) as _;
    (counter, weak)
}

#[test]
fn a_reclaimer_never_runs_twice_at_once() {
    model(4, || {
        let registry = ReclaimRegistry::new();
        let (counter, weak) = counter();
        registry.register("counter", 0, weak).detach();
        let askers = [(); 2].map(|()| {
            let registry = registry.clone();
            thread::spawn(move || registry.reclaim(1, PressureLevel::High))
        });
        let reports = askers.map(|asker| asker.join().unwrap());
        let asked = reports.iter().map(|report| report.asked).sum::<usize>();
        assert_eq!(asked + reports.iter().map(|report| report.skipped).sum::<usize>(), 2);
        // SAFETY: the askers are done.
        assert_eq!(counter.0.with(|count| unsafe { *count }), asked);
    });
}

#[test]
fn registering_against_unregistering_loses_nobody() {
    model(4, || {
        let registry = ReclaimRegistry::new();
        let (_first, weak_first) = counter();
        let (_second, weak_second) = counter();
        let registration = registry.register("first", 0, weak_first);
        let leave = thread::spawn(move || drop(registration));
        let join = {
            let registry = registry.clone();
            thread::spawn(move || registry.register("second", 0, weak_second).detach())
        };
        assert!(registry.reclaim(9, PressureLevel::High).asked <= 2);
        leave.join().unwrap();
        join.join().unwrap();
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.reclaim(9, PressureLevel::High).asked, 1);
    });
}
