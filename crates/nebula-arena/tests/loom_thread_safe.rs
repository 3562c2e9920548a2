//! The races of arenas for many threads, under the model checker: who makes a table's bucket, who
//! gets a thread's number next, who takes the last of a capacity, who borrows a piece.
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-arena --test loom_thread_safe`
#![cfg(nebula_loom)]

use std::sync::Arc;

use loom::{model::Builder, thread};
use nebula_arena::{ArenaConfig, Keep, ThreadSafeArena, ThreadSafeTypedArena};
use nebula_memory_core::{ByteSize, Global, PressureLevel, Reclaim};
use nebula_testing::CountingAllocator;

/// Explores all interleavings with that many preemptions at most.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap()
}

/// Runs `body` on a thread of its own. (The checker's main thread ends after its statics, among
/// which the threads' numbers are.)
fn on_thread<R: 'static>(body: impl FnOnce() -> R + 'static) -> thread::JoinHandle<R> {
    thread::spawn(body)
}

#[test]
fn two_threads_that_come_first_at_once_share_one_table() {
    model(3, || {
        let base = CountingAllocator::new();
        let arena = Arc::new(ThreadSafeArena::with_config_in(small(), base.clone()).unwrap());
        let threads: Vec<_> = (0..2_u64)
            .map(|i| {
                let arena = Arc::clone(&arena);
                on_thread(move || {
                    let (one, two) = (arena.alloc(i), arena.alloc(i + 10));
                    assert_eq!((*one, *two), (i, i + 10));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut arena = Arc::try_unwrap(arena).unwrap();
        assert_eq!(arena.usage().used, 32);
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        drop(arena);
        base.assert_clean();
    });
}

#[test]
fn a_thread_that_ends_hands_its_piece_to_the_next() {
    // The checker sees every use of a piece as a write: if the number's next holder did not come
    // after the last one, it would report a race.
    model(3, || {
        let arena = Arc::new(ThreadSafeArena::with_config(small()).unwrap());
        let first = {
            let arena = Arc::clone(&arena);
            on_thread(move || *arena.alloc(1_u64))
        };
        let second = {
            let arena = Arc::clone(&arena);
            on_thread(move || *arena.alloc(2_u64) + *arena.alloc(3_u64))
        };
        // The second may begin before the first has ended, or after: with its piece then. Neither
        // is joined before both ran.
        assert_eq!((second.join().unwrap(), first.join().unwrap()), (5, 1));
        let mut arena = Arc::try_unwrap(arena).unwrap();
        let usage = arena.usage();
        assert_eq!(usage.used, 24);
        assert!(usage.chunks == 1 || usage.chunks == 2);
    });
}

#[test]
fn three_threads_never_share_a_piece() {
    model(2, || {
        let arena = Arc::new(ThreadSafeArena::with_config(small()).unwrap());
        let threads: Vec<_> = (0..3_u64)
            .map(|i| {
                let arena = Arc::clone(&arena);
                on_thread(move || assert_eq!(*arena.alloc(i), i))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(Arc::try_unwrap(arena).unwrap().usage().used, 24);
    });
}

#[test]
fn a_capacity_is_never_exceeded() {
    model(3, || {
        let base = CountingAllocator::new();
        // The table, and one chunk more.
        let config = ArenaConfig::builder().chunk_size(ByteSize::new(256));
        let probe = ThreadSafeArena::with_config_in(small(), base.clone()).unwrap();
        let probe = on_thread(move || {
            probe.alloc(1_u64);
            probe.allocated_bytes()
        });
        let capacity = probe.join().unwrap();
        let config = config.capacity(ByteSize::new(capacity)).build().unwrap();
        let base = CountingAllocator::new();
        let arena = Arc::new(ThreadSafeArena::with_config_in(config, base.clone()).unwrap());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let arena = Arc::clone(&arena);
                on_thread(move || arena.try_alloc(7_u64).is_ok())
            })
            .collect();
        let made =
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&ok| ok).count();
        assert!(base.peak() <= capacity);
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        let mut arena = Arc::try_unwrap(arena).unwrap();
        assert_eq!(arena.usage().used, made * 8);
    });
}

#[test]
fn a_handles_piece_has_one_borrower() {
    model(3, || {
        let base = CountingAllocator::new();
        let arena = Arc::new(ThreadSafeArena::with_config_in(small(), base.clone()).unwrap());
        let borrow = |arena: &ThreadSafeArena<CountingAllocator>, n: u64| {
            for i in 0..2 {
                let handle = arena.handle();
                assert_eq!(*handle.alloc(n + i), n + i);
            }
        };
        let other = {
            let arena = Arc::clone(&arena);
            on_thread(move || borrow(&arena, 10))
        };
        borrow(&arena, 20);
        other.join().unwrap();
        let mut arena = Arc::try_unwrap(arena).unwrap();
        assert_eq!(arena.usage().used, 32);
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        drop(arena);
        base.assert_clean();
    });
}

#[test]
fn spare_chunks_are_taken_or_reclaimed_and_not_both() {
    model(3, || {
        let base = CountingAllocator::new();
        let mut arena = ThreadSafeArena::with_config_in(small(), base.clone()).unwrap();
        {
            let (a, b) = (arena.handle(), arena.handle());
            a.alloc(1_u64);
            b.alloc(2_u64);
        }
        arena.reset_keeping(Keep::All);
        let arena = Arc::new(arena);
        let other = {
            let arena = Arc::clone(&arena);
            on_thread(move || assert_eq!(*arena.handle().alloc(3_u64), 3))
        };
        let reclaimed = arena.reclaim(1, PressureLevel::High);
        assert_eq!(*arena.handle().alloc(4_u64), 4);
        other.join().unwrap();
        assert!(reclaimed == 0 || reclaimed == 256);
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        drop(Arc::try_unwrap(arena).unwrap());
        base.assert_clean();
    });
}

#[test]
fn typed_values_of_all_threads_are_dropped_once() {
    model(2, || {
        let shared = Arc::new(());
        let arena =
            Arc::new(ThreadSafeTypedArena::<Arc<()>, Global>::with_config(small()).unwrap());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (arena, value) = (Arc::clone(&arena), Arc::clone(&shared));
                on_thread(move || assert_eq!(**arena.alloc(value), ()))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(Arc::strong_count(&shared), 3);
        drop(Arc::try_unwrap(arena).unwrap());
        assert_eq!(Arc::strong_count(&shared), 1);
    });
}
