//! Threads that come and go, and use a shared arena to their very end.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nebula_arena::{ArenaConfig, Keep, ThreadSafeArena};
use nebula_memory_core::ByteSize;
use nebula_testing::{CountingAllocator, Rng, watchdog};

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap()
}

/// Allocates once more when its thread ends, and says where and what.
struct Last(RefCell<Option<(Arc<ThreadSafeArena<CountingAllocator>>, Said)>>);

type Said = Arc<Mutex<Vec<(usize, u64)>>>;

impl Drop for Last {
    fn drop(&mut self) {
        let Some((arena, said)) = self.0.take() else { return };
        for i in 0..20 {
            let place = std::ptr::from_ref(arena.alloc(i * 3));
            said.lock().unwrap().push((place.expose_provenance(), i * 3));
        }
        let mut list = arena.vec();
        list.extend(0..100_u64);
        let place = &list[99];
        said.lock().unwrap().push((std::ptr::from_ref(place).expose_provenance(), 99));
    }
}

thread_local! {
    static BEFORE: Last = const { Last(RefCell::new(None)) };
    static AFTER: Last = const { Last(RefCell::new(None)) };
}

#[test]
fn a_hundred_threads_come_and_go_and_allocate_to_their_end() {
    watchdog(Duration::from_secs(100), || {
        let base = CountingAllocator::new();
        let arena = Arc::new(ThreadSafeArena::with_config_in(small(), base.clone()).unwrap());
        let said: Said = Arc::default();
        let mut threads = vec![];
        for id in 0..100_u64 {
            let (arena, said) = (Arc::clone(&arena), Arc::clone(&said));
            threads.push(thread::spawn(move || {
                // Destructors run in the reverse order, or in this one: one of them comes after
                // the thread has lost its piece.
                BEFORE.with(|last| *last.0.borrow_mut() = Some((Arc::clone(&arena), said.clone())));
                arena.alloc(id);
                AFTER.with(|last| *last.0.borrow_mut() = Some((Arc::clone(&arena), said.clone())));
                let mut rng = Rng::new(id);
                let mut slices = vec![];
                for _ in 0..100 {
                    let len = rng.below(100);
                    slices.push(arena.alloc_slice_fill(len, id));
                    if rng.below(10) == 0 {
                        let handle = arena.handle();
                        slices.push(handle.alloc_slice_fill(len, id));
                    }
                    if rng.below(20) == 0 {
                        thread::yield_now();
                    }
                }
                assert!(slices.iter().all(|slice| slice.iter().all(|&n| n == id)));
                slices.iter().map(|slice| slice.len()).sum::<usize>()
            }));
            if id % 3 == 0 {
                // Some are gone before others come.
                thread::yield_now();
            }
        }
        let words: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        let said = std::mem::take(&mut *said.lock().unwrap());
        assert_eq!(said.len(), 100 * 2 * 21);
        for (place, value) in said {
            let place: *const u64 = std::ptr::with_exposed_provenance(place);
            // SAFETY: the arena is there, and was not reset.
            assert_eq!(unsafe { *place }, value);
        }
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        let mut arena = Arc::try_unwrap(arena).unwrap();
        let usage = arena.usage();
        assert!(usage.used >= words * 8 + 100 * 8 + 200 * (20 + 100) * 8);
        assert_eq!(usage.allocated, base.live_bytes());
        arena.reset_keeping(Keep::All);
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        // The last thread to hold it frees it, whichever that is.
        thread::spawn(move || drop(arena)).join().unwrap();
        base.assert_clean();
    });
}
