//! What all threads keep for their scopes, given back on request. In a file of its own, because a
//! request is to all threads of the process.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use nebula_arena::LocalArena;
use nebula_memory_core::{PressureLevel, ReclaimRegistry};
use nebula_testing::watchdog;

const FIRST: usize = 32 << 10;

fn work() {
    LocalArena::scope(|scratch| *scratch.alloc(1));
}

/// The one test of this file.
#[test]
fn every_thread_gives_back_what_it_keeps_at_the_end_of_its_next_scope() {
    watchdog(Duration::from_secs(60), || {
        let registry = ReclaimRegistry::new();
        let reclaimer = LocalArena::reclaimer();
        assert!(Arc::ptr_eq(&reclaimer, &LocalArena::reclaimer()));
        let _registration = registry.register("scratch", 0, Arc::downgrade(&reclaimer));
        assert_eq!(reclaimer.reclaimable(), 0);
        work();
        assert_eq!(reclaimer.reclaimable(), FIRST);
        let step = Barrier::new(4);
        thread::scope(|s| {
            let others = [(); 3].map(|()| {
                s.spawn(|| {
                    work();
                    step.wait(); // 1: all keep something
                    step.wait(); // 2: asked
                    assert_eq!(LocalArena::kept(), FIRST);
                    step.wait(); // 3: nobody but the asker gave anything
                    LocalArena::scope(|_| ()); // answers, though it took nothing
                    assert_eq!(LocalArena::kept(), 0);
                    step.wait(); // 4: all gave
                    work();
                    assert_eq!(LocalArena::kept(), FIRST, "a request is answered once");
                    step.wait(); // 5: the threads end
                })
            });
            step.wait();
            assert_eq!(registry.reclaimable(), 4 * FIRST);
            // The asking thread's are given at once, and that is what is reported.
            let report = registry.reclaim(1, PressureLevel::High);
            assert_eq!((report.given, LocalArena::kept()), (FIRST, 0));
            step.wait();
            assert_eq!(registry.reclaimable(), 3 * FIRST);
            step.wait();
            step.wait();
            step.wait();
            // The end of a scope does not wait for the destructors of thread-locals; joining does.
            for other in others {
                other.join().unwrap();
            }
        });
        // What threads kept goes with them.
        assert_eq!(reclaimer.reclaimable(), 0);
        work();
        assert_eq!(LocalArena::kept(), FIRST, "its own request is answered already");
        // A request inside a scope does not touch what the scope has.
        LocalArena::scope(|scratch| {
            let numbers = scratch.alloc_slice_fill(5000, 3_u64);
            LocalArena::scope(|inner| *inner.alloc(1));
            assert_eq!(registry.reclaim(1, PressureLevel::High).given, FIRST);
            assert!(numbers.iter().all(|&number| number == 3));
        });
        assert!(LocalArena::kept() > 0);
    });
}
